"""Whether an answer is right: what the gateway itself would say of it, and a little more.

An answer is put into an otherwise complete configuration that is read by `settings.load`: there
are no rules of the wizard's own for what the settings decide.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from pacsor_tasks.env_file import clean, quoted
from pacsor_tasks.environment import (
    IGNORED,
    NUMBERED,
    OF_ONE_CORE,
    todays_name,
)
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_routing import OF_ONE
from pacsor_tasks.settings_types import HOST, without_secrets
from pacsor_tasks.setup.values import Values, base_of

#: Stands for whatever has not been answered yet.
COMPLETE = {
    "API_URL": "http://unset", "TOKEN": "unset", "DESTINATIONS": "storescu,hl7,stow,folder,webhook",
    "PACS_IP": "unset", "PACS_PORT": "104", "PACS_AET": "UNSET",
    "RIS_HOST_IP": "unset", "RIS_HOST_PORT": "2575",
    "RECEIVING_APPLICATION": "UNSET", "RECEIVING_FACILITY": "UNSET",
    "STOW_URL": "http://unset", "FOLDER_PATH": "/unset", "WEBHOOK_URL": "http://unset",
    "TCR_API_URL": "http://unset", "WEBPS_PROVIDERS": "unset",
}  # fmt: skip
#: country.partner.client.site.id; `-` too, as host names have it.
CLIENT = re.compile(r"[A-Za-z]{2,8}(\.[A-Za-z0-9_-]+){4}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
#: Published ports of one host.
PORTS = {"PORT": "1040", "ADMIN_PORT": "7000", "FLOWER_PORT": "5555"}
#: The lowest that PACSOR's wizard takes, or meant to. Source: contract §2.6.
LOWEST = {"PACS_PORT": 100, "PORT": 1024}


def checked(name: str, text: str, values: Values) -> str:
    """An answer as it will be written; empty: none.

    Args:
        name: The setting, `PACS_IP_2` or the like included.
        text: What was typed.
        values: The other answers.

    Raises:
        ConfigError: What is wrong with it; a secret is not repeated.
    """
    text = cleaned(name, text)
    if not text:
        return ""
    base, number = base_of(name)
    rule = RULES.get(base)
    if rule is not None:
        text = rule(text)
    if base in LOWEST and text != values.get(name):  # a site may have it so: the gateway starts
        _high_enough(text, LOWEST[base])
    if name in PORTS:
        _free(name, text, values)
    try:
        load(_with_others(base, number) | {name: text}, dotenv=None)
    except ConfigError as exc:
        # What it lacks beside it (a certificate its key) may be the next answer.
        own = [line for line in str(exc).splitlines() if _is_of(name, line)]
        if own:
            raise ConfigError("\n".join(own)) from exc
    return text


def known_name(text: str, values: Values) -> str:
    """Today's name of a setting, or of a variable that the configuration has.

    Raises:
        ConfigError: There is no such setting.
    """
    name = todays_name(text.strip(), values)
    is_known = name in Settings.model_fields or NUMBERED.match(name) or name in IGNORED
    if name == "NUMBERED" or not (is_known or name in values):
        close = difflib.get_close_matches(name, [*Settings.model_fields, *IGNORED], n=1)
        hint = f"; did you mean {close[0]}?" if close else " (docs/settings.md has all)"
        raise ConfigError(f"{name}: no such setting{hint}")
    return name


def cleaned(name: str, text: str) -> str:
    """An answer as the gateway will read it: no blanks around it, no layer of quotes.

    Raises:
        ConfigError: There is no way to write it; it is not repeated.
    """
    while (bare := clean(text)) != text:
        text = bare
    quoted(name, text)
    return text


def problems(values: Values) -> list[str]:
    """What the gateway would say at its start, and what is missing besides; a line each."""
    found = []
    try:
        if not checked("CLIENT_NAME", values.get("CLIENT_NAME", ""), values):
            found.append("CLIENT_NAME: required, and not set")
    except ConfigError as exc:
        found.append(f"CLIENT_NAME: {exc}")
    try:
        load({name: value for name, value in values.items() if value}, dotenv=None)
    except ConfigError as exc:
        found += str(exc).splitlines()
    return found


def _is_of(name: str, line: str) -> bool:
    return re.match(rf"({name}\b|\S+ \([^)]*\b{name}\b[^)]*\): )", line) is not None


def _with_others(base: str, number: str) -> dict[str, str]:
    """The complete configuration, with a further core or destination of that number."""
    complete = dict(COMPLETE)
    if not number:
        return complete
    if base in OF_ONE_CORE:
        complete["ADDITIONAL_CORES"] = f"core{number}"
    names = [kind for kind, of_one in OF_ONE.items() if base in of_one and number != "1"]
    for kind in names:
        complete["DESTINATIONS"] += f",{kind}-{number}"
    for setting in {*OF_ONE_CORE, *(n for kind in names for n in OF_ONE[kind])} - {"DESTINATIONS"}:
        if setting in COMPLETE:
            complete[f"{setting}_{number}"] = COMPLETE[setting]
    return complete


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", bare):
            raise ConfigError(f"{text!r} is not an IPv4 address") from None
        if ":" in bare:
            raise ConfigError(f"{text!r} is not an IPv6 address (no port here)") from None
        if not HOST.fullmatch(bare):
            raise ConfigError(f"{text!r} is not a host name or address") from None
    return bare


def _port(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ConfigError(f"{text!r} is not a port (1 to 65535)")
    return str(int(text))


def _high_enough(text: str, lowest: int) -> None:
    if int(text) < lowest:
        raise ConfigError(f"{text!r} is not a port from {lowest} to 65535")


def _url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        # Not repeated, nor what Python says: `https://user:password` without its host comes here.
        raise ConfigError("is not http(s)://host:port/path") from None
    if url.username is not None:
        raise ConfigError("no user and password in a URL here")
    if not host:
        raise ConfigError(f"{without_secrets(text)!r} is not an http(s) URL")
    _host(host)
    return text.rstrip("/")


def _client(text: str) -> str:
    if not CLIENT.fullmatch(text):
        raise ConfigError(
            f"{text!r} is not country.partner.client.site.id, e.g. fr.acme.hospital.north.1"
        )
    return text


def _version(text: str) -> str:
    if not TAG.fullmatch(text):
        raise ConfigError(f"{text!r} is not an image's tag, e.g. latest or v1.0.0")
    return text


def _free(name: str, text: str, values: Values) -> None:
    for other, default in PORTS.items():
        if other != name and values.get(other, default) == text:
            raise ConfigError(f"{name}: {text} is {other} already")


RULES: Mapping[str, Callable[[str], str]] = {
    "CLIENT_NAME": _client,
    "DOCKER_IMAGE_TAG": _version,
    "API_URL": _url,
    "TCR_API_URL": _url,
    "STOW_URL": _url,
    "PACS_IP": _host,
    "RIS_HOST_IP": _host,
    "PACS_PORT": _port,
    "RIS_HOST_PORT": _port,
    **dict.fromkeys(PORTS, _port),
}

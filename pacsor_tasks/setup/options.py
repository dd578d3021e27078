"""The options of `pacsor setup` as answers; whatever is wrong with them is said at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pacsor_tasks.environment import NUMBERED
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.batch import with_answers
from pacsor_tasks.setup.masking import is_secret
from pacsor_tasks.setup.validation import known_name
from pacsor_tasks.setup.values import Values

Answer = tuple[str, str]
#: The option of each choice.
CHOICES = {
    "PRODUCT": "product",
    "ENVIRONMENT": "environment",
    "API_URL": "api_url",
    "CLIENT_NAME": "client",
}
#: A host or an IPv6 address in brackets, its zone included, and a port: judged by their questions.
ADDRESS = re.compile(r"(\[[^\[\]\s]*:[^\[\]\s]*\]|[^:@\s\[\]]+):([0-9]+)")
#: A secret in a file is a line, not a disk.
MAX_SECRET_BYTES = 65536


def with_options(values: Values, options: Mapping[str, Any]) -> Values:
    """The values after the options, by their names on the command line.

    Raises:
        ConfigError: A line for each that is wrong; secrets are not repeated.
    """
    answers: list[Answer] = [(n, options[key]) for n, key in CHOICES.items() if options[key]]
    wrong: list[str] = []

    def take(read: Callable[[str], Sequence[Answer]], given: Iterable[str]) -> None:
        for text in given:
            try:
                answers.extend(read(text))
            except ConfigError as exc:
                wrong.extend(str(exc).splitlines())

    for number, text in enumerate(options["pacs"], 1):
        take(partial(_pacs, _nth("storescu", number)), [text])
    for number, text in enumerate(options["ris"], 1):
        take(partial(_ris, _nth("hl7", number)), [text])
    # A numbered one may decide what an older name means (`todays_name`).
    names = [text.partition("=")[0] for text in options["settings"]]
    beside = {**values, **{name: name for name in names if NUMBERED.match(name)}}
    take(partial(_setting, beside), options["settings"])
    take(partial(_secret, beside), _secret_files(options))
    values = with_answers(values, answers, wrong)
    for kind, n_given in (("storescu", len(options["pacs"])), ("hl7", len(options["ris"]))):
        for number in range(1, n_given + 1):
            values = v.with_destination(values, _nth(kind, number))
    return values


def _nth(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}-{number}"


def _pacs(name: str, text: str) -> list[Answer]:
    ae_title, at, address = text.rpartition("@")
    match = ADDRESS.fullmatch(address)
    if not at or not ae_title.strip() or match is None:
        raise ConfigError(f"--pacs: {text!r} is not AET@host:port, e.g. PACS@10.0.0.5:104")
    parts = {"PACS_AET": ae_title, "PACS_IP": match[1], "PACS_PORT": match[2]}
    return [(v.suffixed(setting, name), value) for setting, value in parts.items()]


def _ris(name: str, text: str) -> list[Answer]:
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"--ris: {text!r} is not host:port, e.g. ris.example.org:2575")
    parts = {"RIS_HOST_IP": match[1], "RIS_HOST_PORT": match[2]}
    return [(v.suffixed(setting, name), value) for setting, value in parts.items()]


def _setting(beside: Values, pair: str) -> list[Answer]:
    name, value = _pair(pair, "--set")
    name = known_name(name, beside)
    if is_secret(name):
        raise ConfigError(f"{name}: give it by --secret {name}=FILE, not on the command line")
    return [(name, value)]


def _pair(pair: str, option: str) -> Answer:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise ConfigError(f"{option}: {name!r}: write NAME=VALUE")
    return name, value


def _secret_files(options: Mapping[str, Any]) -> list[str]:
    token = options["token_file"]
    return [*([f"TOKEN={token}"] if token else []), *options["secrets"]]


def _secret(beside: Values, pair: str) -> list[Answer]:
    name, file = _pair(pair, "--secret")
    name = known_name(name, beside)
    try:
        if file == "-":
            return [(name, sys.stdin.readline().strip())]
        with Path(file).open(encoding="utf-8") as opened:
            return [(name, opened.read(MAX_SECRET_BYTES).strip())]
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{name}: {file} cannot be read: {reason}") from exc

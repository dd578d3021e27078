"""The types of settings: URLs, AE titles, durations, lists; and the records of configured peers."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from pacsor_tasks import core_plugins
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.disk import Watermark
from pacsor_tasks.models import DestinationKind

SECRETS = frozenset(
    {
        "TOKEN", "PROVIDER_TOKEN", "ADMIN_TOKEN", "FLOWER_BASIC_AUTH", "token", "STOW_TOKEN",
        "STOW_PASSWORD", "WEBHOOK_TOKEN", "WEBHOOK_SECRET",
    }
)  # fmt: skip
URL = re.compile(r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?(/[^\s?#]*)?$")
COMMAND = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
AE_TITLE = re.compile(r"^[\x20-\x5b\x5d-\x7e]{1,16}$")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
NODE = re.compile(r"([^@\\]{1,16})@(\[[0-9A-Fa-f:.%]+\]|[^:@\s\[\]]+):([0-9]{1,5})")


def _url(value: str) -> str:
    shown = without_secrets(value)
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{shown!r} was given with a user or password, which a URL cannot have")
    if not URL.match(value):
        raise ValueError(f"{shown!r} is not an http(s) URL")
    return value.rstrip("/")


def without_secrets(url: str) -> str:
    """What was given as a URL, for a message: without user, password and parameters."""
    return re.sub(r"^([^/]*//|)[^/]*@", r"\1", url.partition("?")[0])


def _url_if_any(value: str) -> str:
    return value and _url(value)


def _ae_title(value: str) -> str:
    if not AE_TITLE.match(value) or not value.strip():
        raise ValueError(f"{value!r} is not an AE title (1 to 16 characters, no backslash)")
    return value.strip()


def _command(value: str) -> str:
    # Its results get a directory of that name, beside the one of the HL7 messages.
    if not COMMAND.match(value) or value == "hl7":
        raise ValueError(f"{value!r} is not an inference command (letters, digits, - and _)")
    return value


def _fullness(value: str) -> str:
    return Watermark.parse(value).text


def comma_list(value: Any) -> Any:
    if isinstance(value, str):
        if re.fullmatch(r"\s*\[\s*['\"].*['\"]\s*\]\s*", value):
            value = value.strip()[1:-1]  # a list as JSON or Python writes it
        parts = (part.strip().strip("\"'").strip() for part in value.split(","))
        return tuple(dict.fromkeys(part for part in parts if part))
    return value


def _duration(value: Any) -> Any:
    """Seconds from `90`, `90s`, `30m`, `72h` or `14d`."""
    match = (
        re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])", value) if isinstance(value, str) else None
    )
    if match is None:
        return value
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _host(value: str) -> str:
    """A host name, an IPv4 or an IPv6 address; brackets around that are dropped."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # Compose's names have underscores; all digits and dots is an address that is none.
        if not HOST.fullmatch(bare) or re.fullmatch(r"[0-9.]+", bare):
            raise ValueError(f"{without_secrets(value)!r} is not a host name or address") from None
    return bare


Fullness = Annotated[str, AfterValidator(_fullness)]
Url = Annotated[str, AfterValidator(_url)]
#: an empty one is for what has no address
UrlIfAny = Annotated[str, AfterValidator(_url_if_any)]
Host = Annotated[str, AfterValidator(_host)]
AeTitle = Annotated[str, AfterValidator(_ae_title)]
CommaList = Annotated[tuple[str, ...], BeforeValidator(comma_list)]
Command = Annotated[str, AfterValidator(_command)]
Commands = Annotated[tuple[Command, ...], BeforeValidator(comma_list)]
#: for words: `WARN` is `warn`, `fr` is `FR`
Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
CoreType = Annotated[str, AfterValidator(core_plugins.known), Lower]
Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0)]
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]


def _filter_rules(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as exc:
            raise ValueError(f"not JSON: {exc.msg} at character {exc.pos + 1}") from exc
    return value


FilterRules = Annotated[tuple[FilterRule, ...], BeforeValidator(_filter_rules)]


class CoreSettings(BaseModel):
    """One AI environment: where it is, what is asked of it, and who gets its results."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: CoreType = "milvue"
    api_url: UrlIfAny
    token: SecretStr
    #: what only its type understands
    options: dict[str, str | SecretStr] = Field(default_factory=dict)
    organization_id: str = ""
    signed_url: bool
    inference_commands: Commands
    filters: FilterRules
    no_duplicate_upload: bool
    destinations: tuple[str, ...]
    #: uploads, looks and downloads at once, over all workers; 0: any number
    concurrency: int = Field(ge=0)
    #: transfers at once in one upload or download
    upload_parallel: Count
    #: instances per second; 0: no limit
    upload_rate: float = Field(ge=0)


class TlsSettings(BaseModel):
    """TLS towards a peer."""

    model_config = ConfigDict(frozen=True)

    #: PEM files; None: the system's CAs, no certificate of ours
    ca: Path | None
    cert: Path | None
    key: Path | None
    #: name in the peer's certificate; None: the host's
    name: str | None = None
    verify: bool = True


class StorescuSettings(BaseModel):
    """One PACS that receives results by C-STORE."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: Host
    port: Port
    called_aet: AeTitle
    calling_aet: AeTitle
    connect_timeout_s: float
    timeout_s: float
    associations: int
    #: instances per second; 0: no limit
    rate: float
    #: None: no TLS
    tls: TlsSettings | None


class StowDestination(BaseModel):
    """One DICOMweb server that receives results by STOW-RS."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    token: SecretStr | None
    user: str | None
    password: SecretStr | None
    connect_timeout_s: float
    timeout_s: float
    #: instances of one request
    batch: int
    rate: float
    tls: TlsSettings


class FolderDestination(BaseModel):
    """One directory that receives results as files."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    layout: str
    rate: float


class WebhookDestination(BaseModel):
    """One URL that gets an event when results are there."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    secret: SecretStr | None
    token: SecretStr | None
    timeout_s: float
    #: of the patient's data
    include: tuple[str, ...]
    after_images: bool
    rate: float
    tls: TlsSettings


class RisSettings(BaseModel):
    """One RIS that receives ORU^R01 over MLLP."""

    model_config = ConfigDict(frozen=True)

    name: str
    host: Host
    port: Port
    timeout_s: float
    keep_alive_s: float
    #: messages per second; 0: no limit
    rate: float = 0
    #: None: no TLS
    tls: TlsSettings | None


class Node(NamedTuple):
    """An application entity and where it listens."""

    ae_title: str
    host: str
    port: int


def node(text: str, setting: str) -> Node:
    """A node from `AET@host:port`; an IPv6 address stands in square brackets.

    Raises:
        ValueError: It is not written so; names the setting.
    """
    match = NODE.fullmatch(text)
    if match is None or not match[1].strip() or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{setting}: {text!r} is not AET@host:port, e.g. CT1@10.0.0.5:104")
    return Node(match[1].strip(), match[2].strip("[]"), int(match[3]))


def kind_of(destination: str) -> DestinationKind | None:
    """What a destination's name (`storescu`, `storescu-2`, `hl7`, …) says it speaks, or None."""
    match = re.fullmatch(rf"({'|'.join(DestinationKind)})(-([2-9]|[1-9][0-9]+))?", destination)
    return DestinationKind(match[1]) if match else None


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def lines(exc: ValidationError, names: Mapping[str, str] | None = None) -> str:
    """A validation error as lines `NAME: what is wrong`; secrets are never repeated.

    Args:
        exc: What pydantic says.
        names: Fields that a setting of another name stands for.
    """
    said = []
    for error in exc.errors(include_url=False, include_context=False):
        field, *rest = (str(part) for part in error["loc"] or ("",))
        name = ".".join(((names or {}).get(field, field), *rest))
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "missing":
            message = "required, and not set"
        elif error["type"] != "value_error" and field not in SECRETS:
            message = f"{message} (it is {error['input']!r})"
        said.append(f"{name}: {message}" if name else message)
    return "\n".join(said)


def require(missing: Sequence[str], destination: str) -> None:
    """ValueError with a line for each of the settings that a destination lacks, if any."""
    if missing:
        raise ValueError("\n".join(f"{n}: required by destination {destination}" for n in missing))

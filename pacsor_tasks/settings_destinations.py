"""The settings of the destinations that are no RIS: PACS, DICOMweb, folder, webhook.

Each may be given for one destination alone: `PACS_TLS_2` is that of `storescu-2`, which takes what
is not given so from the plain setting; but not what is in `OWN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic import model_validator as validator

from pacsor_tasks.dicom.sop_classes import uids_of
from pacsor_tasks.environment import is_true
from pacsor_tasks.settings_types import (
    AeTitle,
    CommaList,
    Commands,
    Count,
    Host,
    Port,
    Seconds,
    Url,
    comma_list,
    lines,
    without_secrets,
)

#: What FOLDER_LAYOUT may name.
LAYOUT_NAMES = frozenset({"study_uid", "sop_uid", "core", "command", "run_id"})
#: What WEBHOOK_INCLUDE may name.
PATIENT_FIELDS = (
    "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex",
    "accession_number",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LAYOUT = re.compile(r"[A-Za-z0-9_./{}-]+")


def _sop_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        uids_of(name)
    return names


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path")
    return path


def _layout(text: str) -> str:
    parts, named = PurePosixPath(text).parts, set(_PLACEHOLDER.findall(text))
    if not _LAYOUT.fullmatch(text) or "/" in parts[:1] or {".", ".."} & set(parts):
        raise ValueError(f"{text!r} is not a relative path like {{study_uid}}/{{sop_uid}}.dcm")
    rest = _PLACEHOLDER.sub("", text)
    if named - LAYOUT_NAMES or "{" in rest or "}" in rest:
        shown = ", ".join(f"{{{name}}}" for name in sorted(LAYOUT_NAMES))
        raise ValueError(f"{text!r}: the placeholders are {shown}")
    if "{sop_uid}" not in parts[-1]:
        raise ValueError(f"{text!r}: the file's name needs {{sop_uid}}")
    if any(part.startswith(".") for part in parts):
        raise ValueError(f"{text!r}: names that begin with a dot are for what is not whole yet")
    return text


def callback_url(text: str) -> str:
    """A URL that events are posted to; it may have a query.

    Raises:
        ValueError: It is none.
    """
    shown = without_secrets(text)
    try:
        split = urlsplit(text)
        usable = split.scheme in {"http", "https"} and bool(split.hostname)
        _ = split.port
    except ValueError:
        usable = False
    if not usable or not text.isascii() or " " in text:
        raise ValueError(f"{shown!r} is not an http(s) URL to post to")
    if "@" in split.netloc:
        raise ValueError(
            f"{shown!r} was given with a user or password, which a URL cannot have here: a webhook"
            " has WEBHOOK_TOKEN"
        )
    if split.fragment:
        raise ValueError(f"{shown!r}: what follows # is never sent; leave it out")
    return text


SopClasses = Annotated[CommaList, AfterValidator(_sop_classes)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Layout = Annotated[str, AfterValidator(_layout)]
CallbackUrl = Annotated[str, AfterValidator(callback_url)]
Rate = Annotated[float, Field(ge=0)]
PatientField = Literal[
    "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex",
    "accession_number",
]  # fmt: skip
PatientFields = Annotated[tuple[PatientField, ...], BeforeValidator(comma_list)]
_RATE = "Per second, over all workers: {}; 0: no limit"
_CORES = "Only results of these cores (core, core1, …); none: of all that deliver there"
_COMMANDS = "Only results of these inference commands; none: of all"
_SOP_CLASSES = (
    "Only results of these SOP classes: SR, SC, GSPS, SEG, KO, PDF, CR, DX, keywords or UIDs; none:"
    " all"
)


class PacsSettings(BaseModel):
    """Destinations that speak DICOM: `storescu`, `storescu-2`, …."""

    PACS_IP: Host | None = Field(
        None, description="PACS of `storescu`; PACS_IP_2 is the one of `storescu-2`, …"
    )
    PACS_PORT: Port | None = Field(None, description="Its DICOM port")
    PACS_AET: AeTitle | None = Field(None, description="Its AE title")
    MILVUE_AET: AeTitle = Field("MILVUE", description="Calling AE title towards the PACS")
    PACS_TLS: bool = Field(False, description="DICOM over TLS 1.2 or newer")
    PACS_TLS_CA: Path | None = Field(
        None, description="PEM file of the CAs that vouch for the PACS; unset: the system's"
    )
    PACS_TLS_CERT: Path | None = Field(
        None, description="PEM file of our certificate and its chain, for a PACS that asks for one"
    )
    PACS_TLS_KEY: Path | None = Field(None, description="PEM file of its private key")
    PACS_TLS_NAME: str | None = Field(
        None, description="Name in the PACS's certificate, where that is not PACS_IP"
    )
    PACS_TLS_VERIFY: bool = Field(
        True, description="Check the PACS's certificate and its name; false trusts whoever answers"
    )
    PACS_CONNECT_TIMEOUT: Seconds = Field(
        10, gt=0, description="Seconds to connect and associate with a PACS"
    )
    PACS_TIMEOUT: Seconds = Field(
        60, gt=0, description="Seconds to wait for a PACS's answer to one instance"
    )
    PACS_ASSOCIATIONS: Count = Field(
        4,
        description="Associations of one delivery to a PACS that answers later than 20 ms; a faster"
        " one gets one",
    )
    PACS_RATE: Rate = Field(0, description=_RATE.format("instances to the PACS"))
    PACS_CORES: CommaList = Field((), description=_CORES)
    PACS_COMMANDS: Commands = Field((), description=_COMMANDS)
    PACS_SOP_CLASSES: SopClasses = Field((), description=_SOP_CLASSES)

    @validator(mode="after")
    def _whole_pacs(self) -> PacsSettings:
        _together("PACS_TLS", self.PACS_TLS_CERT, self.PACS_TLS_KEY)
        given = self.PACS_TLS_CA or self.PACS_TLS_CERT or self.PACS_TLS_NAME
        if not self.PACS_TLS and (given or not self.PACS_TLS_VERIFY):
            raise ValueError(
                "PACS_TLS: PACS_TLS_CA, _CERT, _NAME and _VERIFY mean nothing without it"
            )
        return self


class StowSettings(BaseModel):
    """Destinations that speak DICOMweb: `stow`, `stow-2`, …."""

    STOW_URL: Url | None = Field(
        None, description="DICOMweb root of `stow`; instances are posted to its /studies"
    )
    STOW_TOKEN: SecretStr | None = Field(None, description="Its bearer token")
    STOW_USER: str | None = Field(None, description="User, for HTTP basic authentication")
    STOW_PASSWORD: SecretStr | None = Field(None, description="… and password")
    STOW_TLS_CA: Path | None = Field(
        None, description="PEM file of the CAs that vouch for it; unset: those of the API"
    )
    STOW_TLS_CERT: Path | None = Field(None, description="PEM file of our certificate")
    STOW_TLS_KEY: Path | None = Field(None, description="PEM file of its private key")
    STOW_TLS_VERIFY: bool = Field(
        True, description="Check its certificate; false trusts whoever answers"
    )
    STOW_CONNECT_TIMEOUT: Seconds = Field(10, gt=0, description="Seconds to connect")
    STOW_TIMEOUT: Seconds = Field(
        60, gt=0, description="Seconds without progress while instances are sent, and to the answer"
    )
    STOW_BATCH: Count = Field(20, description="Instances of one request")
    STOW_RATE: Rate = Field(0, description=_RATE.format("instances to the server"))
    STOW_CORES: CommaList = Field((), description=_CORES)
    STOW_COMMANDS: Commands = Field((), description=_COMMANDS)
    STOW_SOP_CLASSES: SopClasses = Field((), description=_SOP_CLASSES)

    @validator(mode="after")
    def _whole_stow(self) -> StowSettings:
        _together("STOW_TLS", self.STOW_TLS_CERT, self.STOW_TLS_KEY)
        if (self.STOW_USER is None) != (self.STOW_PASSWORD is None):
            raise ValueError("STOW_USER: STOW_USER and STOW_PASSWORD belong together")
        if self.STOW_USER is not None and self.STOW_TOKEN is not None:
            raise ValueError("STOW_TOKEN: either a token or STOW_USER, not both")
        return self


class FolderSettings(BaseModel):
    """Destinations that are a directory: `folder`, `folder-2`, …."""

    FOLDER_PATH: AbsolutePath | None = Field(
        None, description="Directory of `folder`, which must be there; results become files in it"
    )
    FOLDER_LAYOUT: Layout = Field(
        "{study_uid}/{sop_uid}.dcm",
        description="Path of a result in it; also {core}, {command}, {run_id}",
    )
    FOLDER_RATE: Rate = Field(0, description=_RATE.format("files"))
    FOLDER_CORES: CommaList = Field((), description=_CORES)
    FOLDER_COMMANDS: Commands = Field((), description=_COMMANDS)
    FOLDER_SOP_CLASSES: SopClasses = Field((), description=_SOP_CLASSES)


class WebhookSettings(BaseModel):
    """Destinations that get an event in JSON: `webhook`, `webhook-2`, …."""

    WEBHOOK_URL: CallbackUrl | None = Field(None, description="Where `webhook` gets its events")
    WEBHOOK_SECRET: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None, description="Signs each event by HMAC-SHA256, at least 16 characters"
    )
    WEBHOOK_TOKEN: SecretStr | None = Field(None, description="Bearer token sent along")
    WEBHOOK_TLS_CA: Path | None = Field(
        None, description="PEM file of the CAs that vouch for it; unset: those of the API"
    )
    WEBHOOK_TLS_CERT: Path | None = Field(None, description="PEM file of our certificate")
    WEBHOOK_TLS_KEY: Path | None = Field(None, description="PEM file of its private key")
    WEBHOOK_TLS_VERIFY: bool = Field(
        True, description="Check its certificate; false trusts whoever answers"
    )
    WEBHOOK_TIMEOUT: Seconds = Field(
        15, gt=0, description="Seconds to connect, and again for the answer; plain callbacks too"
    )
    WEBHOOK_INCLUDE: PatientFields = Field(
        (),
        description="Patient data in the event, none by default: " + ", ".join(PATIENT_FIELDS),
    )
    WEBHOOK_AFTER_IMAGES: bool = Field(
        False, description="Send the event only when the images of its run are at every PACS"
    )
    WEBHOOK_RATE: Rate = Field(0, description=_RATE.format("events"))
    WEBHOOK_CORES: CommaList = Field((), description=_CORES)
    WEBHOOK_COMMANDS: Commands = Field((), description=_COMMANDS)
    WEBHOOK_SOP_CLASSES: SopClasses = Field((), description=_SOP_CLASSES)

    @validator(mode="after")
    def _whole_webhook(self) -> WebhookSettings:
        _together("WEBHOOK_TLS", self.WEBHOOK_TLS_CERT, self.WEBHOOK_TLS_KEY)
        return self


class DestinationSettings(WebhookSettings, FolderSettings, StowSettings, PacsSettings):
    """Everything of all of them."""


#: What a further destination does not take from the first: where it is, its keys, its conditions.
OWN = frozenset(
    {
        "PACS_IP", "PACS_PORT", "PACS_AET", "STOW_URL", "STOW_TOKEN", "STOW_USER", "STOW_PASSWORD",
        "FOLDER_PATH", "WEBHOOK_URL", "WEBHOOK_SECRET", "WEBHOOK_TOKEN", "WEBHOOK_INCLUDE",
    }
    | {"RIS_CORES", "RIS_COMMANDS"}
    | {
        name
        for name in DestinationSettings.model_fields
        if name.endswith(("_CORES", "_COMMANDS", "_SOP_CLASSES"))
    }
)  # fmt: skip

T = TypeVar("T", bound=BaseModel)


def values_of(kind: type[T], settings: object, numbered: Mapping[str, str], suffix: str) -> T:
    """What counts for one destination, by the names of the plain settings.

    Args:
        kind: PacsSettings, StowSettings, ….
        settings: The gateway's.
        numbered: Those of one destination or core alone, by their full names.
        suffix: `_2` of `storescu-2`; empty for `storescu`.

    Raises:
        ValueError: Naming the setting that is wrong.
    """
    values: dict[str, Any] = {}
    # Whose own switch is off has no use for the files of the first one's TLS.
    is_plain = not is_true(numbered, f"PACS_TLS{suffix}", default=True)
    for name in kind.model_fields:
        if not suffix:
            values[name] = getattr(settings, name)
        elif name + suffix in numbered:
            values[name] = numbered[name + suffix]
        elif name not in OWN and not (is_plain and name.startswith("PACS_TLS_")):
            values[name] = getattr(settings, name)
    try:
        return kind(**values)
    except ValidationError as exc:
        names = sorted(kind.model_fields, key=len, reverse=True)
        raise ValueError(re.sub(rf"\b({'|'.join(names)})\b", rf"\1{suffix}", lines(exc))) from exc


def _together(prefix: str, certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        missing = "KEY" if key is None else "CERT"
        raise ValueError(f"{prefix}_{missing}: certificate and key belong together")

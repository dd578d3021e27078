"""The settings of the HL7 destinations: what stands in their messages, how these are sent.

Each may be given for one destination alone: `RECEIVING_APPLICATION_2` is that of `hl7-2`, which
takes what is not given so from the plain setting.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pacsor_tasks import env_file
from pacsor_tasks.environment import ALIASES, LEGACY
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings_types import (
    CommaList,
    Commands,
    Lower,
    Port,
    Seconds,
    Upper,
    Url,
    lines,
)

#: A day: more would be a mistake, and much more overflows what waits.
MAX_WAIT_S = 86400
STEM = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Stem = Annotated[str, Field(pattern=STEM)]
#: What finds, and what measures (contract §1.2).
Detections = Literal["smarturgences", "detection", "smartchest", "trauma"]
Measures = Literal["smartxpert", "measures"]
DETECTIONS: tuple[str, ...] = get_args(Detections)
MEASURES: tuple[str, ...] = get_args(Measures)


class RoutingSettings(BaseModel):
    """Which results the HL7 destinations are told of, and how fast."""

    RIS_RATE: Annotated[float, Field(ge=0)] = Field(
        0, description="Per second, over all workers: messages to the RIS; 0: no limit"
    )
    RIS_CORES: CommaList = Field(
        (), description="Only results of these cores (core, core1, …); none: of all"
    )
    RIS_COMMANDS: Commands = Field(
        (),
        description="Only runs with results of one of these inference commands; none: all",
    )


class Hl7Settings(RoutingSettings):
    """Everything of the HL7 destinations."""

    ENABLE_HL7: bool = Field(True, description="Master switch of the HL7 destinations")
    RIS_HOST_IP: str | None = Field(
        None, description="RIS of `hl7`; RIS_HOST_IP_2 is the one of `hl7-2`, …"
    )
    RIS_HOST_PORT: Port | None = Field(None, description="Its MLLP port")
    RIS_TIMEOUT: Seconds = Field(
        15,
        gt=0,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds to connect to the RIS, and again for its ACK",
    )
    RIS_KEEP_ALIVE: Seconds = Field(
        10,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds that a connection is kept for the next message; 0: one per message,"
        " for a RIS that serves one connection at a time",
    )
    RIS_TLS: bool = Field(False, description="MLLP over TLS 1.2 or newer")
    RIS_TLS_CA: Path | None = Field(
        None, description="PEM file of the CAs that vouch for the RIS; unset: the system's"
    )
    RIS_TLS_CERT: Path | None = Field(
        None, description="PEM file of our certificate and its chain, for a RIS that asks for one"
    )
    RIS_TLS_KEY: Path | None = Field(None, description="PEM file of its private key")
    RIS_TLS_NAME: str | None = Field(
        None, description="Name in the RIS's certificate, where that is not RIS_HOST_IP"
    )
    SENDING_APPLICATION: str = Field("MILVUE_GATEWAY", description="MSH-3")
    SENDING_FACILITY: str = Field("MILVUE", description="MSH-4")
    RECEIVING_APPLICATION: str = Field("", description="MSH-5; required by an HL7 destination")
    RECEIVING_FACILITY: str = Field("", description="MSH-6; required by an HL7 destination")
    HL7_LANGUAGE: Annotated[Literal["FR", "EN"], Upper] = Field(
        "FR", description="Language of the findings, and MSH-19"
    )
    PROC_ID: Annotated[Literal["P", "T", "D"], Upper] = Field("P", description="MSH-11")
    HL7_CONFORMANT: bool = Field(
        False,
        description="The standard's own forms in place of PACSOR's (docs/hl7.md lists them)",
    )
    HL7_SWAP_NAME_AFFIXES: bool = Field(
        False, description="PID-5: DICOM's …^prefix^suffix as HL7's …^suffix^prefix"
    )
    HL7_INCOMPLETE_IDENTITY: Annotated[Literal["send", "hold"], Lower] = Field(
        "send",
        description="A study without PatientID or AccessionNumber: `send` leaves the fields empty,"
        " `hold` quarantines the message",
    )
    HL7_AFTER_IMAGES: bool = Field(
        False, description="Send a message only when the images of its run are at every PACS"
    )
    DEF_PID_ISSUER: str = Field(
        "MILVUE", description="Assigning authority when IssuerOfPatientID is absent"
    )
    POPULATE_PID: bool = Field(True, description="Send PID")
    POPULATE_PV1: bool = Field(False, description="Send an empty PV1")
    POPULATE_ORC: bool = Field(True, description="Send ORC")
    POPULATE_ZDS: bool = Field(True, description="Send ZDS")
    SIUID_IN_OBX1: bool = Field(True, description="Send the OBX with the StudyInstanceUID")
    OBX_UPPERCASE: bool = Field(True, description="Report section names in capitals")
    INCLUDE_DETECTIONS_FINDINGS: bool = Field(True, description="Put the detections in the message")
    DETECTION_INFERENCE_COMMAND: Detections = Field(
        "smarturgences", description="Where the detections come from"
    )
    INCLUDE_MEASURES_FINDINGS: bool = Field(True, description="Put the measures in the message")
    MEASURES_INFERENCE_COMMAND: Measures = Field(
        "smartxpert", description="Where the measures come from"
    )
    HTTP_TIMEOUT: Seconds = Field(
        600,
        le=MAX_WAIT_S,
        allow_inf_nan=False,
        description="Seconds that JSON results may stay `running`; then the message goes without",
    )
    INCLUDE_TECHCARE_REPORT: bool = Field(
        False, description="Fetch the TechCare report from TCR_API_URL and send it along"
    )
    TECHCARE_REPORT_FORMAT: Annotated[Literal["B64", "PLAIN", "HTML", "HTML_SPLIT"], Upper] = Field(
        "B64", description="Form of the report's OBX"
    )
    TCR_API_URL: Url | None = Field(None, description="Base URL of the TechCare Report API")
    HL7_CONF_DIR: Path = Field(
        Path("conf"), description="Directory of the templates and JSON configurations"
    )
    LOAD_TEMPLATE_AT_INIT: Stem | None = Field(
        None, description="Stem of a template (.py) in HL7_CONF_DIR, read and never executed"
    )
    LOAD_CONFIG_AT_INIT: Stem | None = Field(
        None, description="Stem of a configuration (.json) in HL7_CONF_DIR; it wins over all this"
    )

    @model_validator(mode="after")
    def _whole_hl7(self) -> Hl7Settings:
        if (self.RIS_TLS_CERT is None) != (self.RIS_TLS_KEY is None):
            missing = "KEY" if self.RIS_TLS_KEY is None else "CERT"
            raise ValueError(f"RIS_TLS_{missing}: certificate and key belong together")
        if not self.RIS_TLS and (self.RIS_TLS_CA or self.RIS_TLS_CERT or self.RIS_TLS_NAME):
            raise ValueError("RIS_TLS: RIS_TLS_CA, _CERT and _NAME mean nothing without it")
        return self


class Hl7Values(Hl7Settings):
    """The settings of one destination by themselves."""

    model_config = ConfigDict(frozen=True, extra="ignore")


#: For all destinations at once.
SHARED = frozenset({"ENABLE_HL7", "HL7_CONF_DIR", "LOAD_CONFIG_AT_INIT", "TCR_API_URL"})
PER_DESTINATION = tuple(name for name in Hl7Settings.model_fields if name not in SHARED)
#: What a further destination does not take from the first.
OWN = {"RIS_HOST_IP": None, "RIS_HOST_PORT": None, "RIS_CORES": (), "RIS_COMMANDS": ()}
#: What a configuration file may not change: where messages go, and what is read at start.
FIXED = frozenset(
    {*SHARED, *OWN, "LOAD_TEMPLATE_AT_INIT", "RIS_RATE"}
    | {name for name in PER_DESTINATION if name.startswith("RIS_TLS")}
) - {"ENABLE_HL7"}  # fmt: skip
#: PACSOR's keys without meaning here: the log level is the gateway's.
WITHOUT_EFFECT = frozenset({"LOG_LEVEL", "GCP_LOGS"})
# JSON can carry half of a surrogate pair, which neither a message nor a page can.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUMBERED = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*?)_(?P<number>[2-9]|[1-9][0-9]+)")


def loadable(given: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration file's keys under their settings' names, every value checked.

    Args:
        given: PACSOR's keys (`SEN_APP`, `HL7_LANG`, …) or the settings' own names; with `_2` for
            the destination `hl7-2`. Texts may carry blanks or one layer of quotes around them, as
            in the environment.

    Raises:
        ConfigError: One line per key that is unknown, not to be changed here, given twice or has a
            wrong value.
    """
    errors: list[str] = []
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in WITHOUT_EFFECT:
            continue
        try:
            name = _setting(key)
            checked = _checked(key, name, value)
        except ConfigError as exc:
            errors.append(str(exc))
            continue
        if name in found:
            errors.append(f"{key}: given twice ({name} is the same)")
        found[name] = checked
    if errors:
        raise ConfigError("\n".join(errors))
    return found


def strangers(given: Iterable[str], suffixes: Collection[str]) -> list[str]:
    """A line for each key of a destination that is not there: it would be without effect.

    Args:
        given: The keys of a configuration file.
        suffixes: Of the destinations there are: `_2` of `hl7-2`.
    """
    own = ((key, base_of(key)[1]) for key in given)
    return [
        f"{key}: there is no destination hl7-{suffix.removeprefix('_')}"
        for key, suffix in own
        if suffix and suffix not in suffixes
    ]


def base_of(name: str) -> tuple[str, str]:
    """A setting's name and its suffix: `POPULATE_PID_2` is (`POPULATE_PID`, `_2`)."""
    match = _NUMBERED.fullmatch(name)
    known = match is not None and match["name"] in {*Hl7Settings.model_fields, *ALIASES, *LEGACY}
    return (match["name"], f"_{match['number']}") if match and known else (name, "")


def destination_values(
    settings: Mapping[str, Any],
    numbered: Mapping[str, Any],
    loaded: Mapping[str, Any],
    suffix: str,
) -> Hl7Values:
    """What counts for one destination; the later wins.

    The plain setting, the loaded configuration, the destination's own setting, and the loaded
    configuration's for this destination.

    Args:
        settings: The plain settings by name.
        numbered: Those of one destination or core alone, by their full names.
        loaded: From `loadable`.
        suffix: `_2` of `hl7-2`; empty for `hl7`.

    Raises:
        ValueError: Naming the setting that is wrong.
    """
    values = {name: settings[name] for name in Hl7Settings.model_fields}
    values |= {name: value for name, value in loaded.items() if name in values}
    if suffix:
        for source in (numbered, loaded):
            own = {name: source[name + suffix] for name in values if name + suffix in source}
            values |= {name: value for name, value in own.items() if name not in SHARED}
        for name, default in OWN.items():
            values[name] = numbered.get(name + suffix, default)
    try:
        return Hl7Values(**values)
    except ValidationError as exc:
        names = {name: name + suffix for name in PER_DESTINATION}
        raise ValueError(lines(exc, names)) from exc


def _setting(key: str) -> str:
    if _SURROGATE.search(key):
        raise ConfigError(f"{key!a}: no setting of the HL7 messages")
    plain, suffix = base_of(key)
    name = ALIASES.get(plain) or LEGACY.get(plain) or plain
    if name not in Hl7Settings.model_fields:
        raise ConfigError(f"{key}: no setting of the HL7 messages")
    if name in FIXED or (suffix and name in SHARED):
        raise ConfigError(f"{key}: cannot be changed by a configuration file")
    return name + suffix


def _checked(key: str, name: str, value: Any) -> Any:
    plain, _ = base_of(name)
    if value is None or isinstance(value, list | dict):
        raise ConfigError(f"{key}: a text, number or boolean is expected")
    if isinstance(value, str):
        value = env_file.clean(value)
        if _SURROGATE.search(value):
            raise ConfigError(f"{key}: half of a character, which no message can carry")
    default = Hl7Settings.model_fields[plain].default
    if isinstance(value, bool) != isinstance(default, bool) and not isinstance(value, str):
        raise ConfigError(f"{key}: {'true or false' if isinstance(default, bool) else 'no boolean'}"
                          " is expected")  # fmt: skip
    try:
        return getattr(Hl7Values(**{plain: value}), plain)
    except ValidationError as exc:
        raise ConfigError(lines(exc, {plain: key})) from exc

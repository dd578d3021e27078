"""Reads the environment and `.env` as sites write them: stray quotes, old and numbered names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pacsor_tasks import env_file

#: Old name → the name used now. Contract §2.2 (container names, legacy names, documented typos).
ALIASES: dict[str, str] = {
    "SEN_APP": "SENDING_APPLICATION",
    "SEN_FAC": "SENDING_FACILITY",
    "REC_APP": "RECEIVING_APPLICATION",
    "REC_FAC": "RECEIVING_FACILITY",
    "RIS_HOST": "RIS_HOST_IP",
    "RIS_PORT": "RIS_HOST_PORT",
    "HL7_LANG": "HL7_LANGUAGE",
    "INCLUDE_REPORT": "INCLUDE_TECHCARE_REPORT",
    "REPORT_FORMAT": "TECHCARE_REPORT_FORMAT",
    "LOG_LEVEL": "PACSOR_LOG_LEVEL",
    "MEASURE_INFERENCE_COMMAND": "MEASURES_INFERENCE_COMMAND",
    "MEASURE": "MEASURES_INFERENCE_COMMAND",
    "PROVIDERS": "WEBPS_PROVIDERS",
}
LEGACY: dict[str, str] = {
    "INCLUDEREPORT": "INCLUDE_TECHCARE_REPORT",
    "REPORTFORMAT": "TECHCARE_REPORT_FORMAT",
    "DEFPIDISSUER": "DEF_PID_ISSUER",
    "POPULATEPID": "POPULATE_PID",
    "POPULATEPV1": "POPULATE_PV1",
    "POPULATEORC": "POPULATE_ORC",
    "POPULATEZDS": "POPULATE_ZDS",
    "SIUIDINOBX1": "SIUID_IN_OBX1",
    "OBXUPPERCASE": "OBX_UPPERCASE",
    "INCLUDE_SMARTU_FINDINGS": "INCLUDE_DETECTIONS_FINDINGS",
    "INCLUDE_SMARTXPERT_FINDINGS": "INCLUDE_MEASURES_FINDINGS",
    "INCLUDE_MEASURE_FINDINGS": "INCLUDE_MEASURES_FINDINGS",
    "DICOM_FILTER": "DICOM_FILTERS",
    "INTEGRATOR_URL_2": "API_URL_1",
    "TOKEN_2": "TOKEN_1",
    "REPORT_URL": "TCR_API_URL",
    "TECHCARE_REPORT_URL": "TCR_API_URL",
    "HL7_TCR_URL": "TCR_API_URL",
    "REPORTOR_URL": "TCR_API_URL",
    "WEBPS_REPORTOR_URL": "TCR_API_URL",
}
OLD = ALIASES | LEGACY
REMOVED = frozenset(
    {"USE_PREDICTION_ID", "CONFIG_FILENAME", "TEMPLATE_NAME", "TEMPLATES_ACCESS_TOKEN"}
)
#: PACSOR's own names that mean nothing here, but stand in its `.env` files.
IGNORED = frozenset(
    {
        "DOCKER_IMAGE_TAG", "COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES",
        "POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_PORT",
        "GOMAXPROCS", "PROFILER", "GCP_LOGS", "WORKERS", "HL7_LOG_LEVEL", "CORE_HOST",
        "PUBSUBOR_URL", "CORE_URL", "CALLBACK_URL", "CLIENT_NAME", "DEBUG", "ISLOCALOR",
        "PACSOR_VERSION", "PACSOR_IMAGE", "PYTHON_IMAGE", "REDIS_IMAGE", "POSTGRES_IMAGE",
        "ENV_FILE", "ADMIN_BIND", "FLOWER_BIND",
    }
)  # fmt: skip
#: Settings that a further core or destination may have of its own, e.g. `API_URL_1`.
OF_ONE_CORE = (
    "API_URL", "TOKEN", "SIGNED_URL", "CALLBACK_URLS", "DESTINATIONS", "INFERENCE_COMMANDS",
    "DICOM_FILTERS", "NO_DUPLICATE_UPLOAD", "CORE_TYPE", "PROVIDER_TOKEN", "ORGANIZATION_ID",
    "TCR_API_URL", "CORE_CONCURRENCY", "UPLOAD_PARALLEL", "UPLOAD_RATE",
)  # fmt: skip
OF_ONE_PACS = (
    "PACS_IP", "PACS_PORT", "PACS_AET", "MILVUE_AET", "PACS_TLS", "PACS_TLS_CA", "PACS_TLS_CERT",
    "PACS_TLS_KEY", "PACS_TLS_NAME", "PACS_TLS_VERIFY", "PACS_CONNECT_TIMEOUT", "PACS_TIMEOUT",
    "PACS_ASSOCIATIONS", "PACS_RATE", "PACS_CORES", "PACS_COMMANDS", "PACS_SOP_CLASSES",
)  # fmt: skip
OF_ONE_STOW = (
    "STOW_URL", "STOW_TOKEN", "STOW_USER", "STOW_PASSWORD", "STOW_TLS_CA", "STOW_TLS_CERT",
    "STOW_TLS_KEY", "STOW_TLS_VERIFY", "STOW_CONNECT_TIMEOUT", "STOW_TIMEOUT", "STOW_BATCH",
    "STOW_RATE", "STOW_CORES", "STOW_COMMANDS", "STOW_SOP_CLASSES",
)  # fmt: skip
OF_ONE_FOLDER = (
    "FOLDER_PATH", "FOLDER_LAYOUT", "FOLDER_RATE", "FOLDER_CORES", "FOLDER_COMMANDS",
    "FOLDER_SOP_CLASSES",
)  # fmt: skip
OF_ONE_WEBHOOK = (
    "WEBHOOK_URL", "WEBHOOK_SECRET", "WEBHOOK_TOKEN", "WEBHOOK_TLS_CA", "WEBHOOK_TLS_CERT",
    "WEBHOOK_TLS_KEY", "WEBHOOK_TLS_VERIFY", "WEBHOOK_TIMEOUT", "WEBHOOK_INCLUDE",
    "WEBHOOK_AFTER_IMAGES", "WEBHOOK_RATE", "WEBHOOK_CORES", "WEBHOOK_COMMANDS",
    "WEBHOOK_SOP_CLASSES",
)  # fmt: skip
OF_ONE_RIS = (
    "RIS_HOST_IP", "RIS_HOST_PORT", "RIS_TIMEOUT", "RIS_KEEP_ALIVE", "RIS_TLS", "RIS_TLS_CA",
    "RIS_TLS_CERT", "RIS_TLS_KEY", "RIS_TLS_NAME", "RIS_RATE", "RIS_CORES", "RIS_COMMANDS",
    "SENDING_APPLICATION", "SENDING_FACILITY",
    "RECEIVING_APPLICATION", "RECEIVING_FACILITY", "HL7_LANGUAGE", "PROC_ID", "HL7_CONFORMANT",
    "HL7_SWAP_NAME_AFFIXES", "HL7_INCOMPLETE_IDENTITY", "HL7_AFTER_IMAGES", "DEF_PID_ISSUER",
    "POPULATE_PID", "POPULATE_PV1", "POPULATE_ORC", "POPULATE_ZDS", "SIUID_IN_OBX1",
    "OBX_UPPERCASE", "INCLUDE_DETECTIONS_FINDINGS", "DETECTION_INFERENCE_COMMAND",
    "INCLUDE_MEASURES_FINDINGS", "MEASURES_INFERENCE_COMMAND", "HTTP_TIMEOUT",
    "INCLUDE_TECHCARE_REPORT", "TECHCARE_REPORT_FORMAT", "LOAD_TEMPLATE_AT_INIT",
)  # fmt: skip
OF_ONE = (
    *OF_ONE_CORE, *OF_ONE_PACS, *OF_ONE_RIS, *OF_ONE_STOW, *OF_ONE_FOLDER, *OF_ONE_WEBHOOK,
)  # fmt: skip
#: Whether every variable of the environment is meant for the gateway, as those in `.env` are.
STRICT = "PACSOR_STRICT_ENVIRONMENT"
_BOOLEAN = TypeAdapter(bool)
NUMBERED = re.compile(rf"^({'|'.join(OF_ONE)})_([1-9][0-9]*)$")


def read_environment(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")
) -> dict[str, str]:
    """The effective variables: `.env` of the working directory, overridden by the environment.

    Returns:
        Values without surrounding blanks or one layer of stray quotes (PACSOR's defaults carried
        literal quotes until 2.10), under the names they were written with. Empty ones are left out.

    Raises:
        ConfigError: `.env` cannot be read.
    """
    ours = os.environ if environ is None else environ
    if dotenv is None or not dotenv.is_file():
        return _cleaned(ours)
    in_file = {name: value for name, value in env_file.read(dotenv).values.items() if value}
    # A setting may have one name in the file and another in the environment, which wins: an empty
    # variable takes the file's value away.
    set_anew = {todays_name(name, ours) for name in ours}
    kept = {k: v for k, v in in_file.items() if todays_name(k, in_file) not in set_anew}
    return kept | _cleaned(ours)


def todays_name(name: str, values: Mapping[str, str]) -> str:
    """The name of a setting that may be written by an older one.

    `TOKEN_2` was the token of the second core until the second one was `core1`: it is the third's
    where that has a URL.
    """
    if name == "TOKEN_2" and "API_URL_2" in values:
        return name
    today = ALIASES.get(name) or LEGACY.get(name)
    if today is not None:
        return today
    stem, number = _split(name)
    meant = ALIASES.get(stem)
    return f"{meant}_{number}" if number and meant in OF_ONE else name


def is_true(values: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """A boolean as people write it; the default when it is not given or is none."""
    try:
        return _BOOLEAN.validate_python(values.get(name, default))
    except ValidationError:
        return default


def normalise(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Old names turned into today's; a name written both ways keeps the new one.

    Returns:
        The values under today's names, and a warning line for every legacy or removed name met.
    """
    renamed: dict[str, str] = {}
    warnings: list[str] = []
    for name, value in values.items():
        today = todays_name(name, values)
        if name in LEGACY and today != name:
            warnings.append(f"{name} is an old name: write {today}")
        if name in REMOVED:
            warnings.append(f"{name} no longer exists and is ignored")
            continue
        if today == name:
            renamed[name] = value
        elif today not in values:
            is_report = today == "TCR_API_URL"
            renamed[today] = value.rstrip("/").removesuffix("/report") if is_report else value
    return renamed, warnings


def overruled(values: Mapping[str, str], older: Mapping[str, str] | None = None) -> dict[str, str]:
    """Names that count for nothing, since the setting is there by another → that other name.

    As `normalise` decides: the new name wins, of several old ones the last.

    Args:
        values: As they were written.
        older: Further names → those of settings.
    """
    today = {name: todays_name((older or {}).get(name, name), values) for name in values}
    counting = {setting: setting if setting in values else name for name, setting in today.items()}
    return {name: counting[today[name]] for name in values if counting[today[name]] != name}


def misspelt(
    values: Mapping[str, str], known: Iterable[str], dotenv: Path | None = Path(".env")
) -> tuple[list[str], list[str]]:
    """Names that nobody reads and that look like one of ours.

    A variable that starts with `PACSOR_`, or any name in `.env` close to a setting, is an error: a
    silent default would be worse than not starting. The process environment holds names of other
    programs, so a near miss there is only a warning; but in a container, where `.env` has become
    the environment (PACSOR_STRICT_ENVIRONMENT).

    Returns:
        (errors, warnings), one sentence each.
    """
    names = set(known) | set(ALIASES) | set(LEGACY) | REMOVED | IGNORED
    file = _file(dotenv)
    in_file = file.values
    errors = [f"{dotenv}, line {number}: not NAME=value, or a quote without its end"
              for number in file.unreadable]  # fmt: skip
    warnings = [f"{dotenv}: {said}" for said in file.warnings if not said.startswith("line ")]
    is_strict = is_true(values, STRICT)
    for name in values:
        if name in names or NUMBERED.match(name):
            continue
        meant = _meant(name, names)
        hint = f"; did you mean {meant}?" if meant else ""
        if name.startswith("PACSOR_") or (meant and is_strict and name not in in_file):
            errors.append(f"{name}: no such setting{hint}")
        elif meant and name in in_file:
            errors.append(f"{name} (in {dotenv}): no such setting{hint}")
        elif name in in_file:
            warnings.append(f"{name} (in {dotenv}): no such setting; ignored")
        elif meant and "_" in name:
            warnings.append(f"{name}: no such setting{hint}")
    return errors, warnings


def _meant(name: str, names: Collection[str]) -> str | None:
    """The setting whose name looks like this one, with its number if it has one."""
    stem, number = _split(name.upper())
    if not number:
        return next(iter(_closest(name.upper(), names)), None)
    # Without its number it would be another core's or destination's.
    close = _closest(stem, [*OF_ONE, *(n for n, today in OLD.items() if today in OF_ONE)])
    return f"{OLD.get(close[0], close[0])}_{number.lstrip('0')}" if close else None


def _closest(name: str, names: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.85)


def _split(name: str) -> tuple[str, str]:
    """`PACS_IP_2` in `PACS_IP` and `2`; the number is empty where there is none."""
    match = re.fullmatch(r"(.+)_(0*[1-9][0-9]*)", name)
    return (match[1], match[2]) if match else (name, "")


def _file(dotenv: Path | None) -> env_file.EnvText:
    if dotenv is None or not dotenv.is_file():
        return env_file.EnvText()
    return env_file.read(dotenv)


def _cleaned(values: Mapping[str, str]) -> dict[str, str]:
    unquoted = ((name, env_file.clean(value)) for name, value in values.items())
    return {name: value for name, value in unquoted if value}

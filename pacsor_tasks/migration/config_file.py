"""The wizard's own files, `scripts/<client>.config`, by today's names of settings.

Source: contract §2.2 (setup-only keys), §2.6.
"""

from __future__ import annotations

from dataclasses import replace

from pacsor_tasks.env_file import EnvText, parse
from pacsor_tasks.environment import is_true, normalise, overruled
from pacsor_tasks.migration.filters import repaired
from pacsor_tasks.settings_types import comma_list

#: What the wizard calls it → the setting. Names in other hands' scripts are here as well.
SETUP_KEYS: dict[str, str] = {
    "HL7_RECEIVING_APPLICATION": "RECEIVING_APPLICATION",
    "HL7_RECEIVING_FACILITY": "RECEIVING_FACILITY",
    "HL7_RIS_IP": "RIS_HOST_IP",
    "HL7_RIS_PORT": "RIS_HOST_PORT",
    "HL7_INCLUDE_TCR": "INCLUDE_TECHCARE_REPORT",
    "HL7_TCR_OUT_FORMAT": "TECHCARE_REPORT_FORMAT",
    "CLIENT": "CLIENT_NAME",
    "URL": "API_URL",
    "ENV_URL": "API_URL",
    "SIGNED": "SIGNED_URL",
    "INF_COMM": "INFERENCE_COMMANDS",
    "CALLBACKS": "CALLBACK_URLS",
    "SCP_PORT": "PORT",
    "PACSOR_PORT": "PORT",
    "SCP_AET": "MILVUE_AET",
    "PROFILE": "CONFIG_PROFILE",
    "DICOM_PROFILE": "CONFIG_PROFILE",
    "VERSION": "DOCKER_IMAGE_TAG",
}
#: Of the wizard alone: what it does with its files.
OF_THE_WIZARD = frozenset({"SYMLINK", "DEBUG", "PACSOR"})
#: What is said of DICOM_FILTERS whose quotes were put back.
COMPARE = (
    "they are back, but lost backslashes cannot be seen: compare each pattern with the one meant"
)
HL7_CALLBACK = "http://hl7:8000"


def read_config(text: str) -> EnvText:
    """Read a `.config`, intact or damaged, with DICOM_FILTERS made good where that is possible.

    What cannot be made good stays damaged, with a warning: without any, everything would be
    uploaded.

    Returns:
        See `as_written`.
    """
    found = as_written(text)
    if "DICOM_FILTERS" not in found.values:
        return found
    filters = repaired(found.values["DICOM_FILTERS"])
    if not filters.problem:
        return found
    done = "write it anew" if filters.text is None else COMPARE
    warning = f"DICOM_FILTERS: {filters.problem}; {done}"
    values = {**found.values, "DICOM_FILTERS": filters.text or found.values["DICOM_FILTERS"]}
    return replace(found, values=values, warnings=[*found.warnings, warning])


def as_written(text: str) -> EnvText:
    """Read a `.config` with DICOM_FILTERS as they stand there.

    HL7_ENABLE becomes the callback it stands for, once.

    Returns:
        Values by today's names in the file's order, empty ones left out; warnings without values.
    """
    found = parse(text)
    given = {name: value for name, value in found.values.items() if value}
    passed_over = overruled(given, SETUP_KEYS)
    names = {SETUP_KEYS.get(name, name): name for name in given if name not in passed_over}
    raw = {today: given[name] for today, name in names.items() if name not in OF_THE_WIZARD}
    values, old_names = normalise(raw)
    lines = {today: found.lines[name] for today, name in names.items()}
    not_used = [
        f"{name} (line {found.lines[name]}): not used; {counting} in line {found.lines[counting]}"
        " says something else"
        for name, counting in passed_over.items()
        if given[name] != given[counting]
    ]
    if "DICOM_FILTERS" in values:
        values["DICOM_FILTERS"] = values["DICOM_FILTERS"].replace("$$", "$")
    is_hl7 = is_true(values, "HL7_ENABLE")
    values.pop("HL7_ENABLE", None)
    if is_hl7:
        values["CALLBACK_URLS"] = with_hl7(values.get("CALLBACK_URLS", "http://storescu:8000"))
    warnings = [*found.warnings, *not_used, *old_names]
    return replace(found, values=values, lines=lines, warnings=warnings)


def with_hl7(callback_urls: str) -> str:
    """The callbacks with HL7's among them, once: PACSOR's wizard added one with each run."""
    urls = dict.fromkeys(url.rstrip("/") for url in comma_list(callback_urls))
    return ",".join([*(url for url in urls if url != HL7_CALLBACK), HL7_CALLBACK])

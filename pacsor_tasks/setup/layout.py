"""Where a setting stands in a new file: sections with a title, as in `.env.example`."""

from __future__ import annotations

from collections.abc import Mapping

from pacsor_tasks.environment import (
    OF_ONE_CORE,
    OF_ONE_FOLDER,
    OF_ONE_PACS,
    OF_ONE_RIS,
    OF_ONE_STOW,
    OF_ONE_WEBHOOK,
)

_HL7 = ("ENABLE_HL7", *OF_ONE_RIS, "TCR_API_URL", "HL7_CONF_DIR", "LOAD_CONFIG_AT_INIT")
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "The client, and Docker Compose": (
        "CLIENT_NAME", "ISLOCALOR", "COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES",
        "DOCKER_IMAGE_TAG",
    ),
    "The AI service": (
        "API_URL", "TOKEN", "SIGNED_URL", "INFERENCE_COMMANDS", "DICOM_FILTERS",
        "NO_DUPLICATE_UPLOAD", "ADDITIONAL_CORES", *OF_ONE_CORE,
    ),
    "The receiver": (
        "PORT", "RECEIVER_AET", "CONFIG_PROFILE", "STUDY_QUIET_SECONDS", "STUDY_MAX_WAIT_SECONDS",
    ),
    "Where the results go": (
        "CALLBACK_URLS", "DESTINATIONS", *OF_ONE_PACS, *OF_ONE_STOW, *OF_ONE_FOLDER,
        *OF_ONE_WEBHOOK,
    ),
    "HL7": _HL7,
    "Reports of other providers": ("WEBPS_ENABLE", "WEBPS_PROVIDERS", "WEBPS_DESTINATIONS"),
    "Operation": ("ADMIN_TOKEN", "ADMIN_BIND", "FLOWER_BASIC_AUTH", "PACSOR_LOG_LEVEL"),
}  # fmt: skip
OTHERS = "Other settings"
_SECTION = {
    name: title
    for title, names in reversed(list(SECTIONS.items()))
    for name in names
    if not (title == "The AI service" and name in {"CALLBACK_URLS", "DESTINATIONS"})
}


def section_of(name: str) -> str:
    """The title of the section of a setting, without its number."""
    return _SECTION.get(name, OTHERS)

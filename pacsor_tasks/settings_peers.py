"""Cores and destinations as the settings name them: numbered variables, inheritance, requirements.

Source: architecture §7, contract §2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_hl7 import Hl7Settings, Hl7Values, destination_values
from pacsor_tasks.settings_types import (
    CoreSettings,
    RisSettings,
    StorescuSettings,
    TlsSettings,
    comma_list,
    kind_of,
    lines,
)

if TYPE_CHECKING:
    from pacsor_tasks.settings import Settings


_OF_A_CORE = {
    "api_url": "API_URL",
    "token": "TOKEN",
    "signed_url": "SIGNED_URL",
    "inference_commands": "INFERENCE_COMMANDS",
    "filters": "DICOM_FILTERS",
    "no_duplicate_upload": "NO_DUPLICATE_UPLOAD",
}


def used_destinations(settings: Settings) -> tuple[str, ...]:
    """The destinations that some core delivers to, in the order named."""
    return tuple(
        dict.fromkeys(name for core in settings.cores.values() for name in core.destinations)
    )


def core(settings: Settings, name: str, suffix: str) -> CoreSettings:
    """One core; `suffix` is empty for the first, `_1` for `core1`, which inherits the rest.

    Raises:
        ValueError: Naming the setting that is missing or wrong.
    """

    def own(setting: str, *, inherited: bool = True) -> Any:
        if suffix and setting + suffix in settings.NUMBERED:
            return settings.NUMBERED[setting + suffix]
        if suffix and not inherited:
            raise ValueError(f"{setting}{suffix}: required by {name} of ADDITIONAL_CORES")
        return getattr(settings, setting)

    try:
        found = CoreSettings(
            name=name,
            api_url=own("API_URL", inherited=False) if suffix else settings.API_URL,
            token=own("TOKEN", inherited=False) if suffix else settings.TOKEN,
            signed_url=own("SIGNED_URL"),
            inference_commands=own("INFERENCE_COMMANDS"),
            filters=own("DICOM_FILTERS"),
            no_duplicate_upload=own("NO_DUPLICATE_UPLOAD"),
            destinations=_destinations(settings, suffix),
        )
    except ValidationError as exc:
        names = {field: setting + suffix for field, setting in _OF_A_CORE.items()}
        raise ValueError(lines(exc, names)) from exc
    if not found.inference_commands:
        raise ValueError(f"INFERENCE_COMMANDS{suffix}: empty; name at least one command")
    return found


def _destinations(settings: Settings, suffix: str) -> tuple[str, ...]:
    plain = (
        comma_list(settings.NUMBERED.get(f"DESTINATIONS{suffix}", ""))
        if suffix
        else settings.DESTINATIONS
    )
    urls = (
        comma_list(settings.NUMBERED.get(f"CALLBACK_URLS{suffix}", ""))
        if suffix
        else settings.CALLBACK_URLS
    )
    if suffix and not plain and not urls:
        plain, urls = settings.DESTINATIONS, settings.CALLBACK_URLS
    source = f"DESTINATIONS{suffix}" if plain else f"CALLBACK_URLS{suffix}"
    names = tuple(plain) or tuple(_host(url, source) for url in urls)
    for name in names:
        if kind_of(name) is None:
            raise ValueError(
                f"{source}: unknown destination {name!r}; known are storescu, storescu-2, …"
                ", hl7, hl7-2, …"
            )
    return tuple(
        n
        for n in dict.fromkeys(names)
        if settings.ENABLE_HL7 or kind_of(n) is not DestinationKind.HL7
    )


def storescu(settings: Settings, name: str) -> StorescuSettings:
    """One PACS destination; ValueError naming the setting that is missing or wrong."""
    suffix = _number_suffix(name)
    calling = (
        settings.NUMBERED.get(f"MILVUE_AET{suffix}", settings.MILVUE_AET)
        if suffix
        else settings.MILVUE_AET
    )
    host, port, aet = (
        _required(settings, k, suffix, name) for k in ("PACS_IP", "PACS_PORT", "PACS_AET")
    )
    try:
        return StorescuSettings(
            name=name, host=host, port=port, called_aet=aet, calling_aet=calling
        )
    except ValidationError as exc:
        raise ValueError(
            f"{name} (PACS_IP{suffix}, PACS_PORT{suffix}, PACS_AET{suffix}): {lines(exc)}"
        ) from exc


def hl7_values(settings: Settings, name: str, loaded: Mapping[str, Any] | None = None) -> Hl7Values:
    """What counts for one HL7 destination; ValueError naming the setting that is wrong.

    Args:
        settings: The gateway's.
        name: `hl7`, `hl7-2`, …
        loaded: What was loaded at run time, from `loadable`.
    """
    plain = {setting: getattr(settings, setting) for setting in Hl7Settings.model_fields}
    values = destination_values(plain, settings.NUMBERED, loaded or {}, _number_suffix(name))
    for setting in ("RECEIVING_APPLICATION", "RECEIVING_FACILITY"):
        if not getattr(values, setting):
            raise ValueError(f"{setting}: required by destination {name}")
    return values


def ris(settings: Settings, name: str, loaded: Mapping[str, Any] | None = None) -> RisSettings:
    """One RIS destination; ValueError naming the setting that is missing or wrong."""
    suffix = _number_suffix(name)
    values = hl7_values(settings, name, loaded)
    host, port = (_required(settings, k, suffix, name) for k in ("RIS_HOST_IP", "RIS_HOST_PORT"))
    tls = TlsSettings(
        ca=values.RIS_TLS_CA,
        cert=values.RIS_TLS_CERT,
        key=values.RIS_TLS_KEY,
        name=values.RIS_TLS_NAME,
    )
    try:
        return RisSettings(
            name=name,
            host=host,
            port=port,
            timeout_s=values.RIS_TIMEOUT,
            keep_alive_s=values.RIS_KEEP_ALIVE,
            tls=tls if values.RIS_TLS else None,
        )
    except ValidationError as exc:
        raise ValueError(
            f"{name} (RIS_HOST_IP{suffix}, RIS_HOST_PORT{suffix}): {lines(exc)}"
        ) from exc


def _required(settings: Settings, setting: str, suffix: str, destination: str) -> Any:
    value = settings.NUMBERED.get(setting + suffix) if suffix else getattr(settings, setting)
    if value is None:
        raise ValueError(f"{setting}{suffix}: required by destination {destination}")
    return value


def _number_suffix(name: str) -> str:
    _, _, number = name.partition("-")
    return f"_{number}" if number else ""


def _host(url: str, source: str) -> str:
    host = urlsplit(url).hostname
    if host is None:
        raise ValueError(f"{source}: {url!r} is not a URL like http://storescu:8000")
    return host

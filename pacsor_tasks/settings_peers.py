"""Cores and destinations as the settings name them: numbered variables, inheritance, requirements.

Source: architecture §7, contract §2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from pacsor_tasks import core_plugins
from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_hl7 import Hl7Settings, Hl7Values, destination_values
from pacsor_tasks.settings_routing import destinations, named, number_suffix, taking
from pacsor_tasks.settings_types import (
    CoreSettings,
    RisSettings,
    TlsSettings,
    kind_of,
    lines,
    require,
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
    "concurrency": "CORE_CONCURRENCY",
    "upload_parallel": "UPLOAD_PARALLEL",
    "upload_rate": "UPLOAD_RATE",
}
_OF_TCR = {**_OF_A_CORE, "api_url": "TCR_API_URL", "token": "PROVIDER_TOKEN"}
#: What a core of type `tcr` is asked for.
REPORT = "report"
#: … and one of an installed type whose INFERENCE_COMMANDS nobody set: ours are Milvue's.
RESULTS = "results"


def used_destinations(settings: Settings) -> tuple[str, ...]:
    """The destinations that something is delivered to, in the order named."""
    of_cores = [name for core in settings.cores.values() for name in core.destinations]
    return tuple(dict.fromkeys([*of_cores, *webps_destinations(settings)]))


def webps_destinations(settings: Settings) -> tuple[str, ...]:
    """The HL7 destinations that get the reports of other providers; none without WEBPS_ENABLE.

    Raises:
        ValueError: One of WEBPS_DESTINATIONS speaks no HL7.
    """
    if not settings.WEBPS_ENABLE or not settings.ENABLE_HL7:
        return ()
    for name in settings.WEBPS_DESTINATIONS:
        if kind_of(name) is not DestinationKind.HL7:
            raise ValueError(f"WEBPS_DESTINATIONS: {name!r} is not hl7, hl7-2, …")
    of_cores = (name for core in settings.cores.values() for name in core.destinations)
    in_use = dict.fromkeys(n for n in of_cores if kind_of(n) is DestinationKind.HL7)
    return settings.WEBPS_DESTINATIONS or tuple(in_use) or ("hl7",)


def require_reports(settings: Settings) -> None:
    """Check what reports need; ValueError naming the setting that is missing."""
    included = [
        name
        for name in (n for n in used_destinations(settings) if kind_of(n) is DestinationKind.HL7)
        if hl7_values(settings, name).INCLUDE_TECHCARE_REPORT
    ]
    if settings.TCR_API_URL is None and included:
        raise ValueError("TCR_API_URL: required by INCLUDE_TECHCARE_REPORT")
    if not settings.WEBPS_ENABLE:
        return
    if not settings.TOKEN.get_secret_value():
        raise ValueError("TOKEN: required by WEBPS_ENABLE")
    if settings.TCR_API_URL is None:
        raise ValueError("TCR_API_URL: required by WEBPS_ENABLE")
    if not settings.WEBPS_PROVIDERS:
        raise ValueError("WEBPS_PROVIDERS: required by WEBPS_ENABLE; name at least one provider")
    if not settings.ENABLE_HL7:
        raise ValueError("WEBPS_ENABLE: reports go to HL7 destinations only, and ENABLE_HL7=false")


def core(settings: Settings, name: str, suffix: str) -> CoreSettings:
    """One core; `suffix` is empty for the first, `_1` for `core1`, which inherits the rest.

    Raises:
        ValueError: Naming the setting that is missing or wrong.
    """

    def own(setting: str) -> Any:
        if suffix and setting + suffix in settings.NUMBERED:
            return settings.NUMBERED[setting + suffix]
        return getattr(settings, setting)

    kind = str(own("CORE_TYPE")).lower()
    try:
        found = CoreSettings(
            name=name,
            type=kind,
            signed_url=own("SIGNED_URL"),
            filters=own("DICOM_FILTERS"),
            no_duplicate_upload=own("NO_DUPLICATE_UPLOAD"),
            concurrency=_fair_share(settings)
            if (at_once := own("CORE_CONCURRENCY")) is None
            else at_once,
            upload_parallel=own("UPLOAD_PARALLEL"),
            upload_rate=own("UPLOAD_RATE"),
            **_OF_TYPE.get(kind, _plugged)(settings, suffix, own),
        )
    except ValidationError as exc:
        settings_of = _OF_TCR if kind == "tcr" else _OF_A_CORE
        names = {field: setting + suffix for field, setting in settings_of.items()}
        raise ValueError(lines(exc, names | {"type": f"CORE_TYPE{suffix}"})) from exc
    if not found.inference_commands:
        raise ValueError(f"INFERENCE_COMMANDS{suffix}: empty; name at least one command")
    return found


def _milvue(settings: Settings, suffix: str, own: Callable[..., Any]) -> dict[str, Any]:
    # Another core's address and token are not inherited.
    needed = ("API_URL" + suffix, "TOKEN" + suffix) if suffix else ()
    missing = [name for name in needed if name not in settings.NUMBERED]
    if missing:
        by = f"core{suffix.removeprefix('_')} of ADDITIONAL_CORES"
        raise ValueError("\n".join(f"{name}: required by {by}" for name in missing))
    return {
        "api_url": own("API_URL"),
        "token": own("TOKEN"),
        # As PACSOR's second core: what it is asked for is the default, not what the first one is.
        "inference_commands": settings.NUMBERED.get(
            f"INFERENCE_COMMANDS{suffix}", type(settings).model_fields["INFERENCE_COMMANDS"].default
        )
        if suffix
        else settings.INFERENCE_COMMANDS,
        "destinations": destinations(settings, suffix),
    }


def _tcr(settings: Settings, suffix: str, own: Callable[..., Any]) -> dict[str, Any]:
    """A provider's core: it is asked for a report, and only HL7 destinations get something."""
    needed = ("TCR_API_URL", "PROVIDER_TOKEN", "ORGANIZATION_ID")
    missing = [setting + suffix for setting in needed if not own(setting)]
    if missing:
        raise ValueError("\n".join(f"{n}: required by CORE_TYPE{suffix}=tcr" for n in missing))
    if not settings.ENABLE_HL7:
        raise ValueError(f"CORE_TYPE{suffix}: tcr has only HL7 to deliver to, and ENABLE_HL7=false")
    asked = tuple(n for n in named(settings, suffix) if kind_of(n) is DestinationKind.HL7)
    return {
        "api_url": own("TCR_API_URL"),
        "token": own("PROVIDER_TOKEN"),
        "organization_id": own("ORGANIZATION_ID"),
        "inference_commands": (REPORT,),
        "destinations": taking(settings, suffix, asked or ("hl7",)),
    }


def _plugged(settings: Settings, suffix: str, own: Callable[..., Any]) -> dict[str, Any]:
    """A core of an installed type. It gets no other core's address or token."""
    numbered, kind = settings.NUMBERED, str(own("CORE_TYPE")).lower()
    is_said = "INFERENCE_COMMANDS" in settings.model_fields_set and not suffix
    commands = settings.INFERENCE_COMMANDS if is_said else (RESULTS,)
    options = core_plugins.options_of(numbered, kind, suffix.removeprefix("_"))
    return {
        "api_url": numbered.get("API_URL" + suffix, "") if suffix else settings.API_URL,
        "token": numbered.get("TOKEN" + suffix, "") if suffix else settings.TOKEN,
        "inference_commands": numbered.get("INFERENCE_COMMANDS" + suffix, commands),
        "destinations": destinations(settings, suffix),
        "options": {
            name: SecretStr(value) if core_plugins.is_secret(name) else value
            for name, value in options.items()
        },
    }


_OF_TYPE: dict[str, Callable[[Settings, str, Callable[..., Any]], dict[str, Any]]] = {
    "milvue": _milvue,
    "tcr": _tcr,
}


def fill_in(given: dict[str, Any]) -> None:
    """Give the first core's API_URL and TOKEN a value where its type does not need them.

    A `.env` of PACSOR's tcr-core says its type by what it has.
    """
    if given.get("PROVIDER_TOKEN") and not given.get("API_URL"):
        given.setdefault("CORE_TYPE", "tcr")
    kind = str(given.get("CORE_TYPE", "milvue")).lower()
    if kind == "tcr":
        for name, instead in {"API_URL": "TCR_API_URL", "TOKEN": "PROVIDER_TOKEN"}.items():
            if instead in given:
                given.setdefault(name, given[instead])
    elif kind not in core_plugins.BUILT_IN:
        given.setdefault("API_URL", "")
        given.setdefault("TOKEN", "")


def _fair_share(settings: Settings) -> int:
    """Slots that each core may have so that all others together leave one for the last."""
    n_others = len(settings.ADDITIONAL_CORES)
    return max(1, (settings.WORKER_CONCURRENCY - 1) // n_others) if n_others else 0


def hl7_values(settings: Settings, name: str, loaded: Mapping[str, Any] | None = None) -> Hl7Values:
    """What counts for one HL7 destination; ValueError naming the settings that are wrong.

    Args:
        settings: The gateway's.
        name: `hl7`, `hl7-2`, …
        loaded: What was loaded at run time, from `loadable`.
    """
    values = _hl7_values(settings, name, loaded)
    require(_unnamed(values), name)
    return values


def ris(settings: Settings, name: str, loaded: Mapping[str, Any] | None = None) -> RisSettings:
    """One RIS destination; ValueError naming the settings that are missing or wrong."""
    suffix = number_suffix(name)
    values = _hl7_values(settings, name, loaded)
    where = {key + suffix: _own(settings, key, suffix) for key in ("RIS_HOST_IP", "RIS_HOST_PORT")}
    missing = [setting for setting, value in where.items() if value is None]
    require([*missing, *_unnamed(values)], name)
    host, port = where.values()
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
            rate=values.RIS_RATE,
            tls=tls if values.RIS_TLS else None,
        )
    except ValidationError as exc:
        names = {"host": f"RIS_HOST_IP{suffix}", "port": f"RIS_HOST_PORT{suffix}"}
        raise ValueError(lines(exc, names)) from exc


def _hl7_values(settings: Settings, name: str, loaded: Mapping[str, Any] | None) -> Hl7Values:
    plain = {setting: getattr(settings, setting) for setting in Hl7Settings.model_fields}
    return destination_values(plain, settings.NUMBERED, loaded or {}, number_suffix(name))


def _unnamed(values: Hl7Values) -> list[str]:
    """Whom a message has to name, and nobody is named."""
    names = ("RECEIVING_APPLICATION", "RECEIVING_FACILITY")
    return [name for name in names if not getattr(values, name)]


def _own(settings: Settings, setting: str, suffix: str) -> Any:
    return settings.NUMBERED.get(setting + suffix) if suffix else getattr(settings, setting)

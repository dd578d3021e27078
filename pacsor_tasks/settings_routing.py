"""Which results go where: destinations by name or by URL, and their conditions.

Source: architecture §7, contract §2.2 (CALLBACK_URLS), docs/destinations.md.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pacsor_tasks.dicom.sop_classes import uids_of
from pacsor_tasks.environment import (
    OF_ONE_FOLDER,
    OF_ONE_PACS,
    OF_ONE_RIS,
    OF_ONE_STOW,
    OF_ONE_WEBHOOK,
)
from pacsor_tasks.models import DestinationKind, Selection
from pacsor_tasks.settings_destinations import (
    FolderSettings,
    PacsSettings,
    StowSettings,
    WebhookSettings,
    callback_url,
    values_of,
)
from pacsor_tasks.settings_hl7 import RoutingSettings
from pacsor_tasks.settings_types import comma_list, is_loopback, kind_of, without_secrets

if TYPE_CHECKING:
    from pacsor_tasks.settings import Settings

#: What the settings of each kind begin with, and where they are.
PREFIXES: Mapping[DestinationKind, str] = {
    DestinationKind.STORESCU: "PACS",
    DestinationKind.HL7: "RIS",
    DestinationKind.STOW: "STOW",
    DestinationKind.FOLDER: "FOLDER",
    DestinationKind.WEBHOOK: "WEBHOOK",
}
GROUPS: Mapping[DestinationKind, Any] = {
    DestinationKind.STORESCU: PacsSettings,
    DestinationKind.HL7: RoutingSettings,
    DestinationKind.STOW: StowSettings,
    DestinationKind.FOLDER: FolderSettings,
    DestinationKind.WEBHOOK: WebhookSettings,
}
#: What says where a destination is.
ADDRESSES: Mapping[DestinationKind, str] = {
    DestinationKind.STORESCU: "PACS_IP",
    DestinationKind.HL7: "RIS_HOST_IP",
    DestinationKind.STOW: "STOW_URL",
    DestinationKind.FOLDER: "FOLDER_PATH",
    DestinationKind.WEBHOOK: "WEBHOOK_URL",
}
#: What a destination of each kind may have of its own.
OF_ONE: Mapping[DestinationKind, tuple[str, ...]] = {
    DestinationKind.STORESCU: OF_ONE_PACS,
    DestinationKind.HL7: OF_ONE_RIS,
    DestinationKind.STOW: OF_ONE_STOW,
    DestinationKind.FOLDER: OF_ONE_FOLDER,
    DestinationKind.WEBHOOK: OF_ONE_WEBHOOK,
}
#: The ledger's limit.
NAME_LIMIT = 64
KNOWN = ", ".join(f"{kind}, {kind}-2, …" for kind in DestinationKind)


def number_suffix(name: str) -> str:
    """`_2` of `storescu-2`; empty for the first of its kind, and for a plain callback."""
    if kind_of(name) is None:
        return ""
    _, _, number = name.partition("-")
    return f"_{number}" if number else ""


def kind_in_use(name: str) -> DestinationKind:
    """What a destination that is in use speaks: a plain callback is a webhook."""
    return kind_of(name) or DestinationKind.WEBHOOK


def core_name(suffix: str) -> str:
    """The core whose settings end so: `core1` for `_1`."""
    return f"core{suffix.removeprefix('_')}"


def core_suffixes(settings: Settings) -> dict[str, str]:
    """The suffix of each core's variables by its name: empty for `core`, `_1` for `core1`.

    Raises:
        ValueError: One of ADDITIONAL_CORES is no core's name.
    """
    found = {"core": ""}
    for name in settings.ADDITIONAL_CORES:
        match = re.fullmatch(r"core([1-9][0-9]*)", name)
        if match is None:
            raise ValueError(f"ADDITIONAL_CORES: {name!r} is not core1, core2, …")
        found[name] = f"_{match[1]}"
    return found


def callbacks(settings: Settings) -> dict[str, str]:
    """URLs of CALLBACK_URLS, of any core, whose host is no destination's name; by their names.

    Raises:
        ValueError: One is no URL, or two would have one name.
    """
    found: dict[str, str] = {}
    for suffix in core_suffixes(settings).values():
        for source, item in _given(settings, suffix):
            if "://" not in item or kind_of(_host(item, source)) is not None:
                continue
            name = _name_of(item, source)
            if found.setdefault(name, item) != item:
                both = f"{without_secrets(item)!r} and {without_secrets(found[name])!r}"
                raise ValueError(f"{source}: {both} would both be named {name}")
    return found


def named(settings: Settings, suffix: str) -> tuple[str, ...]:
    """The destinations that a core's settings name, whatever their conditions say.

    Raises:
        ValueError: One is unknown.
    """
    names = []
    for source, item in _given(settings, suffix):
        name = item
        if "://" in item or source.startswith("CALLBACK_URLS"):
            host = _host(item, source)
            name = host if kind_of(host) is not None else _name_of(item, source)
        elif kind_of(item) is None:
            raise ValueError(f"{source}: unknown destination {item!r}; known are {KNOWN}")
        names.append(name)
    return tuple(
        name
        for name in dict.fromkeys(names)
        if settings.ENABLE_HL7 or kind_of(name) is not DestinationKind.HL7
    )


def destinations(settings: Settings, suffix: str) -> tuple[str, ...]:
    """The destinations that get a core's results.

    Raises:
        ValueError: One is unknown, or its conditions cannot be read.
    """
    return taking(settings, suffix, named(settings, suffix))


def taking(settings: Settings, suffix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of these destinations whose conditions let a core's results through.

    Raises:
        ValueError: Its conditions cannot be read.
    """
    core = core_name(suffix)
    return tuple(
        name
        for name in names
        if core in (cores := _condition(settings, name, "CORES")) or not cores
    )


def selection(settings: Settings, name: str) -> Selection:
    """Which of a run's results a destination gets.

    Raises:
        ValueError: Its conditions cannot be read.
    """
    sop_classes = _condition(settings, name, "SOP_CLASSES")
    return Selection(
        commands=_condition(settings, name, "COMMANDS"),
        sop_classes=tuple(dict.fromkeys(u for one in sop_classes for u in uids_of(one))),
        sop_class_names=sop_classes,
    )


def doubts(settings: Settings) -> list[str]:
    """What was probably meant otherwise: conditions that are never true, what is sent in the clear.

    One sentence each.
    """
    by_core = {name: named(settings, suffix) for name, suffix in core_suffixes(settings).items()}
    everybody = tuple(dict.fromkeys(n for names in by_core.values() for n in names))
    found = [line for name in everybody for line in _never_true(settings, name, by_core)]
    found += [line for name in everybody for line in _openness(settings, name)]
    for core, names in by_core.items():
        if not settings.cores[core].destinations:
            why = (
                "no destination takes its results (…_CORES)" if names else "no destination is named"
            )
            found.append(f"{core}: {why}: they go nowhere")
    return [*found, *_unused(settings, {*everybody, *settings.ris}), *_plain(settings)]


def _never_true(
    settings: Settings, name: str, by_core: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    kind = kind_of(name)
    if kind is None:
        return
    prefix, suffix = PREFIXES[kind], number_suffix(name)
    for core in _condition(settings, name, "CORES"):
        if core not in by_core:
            yield f"{prefix}_CORES{suffix}: there is no core {core!r}: never true"
        elif name not in by_core[core]:
            yield f"{prefix}_CORES{suffix}: {core} does not deliver to {name}: never true"
    users = [c for c in settings.cores.values() if name in c.destinations]
    asked = {command for core in users for command in core.inference_commands}
    for command in _condition(settings, name, "COMMANDS"):
        if command not in asked:
            yield (
                f"{prefix}_COMMANDS{suffix}: no core that delivers to {name} asks for"
                f" {command!r}: never true"
            )
    sop_classes = {one.upper() for one in _condition(settings, name, "SOP_CLASSES")}
    if settings.STRUCTURED_REPORT_FORMAT == "none" and sop_classes == {"SR"}:
        yield f"{prefix}_SOP_CLASSES{suffix}: never true with STRUCTURED_REPORT_FORMAT=none"


def _openness(settings: Settings, name: str) -> Iterator[str]:
    """What is trusted or told without TLS's protection."""
    kind = kind_of(name)
    if kind in {None, DestinationKind.HL7, DestinationKind.FOLDER}:
        return
    assert kind is not None  # noqa: S101 - for mypy
    prefix, suffix = PREFIXES[kind], number_suffix(name)
    values = values_of(GROUPS[kind], settings, settings.NUMBERED, suffix)
    if not getattr(values, f"{prefix}_TLS_VERIFY"):
        yield f"{prefix}_TLS_VERIFY{suffix}=false: whoever answers for {name} is trusted"
    url = getattr(values, f"{prefix}_URL", None)
    secrets = [s for s in ("TOKEN", "PASSWORD") if getattr(values, f"{prefix}_{s}", None)]
    if url and secrets and url.startswith("http:") and not is_loopback(_host(url, "")):
        yield f"{prefix}_{secrets[0]}{suffix}: sent in the clear, {prefix}_URL{suffix} is no https"


def _unused(settings: Settings, used: set[str]) -> Iterator[str]:
    for kind, address in ADDRESSES.items():
        pattern = re.compile(rf"{address}_([2-9]|[1-9][0-9]+)")
        names = {n: f"{kind}-{m[1]}" for n in settings.NUMBERED if (m := pattern.fullmatch(n))}
        is_ours = kind not in {DestinationKind.STORESCU, DestinationKind.HL7}
        if is_ours and getattr(settings, address) is not None:
            names[address] = str(kind)
        for setting, name in names.items():
            if name not in used and (settings.ENABLE_HL7 or kind is not DestinationKind.HL7):
                yield f"{setting}: nothing is delivered to {name}; name it in DESTINATIONS"


def _plain(settings: Settings) -> Iterator[str]:
    for url in callbacks(settings).values():
        host = _host(url, "CALLBACK_URLS")
        close = difflib.get_close_matches(host, [*DestinationKind], n=1, cutoff=0.7)
        meant = f"; did you mean {close[0]}?" if close else " (docs/destinations.md)"
        yield f"CALLBACK_URLS: {host!r} is no destination's name: it gets plain callbacks{meant}"


def _condition(settings: Settings, name: str, what: str) -> tuple[str, ...]:
    kind = kind_of(name)
    if kind is None:
        return ()
    setting = f"{PREFIXES[kind]}_{what}"
    if setting not in GROUPS[kind].model_fields:
        return ()
    suffix = number_suffix(name)
    found: tuple[str, ...] = getattr(
        values_of(GROUPS[kind], settings, settings.NUMBERED, suffix), setting
    )
    return found


def _given(settings: Settings, suffix: str) -> list[tuple[str, str]]:
    """(the setting, an item of it) of one core, which takes the first one's if it has none."""
    also = [(n, item) for n in ("ALSO_TO_PACS", "ALSO_TO_RIS") for item in getattr(settings, n)]
    for end in dict.fromkeys((suffix, "")):
        for setting in ("DESTINATIONS", "CALLBACK_URLS"):
            items = (
                comma_list(settings.NUMBERED.get(setting + end, ""))
                if end
                else getattr(settings, setting)
            )
            if items:
                own = [(setting + end, item) for item in items]
                return own if end else [*own, *also]
    return also


def _host(url: str, source: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if host is None:
        raise ValueError(f"{source}: {url!r} is not a URL like http://storescu:8000")
    return host


def _name_of(url: str, source: str) -> str:
    """What a plain callback is called: its URL without what a name cannot have."""
    try:
        callback_url(url)
    except ValueError as exc:
        raise ValueError(f"{source}: {exc}") from exc
    split = urlsplit(url)
    # What a query says is nobody's business but the receiver's; it still tells two URLs apart.
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    text = f"{split.hostname}-{split.port}" if split.port else str(split.hostname)
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text + split.path).strip("-.")
    if split.query or len(name) > NAME_LIMIT:
        name = f"{name[: NAME_LIMIT - 9]}-{digest}"
    return name

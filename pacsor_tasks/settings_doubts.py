"""What may be and was hardly meant: a warning, or an error where guessing is dangerous."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pacsor_tasks.environment import NUMBERED, OF_ONE_CORE
from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_hl7 import DETECTIONS, MEASURES
from pacsor_tasks.settings_peers import hl7_values, used_destinations
from pacsor_tasks.settings_routing import ADDRESSES, OF_ONE, number_suffix
from pacsor_tasks.settings_types import kind_of

if TYPE_CHECKING:
    from pacsor_tasks.settings import Settings


def undecided(given: Mapping[str, Any], numbered: Mapping[str, str]) -> list[str]:
    """An error where nobody can tell which service the first core's studies are meant for.

    PACSOR's compose file decides between its core and its tcr-core, which both have API_URL and
    TOKEN in their `.env`; there is no compose file here.
    """
    has_both = all(given.get(name) for name in ("API_URL", "PROVIDER_TOKEN", "ORGANIZATION_ID"))
    is_another_s = any(
        name.startswith("CORE_TYPE_") and kind.lower() == "tcr" for name, kind in numbered.items()
    )
    if not has_both or is_another_s or given.get("CORE_TYPE"):
        return []
    return [
        "CORE_TYPE: PROVIDER_TOKEN and ORGANIZATION_ID are of a gateway to TechCare Report"
        " (CORE_TYPE=tcr), API_URL of one to the Milvue API (CORE_TYPE=milvue): say which"
    ]


def unused(settings: Settings) -> list[str]:
    """Warnings: numbered settings that no core and no destination reads."""
    used = used_destinations(settings)
    said: dict[str, list[str]] = {}
    for name in sorted(settings.NUMBERED):
        match = NUMBERED.match(name)
        why = match and _unread(settings, match[1], match[2], used)
        if why:
            said.setdefault(why, []).append(name)
    return [f"{', '.join(names)}: not used; {why}" for why, names in said.items()]


def _unread(settings: Settings, stem: str, number: str, used: Collection[str]) -> str | None:
    """Why nobody reads a numbered setting; None when somebody does, or `doubts` says it."""
    if stem in OF_ONE_CORE:
        core = f"core{number}"
        is_read = core in settings.ADDITIONAL_CORES
        return None if is_read else f"a core reads it with ADDITIONAL_CORES={core}"
    if number == "1":
        return "the first destination has no number, the second has 2"
    kind = next(kind for kind, stems in OF_ONE.items() if stem in stems)
    address = ADDRESSES[kind]
    is_said = address == stem or f"{address}_{number}" in settings.NUMBERED
    if is_said or f"{kind}-{number}" in used:
        return None
    return f"nothing is delivered to {kind}-{number}"


def without_findings(settings: Settings) -> Iterator[str]:
    """Warnings: an HL7 destination waits for findings of one command, its cores ask for another."""
    for name in used_destinations(settings):
        if kind_of(name) is not DestinationKind.HL7:
            continue
        values, suffix = hl7_values(settings, name), number_suffix(name)
        users = [core for core in settings.cores.values() if name in core.destinations]
        asked = [c for core in users if core.type == "milvue" for c in core.inference_commands]
        for what, wanted, is_wanted, family in (
            ("DETECTION", values.DETECTION_INFERENCE_COMMAND,
             values.INCLUDE_DETECTIONS_FINDINGS, DETECTIONS),
            ("MEASURES", values.MEASURES_INFERENCE_COMMAND,
             values.INCLUDE_MEASURES_FINDINGS, MEASURES),
        ):  # fmt: skip
            others = [command for command in asked if command in family]
            if is_wanted and others and wanted not in others:
                yield (
                    f"{what}_INFERENCE_COMMAND{suffix}: no core that delivers to {name} asks for"
                    f" {wanted!r}, so its messages go without; did you mean {others[0]}?"
                )

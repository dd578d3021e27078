"""What settings lack that are right one by one: all of it at once, not the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pacsor_tasks import settings_peers as peers
from pacsor_tasks import settings_records as records
from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_routing import core_suffixes, kind_in_use
from pacsor_tasks.settings_types import CoreSettings, is_loopback

if TYPE_CHECKING:
    from pacsor_tasks.settings import Settings

_RECORDS: dict[DestinationKind, Callable[[Any, str], Any]] = {
    DestinationKind.STORESCU: records.storescu,
    DestinationKind.STOW: records.stow,
    DestinationKind.FOLDER: records.folder,
    DestinationKind.HL7: peers.ris,
    DestinationKind.WEBHOOK: records.webhook,
}


def shortcomings(settings: Settings) -> list[str]:
    """Lines `NAME: what is wrong`, none twice; none for settings a gateway can start with.

    What a destination lacks is told beside what a core lacks, as far as the cores tell where they
    deliver.
    """
    said: list[str] = []

    def noted(check: Callable[[], Any]) -> Any:
        try:
            return check()
        except ValueError as exc:
            said.extend(str(exc).splitlines())
            return None

    suffixes: dict[str, str] = noted(partial(core_suffixes, settings)) or {"core": ""}
    cores: list[CoreSettings | None] = [
        noted(partial(peers.core, settings, name, suffix)) for name, suffix in suffixes.items()
    ]
    used = [name for core in cores if core is not None for name in core.destinations]
    if not said:
        used += noted(partial(peers.webps_destinations, settings)) or ()
    for name in dict.fromkeys(used):
        noted(partial(_RECORDS[kind_in_use(name)], settings, name))
    if not said:
        noted(partial(peers.require_reports, settings))
    return list(dict.fromkeys([*said, *_open_doors(settings)]))


def _open_doors(settings: Settings) -> Iterator[str]:
    """Pages that others than this machine could open, and nothing asks who they are."""
    if settings.ADMIN_TOKEN is None and not is_loopback(settings.ADMIN_HOST):
        yield f"ADMIN_TOKEN: required to listen beyond loopback (ADMIN_HOST={settings.ADMIN_HOST})"
    if settings.FLOWER_BASIC_AUTH is None and not is_loopback(settings.FLOWER_HOST):
        yield (
            "FLOWER_BASIC_AUTH: required to listen beyond loopback"
            f" (FLOWER_HOST={settings.FLOWER_HOST})"
        )

"""What is being received, on the command line: the spool beside the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pacsor_tasks import refusals
from pacsor_tasks.cli.common import local_time
from pacsor_tasks.receiving import Receiving
from pacsor_tasks.settings import Settings
from pacsor_tasks.spool import Spool
from pacsor_tasks.words import counted

if TYPE_CHECKING:
    from rich.console import Console

REFUSED_S, MAX_REFUSED = 86400.0, 10


def receiving(settings: Settings, study_uid: str | None = None) -> list[dict[str, Any]]:
    """What waits in the spool, of all studies or of one; as the admin API's JSON."""
    spool = Receiving(
        Spool(settings.spool_dir),
        quiet_s=settings.STUDY_QUIET_SECONDS,
        max_wait_s=settings.STUDY_MAX_WAIT_SECONDS,
    )
    found = spool.arrivals() if study_uid is None else spool.of(study_uid)
    return [arrival.to_json() for arrival in found]


def print_receiving(console: Console, arrivals: Sequence[Mapping[str, Any]]) -> None:
    """A line per study that is being received; nothing when none is."""
    for arrival in arrivals:
        last = f", last {local_time(arrival['last_at'])}" if arrival["last_at"] else ""
        console.print(
            f"{arrival['study_instance_uid']}: {arrival['state']},"
            f" {counted(arrival['instances'], 'instance')}{last}; {_reason(arrival)}",
            markup=False,
            soft_wrap=True,
        )


def print_refused(console: Console, settings: Settings) -> None:
    """Who was refused an association of late; nothing when nobody was."""
    since = time.time() - REFUSED_S
    kinds = [k for k in refusals.read(settings.spool_dir).kinds if k.last_at >= since]
    if kinds:
        console.print("\nassociations refused in the last day", style="bold")
    for kind in kinds[:MAX_REFUSED]:
        shown = kind.to_json()
        detail = f" ({shown['detail']})" if shown["detail"] else ""
        console.print(
            f"{shown['calling_aet'] or 'somebody'} at {shown['address']}: {shown['text']}{detail},"
            f" {counted(kind.count, 'time')}, last {local_time(shown['last_at'])}",
            markup=False,
            soft_wrap=True,
        )
    if len(kinds) > MAX_REFUSED:
        console.print(f"{len(kinds) - MAX_REFUSED} more on the page")


def _reason(arrival: Mapping[str, Any]) -> str:
    if arrival["due_at"]:
        word = "at the latest" if arrival["state"] == "receiving" else "due"
        return f"{arrival['reason']}, {word} {local_time(arrival['due_at'])}"
    if arrival["since_at"]:
        return f"{arrival['reason']} since {local_time(arrival['since_at'])}"
    return str(arrival["reason"])

"""`pacsor status` and `complete`: the ledger and the spool on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pacsor_tasks.cli.common import load_settings, local_time, make_console, quiet_logs
from pacsor_tasks.cli.receiving import print_receiving, print_refused, receiving
from pacsor_tasks.errors import NotFound, PacsorError
from pacsor_tasks.models import RunState
from pacsor_tasks.settings import Settings
from pacsor_tasks.words import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pacsor_tasks.ledger import Ledger

#: As values: of an enumeration click would take the names.
STATES = [state.value for state in RunState]
STYLES = {
    "done": "green", "delivered": "green", "failed": "bold red", "quarantined": "bold red",
    "retrying": "yellow", "filtered": "dim", "cancelled": "dim", "skipped": "dim",
}  # fmt: skip


@click.command()
@click.argument("study_uid", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only studies in this state.")
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="At most so many, the latest.",
)
@click.option("--json", "as_json", is_flag=True, help="As the admin API's JSON.")
def status(study_uid: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List the latest studies, or show one with its runs, deliveries and timeline."""
    quiet_logs()
    settings = load_settings()
    # Before the ledger: what moves on meanwhile is in one of the two.
    arriving = receiving(settings, study_uid) if state is None else []
    with _opened_ledger(settings) as ledger:
        if study_uid is None:
            found: Mapping[str, Any] = ledger.studies.page(state=state, limit=limit)
        else:
            found = _detail(ledger, study_uid, arriving)
    if as_json:
        click.echo(json.dumps({**found, "receiving": arriving}, indent=2))
        return
    console = make_console()
    if arriving:
        console.print("being received", style="bold")
        print_receiving(console, arriving)
    if study_uid is None:
        _print_list(console, found["studies"])
        print_refused(console, settings)
    elif "runs" in found:
        print_study(console, found)


@click.command()
@click.argument("study_uid")
def complete(study_uid: str) -> None:
    """Close a study that is being received at once, whatever is still open."""
    quiet_logs()
    settings = load_settings()
    from pacsor_tasks import operations
    from pacsor_tasks.spool import Spool

    operations.complete(study_uid, Spool(settings.spool_dir))


@contextmanager
def _opened_ledger(settings: Settings) -> Iterator[Ledger]:
    from pacsor_tasks.ledger import Ledger

    path = settings.DATA_DIR.absolute() / "ledger.sqlite3"
    if settings.LEDGER_URL is None and not path.exists():
        raise PacsorError(f"no ledger in DATA_DIR={settings.DATA_DIR}: no gateway has run there")
    ledger = Ledger(settings.ledger_url)
    try:
        yield ledger
    finally:
        ledger.close()


def _detail(
    ledger: Ledger, study_uid: str, arriving: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    found = ledger.studies.detail(study_uid)
    if found is None and not arriving:
        raise NotFound(f"study {study_uid}: never received")
    return found or {"study_instance_uid": study_uid}


def _print_list(console: Console, studies: Sequence[Mapping[str, Any]]) -> None:
    from rich.text import Text

    if not studies:
        console.print("no studies")
        return
    table = _table("updated", "study", "state", "waiting for", "due", "deliveries")
    for study in studies:
        deliveries = [d for run in study["runs"][:1] for d in run["deliveries"]]
        made = sum(d["state"] == "delivered" for d in deliveries)
        table.add_row(
            local_time(study["updated_at"]),
            study["study_instance_uid"],
            _styled(study["state"]),
            Text(study["error"] or study["waiting_for"] or ""),
            local_time(study["due_at"]),
            f"{made}/{len(deliveries)}",
        )
    console.print(table)


def print_study(console: Console, study: Mapping[str, Any]) -> None:
    """One study for a person: revisions, runs, deliveries, timeline."""
    console.print(f"study {study['study_instance_uid']}: {_styled(study['state'])}")
    for revision in study["revisions"]:
        size = f"{revision['size_bytes'] / 1e6:.1f} MB"
        removed = ", pixels removed" if revision["removed_at"] else ""
        console.print(
            f"  revision {revision['number']}: {counted(revision['instances'], 'instance')},"
            f" {size}, received {local_time(revision['created_at'])}"
            f" ({revision['reason']}){removed}"
        )
    for run in study["runs"]:
        _print_run(console, run)
    console.print("\ntimeline", style="bold")
    for event in study["events"]:
        where = f" {event['destination']}" if event["destination"] else ""
        console.print(f"  {local_time(event['at'])}  {event['kind']}{where}  ", end="", style="dim")
        console.print(event["message"], markup=False, soft_wrap=True)


def _print_run(console: Console, run: Mapping[str, Any]) -> None:
    from rich.text import Text

    from pacsor_tasks.admin.views import relaunched

    again = f", {relaunched(run)}" if run["relaunched"] else ""
    console.print(
        f"\nrun {run['id']} ({run['core']}, revision {run['revision']}{again}):"
        f" {_styled(run['state'])}"
    )
    if run["instances"]:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in run["instances"].items())
        console.print(f"  instances: {counts}")
    for why in run["left_out"]:
        said = why["reason"] or why["outcome"]
        console.print(f"  {why['instances']} {why['outcome']}: {said}", markup=False)
    for command in run["commands"]:
        reason = f" ({command['reason']})" if command["reason"] else ""
        console.print(f"  {command['name']}: {command['outcome']}{reason}", markup=False)
    _print_wait(console, run)
    if run["deliveries"]:
        table = _table("  destination", "state", "sent", "tries", "waiting for", "due")
        for delivery in run["deliveries"]:
            table.add_row(
                f"  {delivery['destination']}",
                _styled(delivery["state"]),
                f"{delivery['sent']}/{delivery['total']}",
                str(delivery["attempts"]),
                Text(delivery["error"] or delivery["waiting_for"] or ""),
                local_time(delivery["due_at"]),
            )
        console.print(table)


def _print_wait(console: Console, run: Mapping[str, Any]) -> None:
    if run["waiting_for"]:
        due = f", due {local_time(run['due_at'])}" if run["due_at"] else ""
        console.print(f"  waiting for {run['waiting_for']}{due}", markup=False, soft_wrap=True)
    if run["error"]:
        console.print(f"  error: {run['error']}", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _styled(state: str) -> str:
    style = STYLES.get(state, "cyan")
    return f"[{style}]{state}[/{style}]"

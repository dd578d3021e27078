"""The operator's verbs: `pacsor retry`, `skip`, `reroute`, `cancel`, `pause`, `resume`, `peers`."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pacsor_tasks.cli.common import load_settings, local_time, make_console, quiet_logs
from pacsor_tasks.errors import Conflict, NotFound, PacsorError

if TYPE_CHECKING:
    from pacsor_tasks.models import Run
    from pacsor_tasks.ports import Ports

STYLES = {"closed": "green", "trial": "yellow", "open": "bold red", "paused": "dim"}
WHAT = click.argument("what", metavar="STUDY_UID|RUN_ID")
DESTINATION = click.argument("destination")
CORE = click.option("--core", help="Only on this core, where a study went to several.")


@click.command()
@WHAT
@click.argument("destination", required=False)
@CORE
def retry(what: str, destination: str | None, core: str | None) -> None:
    """Try now what waits, failed or is quarantined: a run, or its delivery to DESTINATION."""
    from pacsor_tasks import operations

    with opened() as ports:
        _each(
            _runs(what, core, ports, destination),
            lambda run: (
                operations.retry_delivery(f"{run.id}:{destination}", whoami(), ports)
                if destination
                else operations.retry_run(run.id, whoami(), ports)
            ),
            "is tried again now",
        )


@click.command()
@WHAT
@DESTINATION
@click.option("--reason", required=True, help="Why; kept in the timeline. No patient data.")
@CORE
def skip(what: str, destination: str, reason: str, core: str | None) -> None:
    """Give the delivery to DESTINATION up; the run goes on without it."""
    from pacsor_tasks import operations

    with opened() as ports:
        _each(
            _runs(what, core, ports, destination),
            lambda run: operations.skip_delivery(
                f"{run.id}:{destination}", whoami(), reason, ports
            ),
            f"goes on without {destination}",
        )


@click.command()
@WHAT
@DESTINATION
@click.option("--to", required=True, help="The configured destination that gets them instead.")
@CORE
def reroute(what: str, destination: str, to: str, core: str | None) -> None:
    """Send the results that wait for DESTINATION to another one instead."""
    from pacsor_tasks import operations

    with opened() as ports:
        _each(
            _runs(what, core, ports, destination),
            lambda run: operations.reroute_delivery(f"{run.id}:{destination}", to, whoami(), ports),
            f"goes to {to} instead of {destination}",
        )


@click.command()
@WHAT
@CORE
@click.confirmation_option(prompt="What is not delivered yet will not be. Cancel?")
def cancel(what: str, core: str | None) -> None:
    """End an unfinished run where it is. Asks first, unless --yes is given."""
    from pacsor_tasks import operations

    with opened() as ports:
        _each(
            _runs(what, core, ports),
            lambda run: operations.cancel_run(run.id, whoami(), ports),
            "is cancelled",
        )


@click.command()
@click.argument("name", metavar="DESTINATION|CORE")
@click.option("--reason", default="", help="Why; shown wherever something waits for it.")
def pause(name: str, reason: str) -> None:
    """Send nothing to a destination or core until it is resumed."""
    from pacsor_tasks import operations

    with opened() as ports:
        peer = operations.peer_called(name, ports)
        operations.pause(peer, whoami(), reason, ports)
        click.echo(f"{peer} is paused")


@click.command()
@click.argument("name", metavar="DESTINATION|CORE")
def resume(name: str) -> None:
    """Send to a paused destination or core again."""
    from pacsor_tasks import operations

    with opened() as ports:
        peer = operations.peer_called(name, ports)
        operations.resume(peer, whoami(), ports)
        click.echo(f"{peer} is resumed")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the admin API's JSON.")
def peers(as_json: bool) -> None:
    """List cores and destinations: whether each is talked to, why not, and what waits for it."""
    from rich.table import Table
    from rich.text import Text

    from pacsor_tasks.admin.peers import listing

    with opened() as ports:
        found = listing(ports)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "state", "since", "waiting", "quarantined", "why"):
        table.add_column(column, overflow="fold")
    for entry in found:
        by = f"by {entry['by']}: " if entry["by"] else ""
        table.add_row(
            entry["name"],
            Text(entry["state"], STYLES[entry["state"]]),
            local_time(entry["since"]),
            str(entry["waiting"]),
            str(entry["quarantined"]),
            Text(f"{by}{entry['reason'] or ''}"),
        )
    make_console().print(table)


@contextmanager
def opened() -> Iterator[Ports]:
    """The gateway's ports, where one has run.

    Raises:
        PacsorError: None has, in this DATA_DIR.
    """
    quiet_logs()
    settings = load_settings()
    path = settings.DATA_DIR.absolute() / "ledger.sqlite3"
    if settings.LEDGER_URL is None and not path.exists():
        raise PacsorError(f"no ledger in DATA_DIR={settings.DATA_DIR}: no gateway has run there")
    from pacsor_tasks import wiring

    try:
        yield wiring.ports()
    finally:
        wiring.close()


def whoami() -> str:
    """The user of the operating system, for the timeline."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "operator"


def _runs(what: str, core: str | None, ports: Ports, destination: str | None = None) -> list[Run]:
    """The run of this id, or the latest run of each core of this study."""
    run = ports.ledger.runs.get(what)
    if run is not None:
        return [run]
    detail = ports.ledger.studies.detail(what)
    if detail is None:
        raise NotFound(f"{what}: neither a study that was received nor a run")
    latest: dict[str, str] = {}
    for shown in detail["runs"]:
        names = {d["destination"] for d in shown["deliveries"]}
        if core in {None, shown["core"]} and (destination is None or destination in names):
            latest.setdefault(shown["core"], shown["id"])
    found = [ports.ledger.runs.get(run_id) for run_id in latest.values()]
    if not found:
        said = f" with a delivery to {destination}" if destination else ""
        raise NotFound(f"study {what}: no run{said}{f' on {core}' if core else ''}")
    return [run for run in found if run is not None]


def _each(runs: list[Run], act: Callable[[Run], Any], done: str) -> None:
    """Act on each run; that it fits none of them is an error, that it fits not all is told."""
    refused: list[PacsorError] = []
    for run in runs:
        try:
            act(run)
        except (Conflict, NotFound) as exc:
            refused.append(exc)
            if len(runs) > 1:
                click.echo(f"run {run.id} ({run.core}): {exc}", err=True)
        else:
            click.echo(f"run {run.id} ({run.core}) {done}")
    if len(refused) == len(runs):
        raise refused[-1]

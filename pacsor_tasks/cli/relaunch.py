"""`pacsor relaunch`: one study or many, from any step, to all destinations or one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pacsor_tasks.cli.common import local_time, make_console
from pacsor_tasks.cli.operate import opened, whoami
from pacsor_tasks.errors import ConfigError, Conflict, NotFound
from pacsor_tasks.ledger.starts import STARTS
from pacsor_tasks.models import DeliveryState, RunState
from pacsor_tasks.words import counted

if TYPE_CHECKING:
    from pacsor_tasks.ledger import Choice, Relaunch
    from pacsor_tasks.ports import Ports
    from pacsor_tasks.relaunching import Fared

#: As values: of an enumeration click would take the names.
STEPS = [step.value for step in STARTS]
STATES = [state.value for state in (*RunState, *DeliveryState)]


@click.command()
@click.argument("study_uids", nargs=-1, metavar="[STUDY_UID…]")
@click.option("--from", "start", type=click.Choice(STEPS), help="The step to begin at.")
@click.option("--only", metavar="DESTINATION", help="Deliver to this destination alone.")
@click.option("--core", help="Only on this core; of many, those that went to it.")
@click.option("--since", metavar="TIME", help="Received at or after: 2026-03-01, 2026-03-01T08:30.")
@click.option("--until", metavar="TIME", help="Received before.")
@click.option("--state", type=click.Choice(STATES), help="Of the latest run, or of a delivery.")
@click.option(
    "--destination", help="That go to it; with a delivery's --state, in that state there."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="More than so many are refused.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be relaunched.")
@click.option("--yes", is_flag=True, help="Do not ask before many are relaunched.")
@click.option("--json", "as_json", is_flag=True, help="As the admin API's JSON.")
def relaunch(study_uids: tuple[str, ...], **given: Any) -> None:
    """Send studies through the AI and to their destinations again.

    Without --from a relaunch begins at the filters; with --only and without --from, as late as what
    is still held allows. Studies are named, or chosen by when they came and how they fared: those
    are listed and asked about first. Prints the ids of the new runs. Exit status 1 when one of the
    studies could not be relaunched, or not on one of its cores.
    """
    from pacsor_tasks import relaunching
    from pacsor_tasks.ledger import Relaunch

    start = relaunching.start_named(given["start"])
    wish = Relaunch(from_step=start, only=given["only"], by=whoami())
    choice = _choice(study_uids, given)
    with opened() as ports:
        if len(study_uids) == 1 and not (given["dry_run"] or given["as_json"] or _chooses(given)):
            made = relaunching.relaunch(study_uids[0], ports, wish, given["core"])
            for run_id in made.run_ids:
                click.echo(run_id)
            _tell_refused_on(study_uids[0], made.refused_on)
            if made.refused_on:
                sys.exit(1)
            return
        _many(choice, wish, given, ports)


def _many(choice: Choice, wish: Relaunch, given: dict[str, Any], ports: Ports) -> None:
    from pacsor_tasks import relaunching

    core = given["core"]
    chosen = relaunching.choose(choice, given["limit"], ports)
    if unknown := [one.chosen.study_uid for one in relaunching.not_found(choice, chosen)]:
        raise NotFound(f"never received, or not meant: {', '.join(sorted(unknown))}")
    planned = relaunching.plan_many(chosen, ports, wish, core)
    possible = [fared for fared in planned if fared.refused is None]
    if given["dry_run"]:
        _tell(planned, given["as_json"], is_dry=True)
        return
    if not possible or not (given["yes"] or choice.study_uids):
        _tell(planned, as_json=False, is_dry=True, to_stderr=True)
    if not possible:
        raise Conflict("nothing is to be relaunched")
    if not (given["yes"] or choice.study_uids):
        click.confirm(
            f"Relaunch {counted(len(possible), 'study', 'studies')}?", abort=True, err=True
        )
    fared = relaunching.relaunch_many(chosen, ports, wish, core)
    _tell(fared, given["as_json"], is_dry=False)
    sys.exit(1 if any(one.refused or one.refused_on for one in fared) else 0)


def _tell(fared: Sequence[Fared], as_json: bool, *, is_dry: bool, to_stderr: bool = False) -> None:
    if as_json:
        click.echo(json.dumps([one.to_json() for one in fared], indent=2))
        return
    if to_stderr or is_dry:
        _list(fared, to_stderr=to_stderr)
    else:
        for one in fared:
            for run_id in one.run_ids:
                click.echo(run_id)
            if one.refused:
                click.echo(f"pacsor: {_without_uid(one)}", err=True)
            _tell_refused_on(one.chosen.study_uid, one.refused_on)
    n = sum(one.refused is None for one in fared)
    would = "would be" if is_dry else ("is" if n == 1 else "are")
    rest = f", {len(fared) - n} cannot be" if n < len(fared) else ""
    click.echo(f"{counted(n, 'study', 'studies')} {would} relaunched{rest}", err=True)


def _list(fared: Sequence[Fared], *, to_stderr: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("received", "study", "relaunch"):
        table.add_column(column, overflow="fold")
    for one in fared:
        shown = one.chosen.to_json()
        what = "; ".join(
            f"{run.core} from {run.start} to {', '.join(run.destinations) or 'nobody'}"
            for run in one.planned
        )
        why = (one.refused or "").removeprefix(f"study {one.chosen.study_uid}: ")
        told = Text(f"not: {why}", "red") if one.refused else Text(what)
        for core, reason in one.refused_on.items():
            told.append(f"; not on {core}: {reason}", "red")
        table.add_row(local_time(shown["received_at"]), one.chosen.study_uid, told)
    console = make_console()
    console.stderr = to_stderr
    if fared:
        console.print(table)


def _tell_refused_on(study_uid: str, refused_on: Mapping[str, str]) -> None:
    for core, why in refused_on.items():
        click.echo(f"pacsor: study {study_uid}: not on {core}: {why}", err=True)


def _without_uid(one: Fared) -> str:
    uid = one.chosen.study_uid
    return f"study {uid}: " + (one.refused or "").removeprefix(f"study {uid}: ")


def _choice(study_uids: tuple[str, ...], given: dict[str, Any]) -> Choice:
    from pacsor_tasks.ledger import Choice

    state = given["state"]
    return Choice(
        study_uids=study_uids,
        since=_moment("--since", given["since"]),
        until=_moment("--until", given["until"]),
        state=state and (RunState(state) if state in set(RunState) else DeliveryState(state)),
        destination=given["destination"],
        # Of studies that are named, it only says where.
        core=None if study_uids else given["core"],
    )


def _chooses(given: dict[str, Any]) -> bool:
    return any(given[name] for name in ("since", "until", "state", "destination"))


def _moment(option: str, text: str | None) -> float | None:
    """A time on this machine's clock, or with its zone."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as exc:
        raise ConfigError(f"{option}: {text!r} is not a time like 2026-03-01T08:30") from exc

"""`pacsor send`: C-STORE of files, directories and zip archives, to our own receiver by default."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from pacsor_tasks.cli.common import load_settings, quiet_logs
from pacsor_tasks.cli.dicom_files import Source, Tally, batches
from pacsor_tasks.cli.nodes import DEFAULT_CALLING_AET, describe, own_receiver, parse_node
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import Pacs, StoreItem
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.errors import PacsorError, Permanent

#: Complaints told one by one; the rest is counted.
TOLD = 20
SAY_EVERY_S = 5.0


@dataclass
class Outcome:
    """What became of what was sent."""

    sent: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    #: in order of appearance
    study_uids: dict[str, None] = field(default_factory=dict)
    #: why sending ended early
    stopped: str | None = None


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE | DIRECTORY | ZIP…",
)
@click.option("--to", "node", metavar="AET@HOST:PORT", help="Instead of this gateway's receiver.")
@click.option(
    "--calling-aet", default=DEFAULT_CALLING_AET, show_default=True, help="Who we say we are."
)
def send(paths: tuple[Path, ...], node: str | None, calling_aet: str) -> None:
    """Send DICOM files by C-STORE; directories with all below them; zip archives as they are.

    What is not DICOM is left out and counted. Exit status 1 when something was not stored.
    """
    quiet_logs()
    target = parse_node(node, calling_aet) if node else own_receiver(load_settings(), calling_aet)
    tally, started = Tally(), time.monotonic()
    outcome = send_all(paths, target, tally)
    _report(outcome, tally, describe(target), time.monotonic() - started)
    is_well = outcome.sent and not (outcome.refused or outcome.stopped or tally.unreadable)
    sys.exit(0 if is_well else 1)


def send_all(paths: Sequence[Path], target: Pacs, tally: Tally) -> Outcome:
    """Send everything below `paths`, an association per batch."""
    outcome = Outcome()
    progress = _Progress()
    for batch in batches(paths, tally):
        try:
            _send_batch(batch, target, outcome, progress)
        except Permanent as exc:
            # One refused for good does not stop the others; an association refused does.
            if not outcome.sent and not outcome.refused:
                outcome.stopped = str(exc)
                break
        except PacsorError as exc:
            outcome.stopped = str(exc)
            break
    progress.end()
    return outcome


def _send_batch(
    batch: Sequence[Source], target: Pacs, outcome: Outcome, progress: _Progress
) -> None:
    def on_answer(item: StoreItem, status: int, words: str) -> None:
        if classify(status) is Verdict.DELIVERED:
            outcome.sent += 1
            outcome.study_uids[batch[item.key].study_uid] = None
        else:
            outcome.refused.append((batch[item.key].label, f"0x{status:04X} ({words})"))
        progress.show(outcome)

    scu.store(target, [source.item for source in batch], on_answer)


class _Progress:
    """A counter in place on a terminal, a line now and then in a log file."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._is_terminal else SAY_EVERY_S
        self._next_at = time.monotonic() + self._every_s

    def show(self, outcome: Outcome) -> None:
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + self._every_s
        text = f"{outcome.sent} sent" + (
            f", {len(outcome.refused)} refused" if outcome.refused else ""
        )
        click.echo(f"\r{text}" if self._is_terminal else text, err=True, nl=not self._is_terminal)

    def end(self) -> None:
        if self._is_terminal:
            click.echo("\r\033[K", err=True, nl=False)


def _report(outcome: Outcome, tally: Tally, target: str, seconds: float) -> None:
    for what, complaints in (("not stored", outcome.refused), ("not sent", tally.unreadable)):
        for label, reason in complaints[:TOLD]:
            click.echo(f"{what}: {label}: {reason}", err=True)
        if len(complaints) > TOLD:
            click.echo(f"{what}: {len(complaints) - TOLD} more", err=True)
    if outcome.stopped:
        click.echo(f"stopped: {outcome.stopped}", err=True)
    left_out = f"; {tally.not_dicom} not DICOM, left out" if tally.not_dicom else ""
    failed = len(outcome.refused) + len(tally.unreadable)
    problems = f"; {failed} not stored" if failed else ""
    instances = _count(outcome.sent, "instance")
    studies = _count(len(outcome.study_uids), "study", "studies")
    click.echo(f"{instances} of {studies} to {target} in {seconds:.1f} s{problems}{left_out}")
    for study_uid in list(outcome.study_uids)[:TOLD]:
        click.echo(f"  {study_uid}")


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one}" if n == 1 else f"{n} {many or one + 's'}"

"""The sweep: launches what is due, orphaned or was never enqueued. Safe to run twice at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import structlog

from pacsor_tasks import pipeline
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.ledger.runs import Due
from pacsor_tasks.models import Step
from pacsor_tasks.ports import Ports

log = structlog.get_logger(__name__)

#: Runs asked for in one poll task.
POLL_BATCH = 50
#: At most so many launches per sweep and kind.
LIMIT = 500
#: With more messages than this in a queue a late one counts as queued, not as lost.
CROWDED = 100


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    ingests: int = 0
    runs: int = 0
    polls: int = 0
    deliveries: int = 0

    def __bool__(self) -> bool:
        return bool(self.ingests or self.runs or self.polls or self.deliveries)


def reconcile(ports: Ports) -> Swept:
    """One sweep over the outbox, the runs and the deliveries.

    Raises:
        PeerUnavailable: The ledger or the broker is away; the next sweep goes on.
    """
    swept = Swept()
    _outbox(ports, swept)
    _runs(ports, swept)
    _deliveries(ports, swept)
    if swept:
        log.info("reconcile.launched", ingests=swept.ingests, runs=swept.runs, polls=swept.polls,
                 deliveries=swept.deliveries)  # fmt: skip
    return swept


def recover_ready(ports: Ports) -> int:
    """Enqueue every directory of `ready/` that the ledger does not know, outbox entry or not.

    For a ledger that was lost or restored from an older copy.

    Returns:
        How many were enqueued.
    """
    found = 0
    for study_uid, token in ports.spool.all_ready():
        if not ports.ledger.intake.knows(token):
            _ingest(study_uid, token, ports)
            found += 1
    return found


def _outbox(ports: Ports, swept: Swept) -> None:
    if ports.queue_length("ingest") > 0:
        return  # what the receiver just published is on its way
    for study_uid, token in ports.spool.outbox():
        if ports.ledger.intake.knows(token):
            ports.spool.acknowledge(token)
        elif _age_s(token, ports) > ports.stale_s:
            _ingest(study_uid, token, ports)
            swept.ingests += 1


def _age_s(token: str, ports: Ports) -> float:
    try:
        return ports.ledger.clock() - ports.spool.path(f"outbox/{token}").stat().st_mtime
    except FileNotFoundError:
        return 0.0  # acknowledged a moment ago


def _ingest(study_uid: str, token: str, ports: Ports) -> None:
    pipeline.enqueue_ingest(study_uid, ports.spool.instance_paths(study_uid, token))


def _runs(ports: Ports, swept: Swept) -> None:
    due = ports.ledger.runs.due(stale_s=_stale(ports, "transfer"), limit=LIMIT)
    polls: list[str] = []
    for run in due:
        if run.step is Step.DELIVER:
            _watch(run, ports)
        elif not ports.ledger.runs.mark_enqueued(run):
            continue
        elif run.step is Step.POLL:
            polls.append(run.run_id)
        else:
            pipeline.launch(run.run_id, run.step, ports.ledger.deliveries.of_run(run.run_id))
            swept.runs += 1
    for start in range(0, len(polls), POLL_BATCH):
        pipeline.launch_polls(polls[start : start + POLL_BATCH])
    swept.polls = len(polls)


def _watch(run: Due, ports: Ports) -> None:
    # The worker that ended the last delivery died before it moved the run on.
    if ports.ledger.runs.settle(run.run_id):
        pipeline.launch(run.run_id, Step.CLEANUP, ())
    else:
        ports.ledger.runs.watch(run.run_id)


def _deliveries(ports: Ports, swept: Swept) -> None:
    for due in ports.ledger.deliveries.due(stale_s=_stale(ports, "deliver"), limit=LIMIT):
        if ports.ledger.deliveries.mark_enqueued(due):
            pipeline.launch_delivery(due.delivery_id, due.kind)
            swept.deliveries += 1


def _stale(ports: Ports, queue: str) -> float:
    try:
        crowded = ports.queue_length(queue) > CROWDED
    except PeerUnavailable:
        crowded = True
    return math.inf if crowded else ports.stale_s

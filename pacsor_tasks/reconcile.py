"""The sweep: launches what is due, orphaned or was never enqueued. Safe to run twice at once."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import islice

import structlog

from pacsor_tasks import pipeline, probing
from pacsor_tasks.errors import PeerUnavailable, Permanent
from pacsor_tasks.ledger.deliveries import DueDelivery
from pacsor_tasks.ledger.runs import Due as DueRun
from pacsor_tasks.models import PeerKind, PeerName, Step
from pacsor_tasks.ports import Ports

log = structlog.get_logger(__name__)

#: Runs asked for in one poll task.
POLL_BATCH = 50
#: At most so many launches per sweep and kind.
LIMIT = 500
#: Revisions looked up in one query.
LOOKUP = 500
#: With more messages than this in a queue a late one counts as queued, not as lost.
CROWDED = 100


@dataclass(slots=True)
class Swept:
    """What one sweep did."""

    ingests: int = 0
    runs: int = 0
    polls: int = 0
    deliveries: int = 0
    probes: int = 0

    def __bool__(self) -> bool:
        return bool(self.ingests or self.runs or self.polls or self.deliveries or self.probes)


def reconcile(ports: Ports) -> Swept:
    """One sweep over the outbox, the runs and the deliveries.

    Raises:
        PeerUnavailable: The ledger or the broker is away; the next sweep goes on.
    """
    swept = Swept()
    _outbox(ports, swept)
    swept.probes = probing.start_probes(ports)
    ports.ledger.peers.hold_due(ports.retry.horizon_s)
    _runs(ports, swept)
    _deliveries(ports, swept)
    if swept:
        log.info("reconcile.launched", ingests=swept.ingests, runs=swept.runs, polls=swept.polls,
                 deliveries=swept.deliveries, probes=swept.probes)  # fmt: skip
    return swept


def recover_ready(ports: Ports) -> int:
    """Enqueue every directory of `ready/` that the ledger does not know, outbox entry or not.

    For a ledger that was lost or restored from an older copy.

    Returns:
        How many were enqueued.
    """
    found = 0
    ready = ports.spool.all_ready()
    while revisions := list(islice(ready, LOOKUP)):
        known = ports.ledger.retention.tokens([token for _, token in revisions])
        for study_uid, token in revisions:
            if token not in known:
                found += _ingest(study_uid, token, ports)
    return found


def _outbox(ports: Ports, swept: Swept) -> None:
    if ports.queue_length("ingest") > 0:
        return  # what the receiver just published is on its way
    for study_uid, token in ports.spool.outbox():
        if ports.ledger.intake.knows(token):
            ports.spool.acknowledge(token)
        elif _is_stale(token, ports):
            swept.ingests += _ingest(study_uid, token, ports)


def _is_stale(token: str, ports: Ports) -> bool:
    """Whether the entry's last message is too old to be under way; if so it is dated anew."""
    entry, now = ports.spool.path(f"outbox/{token}"), ports.ledger.clock()
    try:
        if now - entry.stat().st_mtime <= ports.stale_s:
            return False
        # Else one that cannot be ingested, or not so fast, would be enqueued by every sweep.
        os.utime(entry, (now, now))
    except FileNotFoundError:
        return False  # acknowledged a moment ago
    return True


def _ingest(study_uid: str, token: str, ports: Ports) -> bool:
    try:
        paths = ports.spool.instance_paths(study_uid, token)
    except Permanent:
        return False  # removed a moment ago
    pipeline.enqueue_ingest(study_uid, paths)
    return True


def _runs(ports: Ports, swept: Swept) -> None:
    ports.ledger.runs.watch()
    stale_s = _stale(ports, "transfer")
    # Core by core: the backlog of one is not to hide another's work, nor its silence to hold up a
    # batch in which another's predictions are asked for.
    for core in ports.ledger.runs.cores():
        _launch_runs(_due_of_core(core, stale_s, ports), ports, swept)


def _due_of_core(core: str, stale_s: float, ports: Ports) -> list[DueRun]:
    due, slots = ports.ledger.runs.due, ports.slots_of_core(core)
    if not slots:
        return due(stale_s=stale_s, limit=LIMIT, core=core)
    found = due(stale_s=stale_s, limit=LIMIT, core=core, is_asking=False)
    # What finds no slot would only be turned away by a worker.
    free = ports.ledger.peers.free_slots(PeerName(PeerKind.CORE, core), slots)
    if free:
        asking = due(stale_s=stale_s, limit=LIMIT, core=core, is_asking=True)
        # Fifty polls need but one slot.
        found += [run for run in asking if run.step is Step.POLL]
        found += [run for run in asking if run.step is not Step.POLL][:free]
    return found


def _launch_runs(due: list[DueRun], ports: Ports, swept: Swept) -> None:
    polls: list[str] = []
    for run in due:
        if run.step is Step.DELIVER:
            # The worker that ended the last delivery died before it moved the run on.
            if ports.ledger.runs.settle(run.run_id):
                pipeline.launch(run.run_id, Step.CLEANUP, ())
        elif not ports.ledger.runs.mark_enqueued(run):
            continue
        elif run.step is Step.POLL:
            polls.append(run.run_id)
        else:
            pipeline.launch(run.run_id, run.step, ports.ledger.deliveries.of_run(run.run_id))
            swept.runs += 1
    for start in range(0, len(polls), POLL_BATCH):
        pipeline.launch_polls(polls[start : start + POLL_BATCH])
    swept.polls += len(polls)


def launch_after(run_id: str, ports: Ports) -> None:
    """As `launch_next_run`, for the core of a run whose step has ended or was turned away."""
    if any(core.slots for core in ports.cores.values()):
        run = ports.ledger.runs.get(run_id)
        if run is not None:
            launch_next_run(run.core, ports, after=run_id)


def launch_next_run(core: str, ports: Ports, after: str = "") -> None:
    """Publish the step that waits for a slot of its core, now that one is free.

    As `launch_next` does for deliveries, and for its reasons.
    """
    slots = ports.slots_of_core(core)
    if not slots:
        return
    due = ports.ledger.runs.due(stale_s=math.inf, limit=1, core=core, is_asking=True)
    peer = PeerName(PeerKind.CORE, core)
    if due and due[0].run_id != after and ports.ledger.peers.free_slots(peer, slots):
        _launch_runs(due, ports, Swept())


def launch_next(destination: str, ports: Ports, after: str = "") -> None:
    """Publish the delivery that waits for a slot of its destination, now that one is free.

    Else a destination would get no more than its slots' worth of deliveries per sweep. Not the one
    it is `after`: that was turned away, since an older message is still under way, and would be
    turned away again without end.
    """
    slots = ports.slots_of(destination)
    due = _due(destination, 1, math.inf, ports) if slots else []
    peer = PeerName(PeerKind.DESTINATION, destination)
    if due and due[0].delivery_id != after and ports.ledger.peers.free_slots(peer, slots):
        _publish(due, ports)


def first_in_line(delivery_id: str, ports: Ports) -> str:
    """What a queue's message about a delivery is good for: before a RIS whatever goes first.

    Who is turned away gets a new message, at the end of the queue. Were each message good for its
    own delivery only, the first in line would wait there behind everybody else's work, and for its
    sake all that come out of the queue meanwhile would be turned away, one by one.
    """
    destination = delivery_id.partition(":")[2]
    if destination not in ports.ris:
        return delivery_id
    due = _due(destination, 1, -math.inf, ports)
    if not due or due[0].delivery_id == delivery_id:
        return delivery_id
    ports.ledger.deliveries.let_go_first(delivery_id)
    return due[0].delivery_id


def _deliveries(ports: Ports, swept: Swept) -> None:
    stale_s = _stale(ports, "deliver")
    for destination in ports.ledger.peers.destinations():
        slots = ports.slots_of(destination)
        # What finds no slot would only be turned away by a worker.
        peer = PeerName(PeerKind.DESTINATION, destination)
        free = ports.ledger.peers.free_slots(peer, slots) if slots else LIMIT
        if free:
            swept.deliveries += _publish(_due(destination, free, stale_s, ports), ports)


def _due(destination: str, limit: int, stale_s: float, ports: Ports) -> list[DueDelivery]:
    return ports.ledger.deliveries.due(
        stale_s=stale_s, limit=limit, destination=destination, in_line=destination in ports.ris
    )


def _publish(due: list[DueDelivery], ports: Ports) -> int:
    launched = 0
    for delivery in due:
        if ports.ledger.deliveries.mark_enqueued(delivery):
            pipeline.launch_delivery(delivery.delivery_id, delivery.kind)
            launched += 1
    return launched


def _stale(ports: Ports, queue: str) -> float:
    try:
        crowded = ports.queue_length(queue) > CROWDED
    except PeerUnavailable:
        crowded = True
    return math.inf if crowded else ports.stale_s

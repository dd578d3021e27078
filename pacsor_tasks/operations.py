"""What an operator can do: one function per verb, for CLI, API and Celery alike.

Relaunches are in `relaunching`.
"""

from __future__ import annotations

import structlog

from pacsor_tasks import pipeline
from pacsor_tasks.errors import Conflict, NotFound, PeerUnavailable
from pacsor_tasks.ledger.verbs import Subject
from pacsor_tasks.models import DeliveryState, PeerKind, PeerName, Step
from pacsor_tasks.ports import Ports
from pacsor_tasks.spool import Spool

log = structlog.get_logger(__name__)

#: Who did it, where nobody gave a name.
SOMEBODY = "operator"
MAX_NAME, MAX_REASON = 64, 300


def complete(study_uid: str, spool: Spool) -> None:
    """Say that a study is complete: the receiver closes it at once, whatever is still open.

    What comes later makes a further revision.

    Raises:
        NotFound: No instance of it is waiting to be closed.
        PeerUnavailable: The spool cannot be written.
    """
    try:
        is_arriving = spool.request_stable(study_uid)
    except OSError as exc:
        raise PeerUnavailable(f"the spool cannot be written: {exc.strerror}") from exc
    if not is_arriving:
        raise NotFound(f"study {study_uid}: nothing of it is being received")
    log.info("study.completed", study_uid=study_uid)


def retry_delivery(delivery_id: str, by: str, ports: Ports) -> Subject:
    """Try a delivery now that waits or is quarantined; the sweep launches it within a second.

    Raises:
        NotFound: There is no such delivery, or its results are no longer held.
        Conflict: A worker is at it, it is over, or its destination is paused.
    """
    _require_results(delivery_id, ports)
    subject = ports.ledger.verbs.retry_delivery(delivery_id, name_of(by))
    _probe_now(delivery_id, ports)
    log.info("operator.retried", delivery=delivery_id)
    return subject


def retry_run(run_id: str, by: str, ports: Ports) -> Subject:
    """Try a run now that waits or failed, or each delivery it waits for or failed by.

    Raises:
        NotFound: There is no such run, or its instances or results are no longer held.
        Conflict: A worker is at it, it is over otherwise, was relaunched since, or waits for a
            peer that is paused.
    """
    run = ports.ledger.runs.get(run_id)
    if run is not None and run.step is Step.DELIVER:
        for delivery in ports.ledger.deliveries.of_run(run_id):
            _require_results(delivery.id, ports)
    subject = ports.ledger.verbs.retry_run(run_id, name_of(by))
    if run is not None:
        ports.ledger.peers.probe_now(PeerName(PeerKind.CORE, run.core))
        for delivery in ports.ledger.deliveries.of_run(run_id):
            _probe_now(delivery.id, ports)
    log.info("operator.retried", run_id=run_id)
    return subject


def skip_delivery(delivery_id: str, by: str, reason: str, ports: Ports) -> Subject:
    """Give a delivery up; the run goes on without it.

    Raises:
        NotFound: There is no such delivery.
        Conflict: It is over, or no reason was given.
    """
    subject = ports.ledger.verbs.skip_delivery(delivery_id, name_of(by), _required(reason))
    ports.ledger.deliveries.wake_after_images(subject.run_id)
    log.info("operator.skipped", delivery=delivery_id)
    return subject


def reroute_delivery(delivery_id: str, to: str, by: str, ports: Ports) -> Subject:
    """Send a delivery's results to another configured destination instead.

    Raises:
        NotFound: There is no such delivery or destination, or its results are no longer held.
        Conflict: It is over, the other one speaks another language or gets the results already.
    """
    kind = ports.kind(to)
    if kind is None:
        raise NotFound(f"{to!r} is no configured destination (DESTINATIONS)")
    _require_results(delivery_id, ports)
    subject = ports.ledger.verbs.reroute_delivery(delivery_id, (to, kind), name_of(by))
    log.info("operator.rerouted", delivery=delivery_id, to=to)
    return subject


def cancel_run(run_id: str, by: str, ports: Ports) -> Subject:
    """End a run where it is; a worker that holds it can commit nothing more.

    Raises:
        NotFound: There is no such run.
        Conflict: It is over.
    """
    run = ports.ledger.runs.get(run_id)
    if run is None:
        raise NotFound(f"no run {run_id}")
    by = name_of(by)
    if not ports.ledger.runs.cancel(run_id, f"cancelled by {by}", by):
        raise Conflict(f"the run is over: {run.state}")
    log.info("operator.cancelled", run_id=run_id)
    return Subject(run.study_uid, run_id)


def pause(peer: PeerName, by: str, reason: str, ports: Ports) -> None:
    """Talk to a core or destination no more until it is resumed.

    Raises:
        NotFound: None of that name is configured.
        Conflict: It is paused already.
    """
    _require_configured(peer, ports)
    ports.ledger.peers.pause(peer, name_of(by), reason.strip()[:MAX_REASON])
    log.info("operator.paused", peer=str(peer))


def resume(peer: PeerName, by: str, ports: Ports) -> None:
    """Talk to a paused core or destination again.

    Raises:
        Conflict: It is not paused.
    """
    ports.ledger.peers.resume(peer, name_of(by))
    log.info("operator.resumed", peer=str(peer))


def peer_called(name: str, ports: Ports) -> PeerName:
    """The configured core or destination of this name.

    Raises:
        NotFound: There is none.
    """
    for peer in (PeerName(PeerKind.DESTINATION, name), PeerName(PeerKind.CORE, name)):
        if peer in configured(ports):
            return peer
    names = ", ".join(peer.name for peer in configured(ports))
    raise NotFound(f"{name!r} is no configured core or destination: there is {names}")


def configured(ports: Ports) -> list[PeerName]:
    """Every core and destination of the settings, cores first."""
    cores = [PeerName(PeerKind.CORE, name) for name in ports.cores]
    return cores + [PeerName(PeerKind.DESTINATION, name) for name in ports.destinations]


def name_of(by: str) -> str:
    """A person's name as it is kept: one line, not too long."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in by).split())
    return shown[:MAX_NAME] or SOMEBODY


def _required(reason: str) -> str:
    shown = " ".join(reason.split())[:MAX_REASON]
    if not shown:
        raise Conflict("a reason is required: it is kept in the timeline")
    return shown


def _require_configured(peer: PeerName, ports: Ports) -> None:
    if peer not in configured(ports):
        raise NotFound(f"no {peer} is configured")


def _require_results(delivery_id: str, ports: Ports) -> None:
    """What a delivery would send must still be on disk."""
    delivery = ports.ledger.deliveries.get(delivery_id)
    if delivery is None:
        raise NotFound(f"no delivery {delivery_id}")
    if not delivery.kind.takes_instances or delivery.state is DeliveryState.DELIVERED:
        return
    missing = [
        r for r in ports.ledger.deliveries.unsent(delivery) if not ports.file(r.path).is_file()
    ]
    if missing:
        raise NotFound("its results are no longer held: relaunch the study")


def _probe_now(delivery_id: str, ports: Ports) -> None:
    destination = delivery_id.partition(":")[2]
    ports.ledger.peers.probe_now(PeerName(PeerKind.DESTINATION, destination))


def launch_all(run_ids: list[str], ports: Ports) -> None:
    """Publish the chains of new runs; what cannot be published is left to the sweep."""
    for run_id in run_ids:
        try:
            pipeline.launch(run_id, Step.FILTER, ports.ledger.deliveries.of_run(run_id))
        except PeerUnavailable as exc:
            log.warning("launch.deferred", run_id=run_id, error=str(exc))

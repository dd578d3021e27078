"""What an operator can do to a study: one function per verb, for CLI, API and Celery alike."""

from __future__ import annotations

import structlog

from pacsor_tasks import pipeline
from pacsor_tasks.errors import NotFound, PeerUnavailable
from pacsor_tasks.models import Step
from pacsor_tasks.ports import Ports
from pacsor_tasks.spool import Spool

log = structlog.get_logger(__name__)


def relaunch(study_uid: str, ports: Ports) -> list[str]:
    """Send a study through every core again, whatever was uploaded before.

    Unfinished older runs of those cores are cancelled. With the broker away the runs stand in the
    ledger all the same, and the sweep launches them.

    Returns:
        The ids of the new runs, one per core.

    Raises:
        NotFound: The study was never received, or its instances are no longer held.
    """
    run_ids = ports.ledger.intake.relaunch(study_uid, ports.targets)
    launch_all(run_ids, ports)
    log.info("study.relaunched", study_uid=study_uid, run_ids=run_ids)
    return run_ids


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


def launch_all(run_ids: list[str], ports: Ports) -> None:
    """Publish the chains of new runs; what cannot be published is left to the sweep."""
    for run_id in run_ids:
        try:
            pipeline.launch(run_id, Step.FILTER, ports.ledger.deliveries.of_run(run_id))
        except PeerUnavailable as exc:
            log.warning("launch.deferred", run_id=run_id, error=str(exc))

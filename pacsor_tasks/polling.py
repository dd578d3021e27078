"""Many predictions asked for in one task, on one kept connection per core."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from pacsor_tasks import guard, pipeline
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.models import PeerKind, PeerName, Run, Step
from pacsor_tasks.outcomes import Advance, End, Wait
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.poll import poll

log = structlog.get_logger(__name__)

#: A batch ends after so long, seconds; the sweep launches the rest of it again.
BATCH_S = 60.0


def poll_all(run_ids: Sequence[str], ports: Ports) -> set[str]:
    """Poll runs that are due, and launch the rest of those that are ready.

    A core that is away is found out once: its other runs wait without being asked for, so that
    they hold no worker for a time-out each.

    Returns:
        The cores that were asked.

    Raises:
        PeerUnavailable: The ledger is away; the sweep launches the runs again.
    """
    away: dict[str, str] = {}
    asked: set[str] = set()
    started = ports.ledger.clock()

    def ask(run: Run) -> Advance | Wait | End:
        asked.add(run.core)
        if run.core in away:
            raise PeerUnavailable(away[run.core])
        try:
            core = PeerName(PeerKind.CORE, run.core)
            return ports.breaker.call(core, lambda: poll(run, ports))
        except PeerUnavailable as exc:
            away[run.core] = str(exc)
            raise

    for run_id in run_ids:
        if ports.ledger.clock() - started > BATCH_S:
            break
        if guard.run_step(
            ports.ledger, ports.retry, run_id, Step.POLL, ask, slots_of=ports.slots_of_core
        ):
            _launch(run_id, ports)
    return asked


def _launch(run_id: str, ports: Ports) -> None:
    try:
        pipeline.launch(run_id, Step.DOWNLOAD, ports.ledger.deliveries.of_run(run_id))
    except PeerUnavailable as exc:
        log.warning("launch.deferred", run_id=run_id, error=str(exc))

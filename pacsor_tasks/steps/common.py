"""What several steps need."""

from __future__ import annotations

from pacsor_tasks.errors import ConfigError, Retryable
from pacsor_tasks.models import Delivery, Run
from pacsor_tasks.ports import Core, Ports

LEASE_LOST = "the lease was lost: cancelled, or another worker goes on"


def require_lease(work: Run | Delivery, ports: Ports) -> None:
    """Go on only as the holder: a cancelled run shall stop at its next instance, not at its end.

    Raises:
        Retryable: The lease was lost. Nothing comes of it: who has no lease commits nothing.
    """
    ledger = ports.ledger
    now = ledger.runs.get(work.id) if isinstance(work, Run) else ledger.deliveries.get(work.id)
    if now is None or now.owner != work.owner:
        raise Retryable(LEASE_LOST)


def core_of(run: Run, ports: Ports) -> Core:
    """The run's core.

    Raises:
        ConfigError: It is no longer configured.
    """
    core = ports.cores.get(run.core)
    if core is None:
        raise ConfigError(f"core {run.core} is not configured (ADDITIONAL_CORES)")
    return core

"""What several steps need."""

from __future__ import annotations

from collections.abc import Callable

from pacsor_tasks.core_api import Outcome
from pacsor_tasks.errors import ConfigError, OutOfTurn, RateLimited, Retryable
from pacsor_tasks.ledger.line import IMAGES
from pacsor_tasks.limits import Limiter, Unlimited
from pacsor_tasks.models import Delivery, DeliveryState, Run
from pacsor_tasks.outcomes import Ended, Wait
from pacsor_tasks.ports import Core, Ports

#: How often a message that waits for its images looks for them, seconds: at first, and at most. It
#: is woken when the last of them is delivered. Looks of a weekend's backlog, each a turn before the
#: RIS, would leave none to the messages that can go.
IMAGES_LOOK_S, IMAGES_LONGEST_S = 3.0, 300.0
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


def paced(
    destination: str, ports: Ports, send: Callable[[Callable[[], None]], Ended]
) -> Ended | Wait:
    """Deliver no faster than the destination's rate. Who has to wait has not failed.

    Args:
        destination: Its name.
        ports: Where its limit is.
        send: Delivers; calls what it is given before each thing it sends. The first turn is taken
            before it is called: what it talks to is not asked in vain.

    Raises:
        RateLimited: The destination itself asks for a pause; everybody makes it.
    """
    limit = ports.limits.get(destination, Unlimited())
    try:
        return send(_Turns(limit).take)
    except OutOfTurn as exc:
        return Wait(exc.retry_after_s or 1.0, str(exc))
    except RateLimited as exc:
        limit.pushback(exc.retry_after_s or 1.0)
        raise


class _Turns:
    """One delivery's turns, the first of them taken."""

    def __init__(self, limit: Limiter) -> None:
        self._limit = limit
        self._wait()
        self._has_first = True

    def take(self) -> None:
        """Wait for a turn."""
        if self._has_first:
            self._has_first = False
        else:
            self._wait()

    def _wait(self) -> None:
        try:
            self._limit.wait()
        except RateLimited as exc:
            raise OutOfTurn(str(exc), exc.retry_after_s) from exc


def nothing_to_tell(delivery: Delivery, ports: Ports) -> Wait | Ended | None:
    """Why a run's results are none that a message's destination is told of; None when they are."""
    wanted = delivery.selection
    outcomes = ports.ledger.deliveries.outcomes(delivery.run_id) if wanted.commands else {}
    there = {name for name, (of, _) in outcomes.items() if of in {Outcome.DONE, Outcome.EMPTY}}
    if wanted.commands and not there & set(wanted.commands):
        return Ended(DeliveryState.SKIPPED, f"no results of {', '.join(wanted.commands)}")
    if wanted.sop_classes and not ports.ledger.deliveries.results(delivery):
        return Ended(DeliveryState.SKIPPED, f"no {wanted} among the results")
    return None


def images_first(delivery: Delivery, ports: Ports, setting: str) -> Wait | Ended | None:
    """Why a message does not go before the images of its run; None when they are there."""
    others = [
        other for other in ports.ledger.deliveries.of_run(delivery.run_id) if other.kind.is_archive
    ]
    lost = [o.destination for o in others if o.state is DeliveryState.QUARANTINED]
    if lost:
        return Ended(
            DeliveryState.QUARANTINED,
            f"not sent: its images are not at {', '.join(lost)} ({setting})",
        )
    open_ones = [o.destination for o in others if not o.state.is_terminal]
    if open_ones:
        look_s = min(IMAGES_LONGEST_S, max(IMAGES_LOOK_S, waited_s(delivery, ports) / 2))
        return Wait(look_s, f"{IMAGES}{', '.join(open_ones)} ({setting})")
    return None


def waited_s(delivery: Delivery, ports: Ports) -> float:
    """For how long a delivery has been tried."""
    now = ports.ledger.clock()
    return now - (delivery.active_since or now)

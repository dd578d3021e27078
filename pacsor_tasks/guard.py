"""The guard around every step: is it my turn, take the lease, do it, commit fenced.

The one place where an exception's type becomes a decision.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from pacsor_tasks.breaker import PeerPaused
from pacsor_tasks.errors import PacsorError, PeerUnavailable, Retryable
from pacsor_tasks.ledger import Bounds, Ledger
from pacsor_tasks.models import Delivery, DeliveryState, Run, RunState, Step
from pacsor_tasks.outcomes import Advance, End, Ended, Moved, RetryPolicy, Wait

log = structlog.get_logger(__name__)

#: A crashed worker's work is taken over after so long, seconds.
LEASE_S = 12.0
RENEW_S = 3.0
#: Work that came upon a pause looks again after so long, seconds.
PAUSED_LOOK_S = 5.0
#: So many processes in a row that died at the same work: it is what kills them.
MAX_LOSSES = 10

T = TypeVar("T")
RunAction = Callable[[Run], Advance | Wait | End | Moved]
DeliveryAction = Callable[[Delivery], Wait | Ended]


def new_owner() -> str:
    """A name for one attempt at one step, readable in the ledger and unique."""
    return f"{socket.gethostname()[:32]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def run_step(  # noqa: PLR0913 - as `deliver`, and the step
    ledger: Ledger,
    policy: RetryPolicy,
    run_id: str,
    step: Step,
    action: RunAction,
    *,
    slots_of: Callable[[str], int] = lambda _core: 0,
) -> bool:
    """Do one step of a run if it is its turn.

    Args:
        ledger: Where it stands.
        policy: How it is tried again.
        run_id: Which.
        step: Which is meant.
        action: What to do.
        slots_of: Steps that a core takes at once, of those that talk to it; 0: any number.

    Returns:
        True when the chain goes on: the step is done, by this call or before.
    """
    run = ledger.runs.get(run_id)
    if run is None or run.state.is_terminal:
        return False
    if run.step.position > step.position:
        return True
    bounds = Bounds(slots=slots_of(run.core), horizon_s=policy.horizon_s)
    claimed = ledger.runs.claim(run_id, step, new_owner(), LEASE_S, bounds)
    if claimed is None or claimed.owner is None:
        return False
    owner = claimed.owner
    with (
        structlog.contextvars.bound_contextvars(run_id=run_id, study_uid=claimed.study_uid),
        _renewing(lambda: ledger.runs.renew(run_id, owner, LEASE_S)),
    ):
        outcome = _attempt(
            claimed,
            lambda: action(claimed),
            lambda error: _run_failure(policy, claimed, error, ledger.clock()),
        )
        return _commit_run(ledger, claimed, outcome)


def deliver(
    ledger: Ledger,
    policy: RetryPolicy,
    delivery_id: str,
    action: DeliveryAction,
    slots: int = 0,
) -> bool:
    """Do one delivery if it is due, nobody holds it and its destination takes one more.

    Args:
        ledger: Where it stands.
        policy: How it is tried again.
        delivery_id: Which.
        action: What to do.
        slots: Deliveries to one destination at once; 0: any number.

    Returns:
        True when this call ended the run's last open delivery and the run now needs its cleanup.
    """
    bounds = Bounds(slots=slots, horizon_s=policy.horizon_s)
    claimed = ledger.deliveries.claim(delivery_id, new_owner(), LEASE_S, bounds)
    if claimed is None or claimed.owner is None:
        return False
    owner = claimed.owner
    with (
        structlog.contextvars.bound_contextvars(
            run_id=claimed.run_id, study_uid=claimed.study_uid, destination=claimed.destination
        ),
        _renewing(lambda: ledger.deliveries.renew(delivery_id, owner, LEASE_S)),
    ):
        outcome = _attempt(
            claimed,
            lambda: action(claimed),
            lambda error: _delivery_failure(policy, claimed, error, ledger.clock()),
        )
        if isinstance(outcome, Wait):
            ledger.deliveries.park(claimed, ledger.clock() + outcome.delay_s, outcome.waiting_for)
            return False
        if isinstance(outcome, Failure):
            if not outcome.is_over:
                ledger.deliveries.park(
                    claimed, ledger.clock() + outcome.delay_s, outcome.message, outcome.message
                )
                return False
            outcome = Ended(DeliveryState.QUARANTINED, outcome.message)
        log.info("delivery.ended", state=outcome.state, attempts=claimed.attempts)
        ledger.deliveries.finish(claimed, outcome.state, outcome.message)
    return ledger.runs.settle(claimed.run_id)


class Failure:
    """An error turned into a decision.

    Args:
        message: For the timeline and the status page.
        is_over: No further try.
        delay_s: Seconds to the next one otherwise.
    """

    def __init__(self, message: str, *, is_over: bool, delay_s: float) -> None:
        self.message = message
        self.is_over = is_over
        self.delay_s = delay_s


def _attempt(
    work: Run | Delivery, action: Callable[[], T], failed: Callable[[PacsorError], Failure]
) -> T | Failure | Wait:
    if work.losses >= MAX_LOSSES:
        log.error("step.deadly", losses=work.losses)
        died = f"{work.losses} processes in a row died at it: see the worker's log"
        return Failure(died, is_over=True, delay_s=0)
    try:
        return action()
    except PeerPaused as exc:
        return Wait(PAUSED_LOOK_S, str(exc))
    except PacsorError as exc:
        said = str(exc) if exc.is_loggable else "see the study's timeline"
        log.warning("step.failed", error=said, error_type=type(exc).__name__)
        return failed(exc)
    except SoftTimeLimitExceeded:
        # What was done is in the ledger, so the next try resumes behind it.
        log.warning("step.time_limit")
        return failed(Retryable("the task's time limit; resumes where it stopped", 1.0))
    except Exception as exc:  # noqa: BLE001 - logged below, and the work is tried again
        # Where, but not the exception's own words: a library's may quote the value it choked on.
        where = traceback.format_tb(exc.__traceback__)
        log.error("step.bug", error_type=type(exc).__name__, where=where)  # noqa: TRY400
        reason = f" ({exc.strerror})" if isinstance(exc, OSError) else ""
        what = f"internal error {type(exc).__name__}{reason}: see the worker's log"
        return failed(Retryable(what))


def _run_failure(policy: RetryPolicy, run: Run, error: PacsorError, now: float) -> Failure:
    return _failure(policy, error, run.attempts, now - run.step_since)


def _delivery_failure(
    policy: RetryPolicy, delivery: Delivery, error: PacsorError, now: float
) -> Failure:
    return _failure(policy, error, delivery.attempts, now - (delivery.active_since or now))


def _failure(policy: RetryPolicy, error: PacsorError, attempts: int, elapsed_s: float) -> Failure:
    is_over = policy.is_over(error, attempts, elapsed_s)
    wish_s = error.retry_after_s if isinstance(error, Retryable) else None
    message = str(error)
    if is_over and isinstance(error, Retryable):
        message = f"{message} (given up after {attempts} tries in {elapsed_s:.0f} s)"
    return Failure(message, is_over=is_over, delay_s=policy.delay_s(attempts, wish_s))


def _commit_run(ledger: Ledger, run: Run, outcome: Advance | Wait | End | Moved | Failure) -> bool:
    now = ledger.clock()
    if isinstance(outcome, Moved):
        return outcome.done
    if isinstance(outcome, Advance):
        return ledger.runs.advance(run, run.step.following, outcome.event)
    if isinstance(outcome, Wait):
        ledger.runs.park(run, now + outcome.delay_s, outcome.waiting_for)
    elif isinstance(outcome, End):
        ledger.runs.finish(run, outcome.state, outcome.reason)
    elif outcome.is_over:
        ledger.runs.finish(run, RunState.FAILED, f"{run.step}: {outcome.message}")
    else:
        ledger.runs.park(run, now + outcome.delay_s, outcome.message, outcome.message)
    return False


class _Renewals:
    """One thread renews the leases that this process holds; to start one for each costs more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: when each is renewed next
        self._due: dict[Callable[[], bool], float] = {}
        self._thread: threading.Thread | None = None

    def add(self, renew: Callable[[], bool]) -> None:
        """Renew from now on, each RENEW_S seconds."""
        with self._lock:
            self._due[renew] = time.monotonic() + RENEW_S
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
                self._thread.start()

    def remove(self, renew: Callable[[], bool]) -> None:
        """Do not renew any longer."""
        with self._lock:
            self._due.pop(renew, None)

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_S / 3)
            now = time.monotonic()
            with self._lock:
                due = [renew for renew, at in self._due.items() if at <= now]
            for renew in due:
                self._renew(renew)

    def _renew(self, renew: Callable[[], bool]) -> None:
        try:
            is_held = renew()
        except PeerUnavailable as exc:
            log.warning("lease.renewal_failed", error=str(exc))
            is_held = True
        with self._lock:
            if renew not in self._due:
                return  # its work has ended meanwhile, and with it the lease
            if is_held:
                self._due[renew] = time.monotonic() + RENEW_S
            else:
                del self._due[renew]
                log.warning("lease.lost")


_renewals = _Renewals()


def _begin_anew() -> None:
    global _renewals  # noqa: PLW0603 - threads and locks do not outlive a fork
    _renewals = _Renewals()


os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def _renewing(renew: Callable[[], bool]) -> Iterator[None]:
    """Renew a lease while the block runs."""
    renewals = _renewals
    renewals.add(renew)
    try:
        yield
    finally:
        renewals.remove(renew)

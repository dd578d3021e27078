"""What a step says when it is through: go on, wait, or end. Pure values; the guard acts on them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pacsor_tasks.errors import PacsorError, Retryable
from pacsor_tasks.models import DeliveryState, RunState


@dataclass(frozen=True, slots=True)
class Advance:
    """The step is done: the run goes to the next one."""

    #: (kind, message) for the timeline
    event: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing went wrong; look again later."""

    delay_s: float
    waiting_for: str


@dataclass(frozen=True, slots=True)
class End:
    """The run is over before its deliveries."""

    state: RunState
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The delivery is over."""

    state: DeliveryState
    message: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The step committed its own move, atomically with other rows; False: its lease was lost."""

    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter, a cap and a horizon."""

    base_s: float = 2.0
    cap_s: float = 300.0
    horizon_s: float = 259200.0

    def delay_s(self, attempts: int, wish_s: float | None = None) -> float:
        """Seconds to wait after so many failed attempts (from 1).

        The peer's own wish (Retry-After) is a lower bound. Never under a second: a peer that
        refuses at once would be hammered.
        """
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(attempts, 30))
        return max(1.0, wish_s or 0.0, random.uniform(0, ceiling))  # noqa: S311 - jitter

    def is_over(self, error: PacsorError, attempts: int, elapsed_s: float) -> bool:
        """Whether an error ends the work: not retryable, tried too often, or for too long."""
        if not isinstance(error, Retryable):
            return True
        if error.max_attempts is not None and attempts >= error.max_attempts:
            return True
        return elapsed_s >= self.horizon_s

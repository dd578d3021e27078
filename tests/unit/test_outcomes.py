"""The retry policy: what is tried again, when, and until when."""

from __future__ import annotations

import pytest

from pacsor_tasks.errors import (
    BadResponse,
    ConfigError,
    NotReady,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
    Retryable,
)
from pacsor_tasks.outcomes import RetryPolicy

POLICY = RetryPolicy(base_s=2, cap_s=300, horizon_s=1000)


class Bounded(Retryable):
    """Tried three times."""

    max_attempts = 3


@pytest.mark.parametrize(
    ("error", "attempts", "elapsed_s", "is_over"),
    [
        (PeerUnavailable("away"), 1, 0, False),
        (PeerUnavailable("away"), 99, 999, False),  # attempts alone never end it
        (PeerUnavailable("away"), 99, 1000, True),  # the horizon does
        (NotReady("running"), 1, 0, False),
        (RateLimited("429", 5), 1, 0, False),
        (Bounded("no"), 2, 0, False),
        (Bounded("no"), 3, 0, True),
        (Rejected("no"), 1, 0, True),
        (BadResponse("?"), 1, 0, True),
        (ConfigError("PACS_IP"), 1, 0, True),
    ],
)
def test_the_exceptions_type_is_the_policy(
    error: PacsorError, attempts: int, elapsed_s: float, is_over: bool
):
    assert POLICY.is_over(error, attempts, elapsed_s) is is_over


@pytest.mark.parametrize(
    ("attempts", "ceiling_s"),
    [
        (1, 4),  # 2 · 2^1
        (2, 8),
        (7, 256),
        (8, 300),  # 512, capped
        (10_000, 300),  # no overflow
    ],
)
def test_the_backoff_grows_with_full_jitter_up_to_its_cap(attempts: int, ceiling_s: float):
    delays = [POLICY.delay_s(attempts) for _ in range(400)]
    assert min(delays) >= 1
    assert max(delays) <= ceiling_s
    assert max(delays) > ceiling_s / 2
    assert min(delays) < ceiling_s / 2


def test_the_peers_own_wish_is_a_lower_bound():
    assert all(POLICY.delay_s(1, wish_s=60) == 60 for _ in range(20))

"""Why a study that is being received waits, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from pacsor_tasks.arrivals import GRACE_S, Situation, why_waiting

NOW = 1_750_000_000.0
USUAL = {
    "now": NOW, "first_at": NOW - 60, "last_at": NOW - 10, "n_associations": 0,
    "is_requested": False, "receiver_since": NOW - 9000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "state", "reason", "due_in_s"),
    [
        ({}, "settling", "30 s without another instance", 20),
        ({"n_associations": 1}, "receiving", "an association that sent instances is open", 540),
        ({"n_associations": 3}, "receiving", "3 associations that sent instances are open", 540),
        ({"n_associations": 1, "last_at": NOW - 300}, "receiving", "an association", 540),
        ({"n_associations": 1, "first_at": None}, "receiving", "an association", None),
        ({"first_at": NOW - 590}, "settling", "30 s", 10),  # the longest wait ends before
        ({"is_requested": True, "n_associations": 2}, "closing", "requested: closing", None),
        ({"last_at": NOW - 30}, "closing", "closing", 0),
        ({"last_at": NOW - 30 - GRACE_S}, "overdue", "overdue: the receiver", -GRACE_S),
        ({"first_at": NOW - 700, "n_associations": 1}, "overdue", "overdue", -100),
        ({"last_at": NOW - 300, "receiver_since": NOW - 5}, "settling", "30 s", 25),  # restarted
        ({"receiver_since": None}, "settling", "the receiver is not running", None),
        ({"receiver_since": None, "is_requested": True}, "settling", "the receiver is not", None),
    ],
)
def test_the_reason_is_what_the_receiver_waits_for(
    changed: dict[str, Any], state: str, reason: str, due_in_s: float | None
) -> None:
    at = Situation(**{**USUAL, **changed})
    found_state, found_reason, due_at = why_waiting(at, quiet_s=30, max_wait_s=600)
    assert (found_state, due_at) == (state, None if due_in_s is None else NOW + due_in_s)
    assert found_reason.startswith(reason)

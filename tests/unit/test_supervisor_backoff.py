"""How long the supervisor waits before it starts something again, and how it names an end."""

from __future__ import annotations

import signal

import pytest

from pacsor_tasks.supervisor import Backoff, describe


@pytest.mark.parametrize(
    ("last", "ran_for", "pause"),
    [
        (None, 0.0, 1.0),  # the first end
        (1.0, 0.1, 2.0),  # ended at once again: twice the last
        (2.0, 59.9, 4.0),  # not long enough to count as healthy
        (16.0, 1.0, 30.0),  # 32 is more than the longest
        (30.0, 1.0, 30.0),
        (30.0, 60.0, 1.0),  # healthy for a minute: from the beginning
    ],
)
def test_the_pause_doubles_and_a_healthy_minute_resets_it(
    last: float | None, ran_for: float, pause: float
) -> None:
    assert Backoff().next(last, ran_for) == pause


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "status 0"), (2, "status 2"), (-signal.SIGKILL, "SIGKILL"), (-99, "signal 99")],
)
def test_an_end_is_described_in_words(status: int, words: str) -> None:
    assert describe(status) == words

"""When a study is stable."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.journal import Beginning
from receiver.stabilisation import Situation, why_stable

QUIET_S, MAX_WAIT_S = 30, 600


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        ({"quiet_s": 29.9, "waited_s": 100}, None),  # something came a moment ago
        ({"quiet_s": 30, "waited_s": 100}, "quiet"),
        ({"quiet_s": 300, "waited_s": 400, "has_open_association": True}, None),  # more may come
        ({"quiet_s": 0, "waited_s": 599.9}, None),
        ({"quiet_s": 0, "waited_s": 600}, "max_wait"),  # however busy
        ({"quiet_s": 0, "waited_s": 600, "has_open_association": True}, "max_wait"),
        ({"quiet_s": 30, "waited_s": 600}, "max_wait"),  # both: the one worth telling
        ({"quiet_s": 0, "waited_s": 0, "is_requested": True}, "requested"),
        ({"quiet_s": 0, "waited_s": 0, "is_requested": True, "has_open_association": True},
         "requested"),
        ({"quiet_s": 99, "waited_s": 999, "is_requested": True}, "requested"),
        # the last association was released, where that counts
        ({"quiet_s": 0, "waited_s": 0, "is_released": True}, "released"),
        ({"quiet_s": 0, "waited_s": 0, "is_released": True, "has_open_association": True}, None),
        ({"quiet_s": 0, "waited_s": 600, "is_released": True, "has_open_association": True},
         "max_wait"),
    ],
)  # fmt: skip
def test_why_a_study_is_stable(situation: dict[str, Any], reason: str | None) -> None:
    assert why_stable(Situation(**situation), quiet_s=QUIET_S, max_wait_s=MAX_WAIT_S) == reason


def test_without_a_quiet_period_the_end_of_the_association_is_enough() -> None:
    open_, ended = (
        Situation(quiet_s=0, waited_s=0, has_open_association=is_open) for is_open in (True, False)
    )
    assert why_stable(open_, quiet_s=0, max_wait_s=600) is None
    assert why_stable(ended, quiet_s=0, max_wait_s=600) == "quiet"


@pytest.mark.parametrize(
    ("began", "now", "elapsed_s"),
    [
        # same boot: the wall clock's steps of ± 1 h do not matter
        (Beginning("a", 100, 5000), Beginning("a", 160, 5060), 60),
        (Beginning("a", 100, 5000), Beginning("a", 160, 5060 + 3600), 60),
        (Beginning("a", 100, 5000), Beginning("a", 160, 5060 - 3600), 60),
        # the machine was restarted: only the wall clock is left
        (Beginning("a", 100, 5000), Beginning("b", 3, 5060), 60),
        (Beginning("a", 100, 5000), Beginning("b", 3, 4000), 0),
        # no boot id to be had
        (Beginning("", 100, 5000), Beginning("", 160, 5090), 90),
    ],
)
def test_how_long_ago_a_study_began(began: Beginning, now: Beginning, elapsed_s: float) -> None:
    assert began.elapsed_s(now) == elapsed_s


def test_this_moment_is_now() -> None:
    now = Beginning.now()
    assert now.boot_id
    assert 0 <= now.elapsed_s(Beginning.now()) < 60

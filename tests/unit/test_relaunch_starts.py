"""Where a relaunch can begin, decided from what is there."""

from __future__ import annotations

import re

import pytest

from pacsor_tasks.errors import Conflict
from pacsor_tasks.ledger.starts import (
    STARTS,
    Delivering,
    Earlier,
    Fate,
    Holdings,
    fate_at,
    start_of,
    why_not,
)
from pacsor_tasks.models import InstanceOutcome as O
from pacsor_tasks.models import Step

F, U, P, D, X = STARTS
TO_PACS = Delivering(needs_results=True, results_held=False)
HELD = Delivering(needs_results=True, results_held=True)
TO_RIS = Delivering(needs_results=False, results_held=False)


def there(*outcomes: O | None, runs: tuple[tuple[Step, bool], ...] = ()) -> Holdings:
    """Instances by what became of them; runs as (step, is afresh), the newest first."""
    return Holdings(
        core="core",
        revision_id=1,
        fates={i: Fate(outcome=o) if o else None for i, o in enumerate(outcomes)},
        runs=[Earlier(id=f"r{n}", step=s, is_afresh=h) for n, (s, h) in enumerate(runs)],
    )


@pytest.mark.parametrize(
    ("holdings", "delivering", "latest", "why"),
    [
        # nothing was ever done with them
        (there(None), TO_PACS, F, "the filters have not decided on every instance"),
        # one of them came later
        (there(O.UPLOADED, None, runs=((Step.END, True),)), HELD, F, "have not decided on every"),
        (there(O.FILTERED, O.UNREADABLE), TO_PACS, F, "no instance was kept for the AI"),
        # filtered, but its upload failed
        (there(O.PENDING, O.FILTERED), TO_PACS, U, "not every instance was uploaded"),
        (there(O.UPLOADED, O.PENDING, runs=((U, True),)), TO_PACS, U, "not every instance"),
        # uploaded, but not predicted
        (there(O.UPLOADED, runs=((P, True),)), TO_PACS, P, "the prediction was never ready"),
        (there(O.UPLOADED, O.DUPLICATE, runs=((P, True),)), TO_PACS, P, "was never ready"),
        # the prediction that there is, is of an earlier upload
        (there(O.UPLOADED, runs=((P, True), (Step.END, True))), TO_PACS, P, "was never ready"),
        # a later run that uploaded nothing changes nothing
        (there(O.UPLOADED, runs=((U, False), (D, True))), TO_PACS, D, "never downloaded"),
        (there(O.UPLOADED, runs=((D, True),)), HELD, D, "the results were never downloaded"),
        # delivered, and so removed
        (there(O.UPLOADED, runs=((Step.END, True),)), TO_PACS, D, "results are no longer held"),
    ],
)
def test_the_latest_start_and_what_keeps_the_next_from_being_one(
    holdings: Holdings, delivering: Delivering, latest: Step, why: str
) -> None:
    reasons = [why_not(step, holdings, delivering) for step in STARTS]
    first = reasons.index(next(r for r in reasons if r is not None))
    assert STARTS[first - 1] is latest
    assert why in str(reasons[first])
    assert all(reasons[first:])  # and nothing later can be begun at either


@pytest.mark.parametrize(
    ("delivering", "step"),
    [(HELD, Step.DELIVER), (HELD, Step.CLEANUP), (TO_RIS, Step.END), (TO_RIS, Step.FAN_OUT)],
)
def test_results_that_are_held_or_not_needed_are_delivered_again(
    delivering: Delivering, step: Step
) -> None:
    holdings = there(O.UPLOADED, runs=((step, True),))
    assert why_not(X, holdings, delivering) is None
    assert holdings.downloaded == ["r0"]


def test_every_run_over_the_newest_upload_may_have_its_results() -> None:
    runs = ((X, False), (U, False), (Step.END, False), (X, True), (Step.END, True))
    assert there(O.UPLOADED, runs=runs).downloaded == ["r0", "r2", "r3"]  # r4 is of another one


def test_a_refusal_says_which_step_would_do() -> None:
    done = there(O.UPLOADED, runs=((Step.END, True),))
    said = (
        "a relaunch on core cannot begin at deliver: its results are no longer held;"
        " from download would do"
    )
    with pytest.raises(Conflict, match=f"^{re.escape(said)}$"):
        start_of(Step.DELIVER, done, TO_PACS)


@pytest.mark.parametrize(
    ("wish", "is_partial", "start"),
    [
        (None, False, F),  # as PACSOR: all of it again
        (None, True, D),  # for one destination: as late as can be
        (U, True, U),
        (P, False, P),
    ],
)
def test_where_it_begins(wish: Step | None, is_partial: bool, start: Step) -> None:
    done = there(O.UPLOADED, runs=((Step.END, True),))
    assert start_of(wish, done, TO_PACS, is_partial=is_partial) is start


SKIPPED = Fate(outcome=O.FILTERED, reason="rule 1: …", rule=1, tag="(0008,0060)")


@pytest.mark.parametrize(
    ("start", "fate", "taken_for"),
    [
        (F, SKIPPED, Fate(outcome=O.PENDING)),  # the filters decide anew
        (U, SKIPPED, SKIPPED),  # the filters are not asked: what they said stands
        (D, SKIPPED, SKIPPED),
        (U, Fate(outcome=O.UPLOADED), Fate(outcome=O.PENDING)),
        (P, Fate(outcome=O.DUPLICATE, reason="before"), Fate(outcome=O.UPLOADED)),
        (X, Fate(outcome=O.UPLOADED), Fate(outcome=O.UPLOADED)),
        (F, None, Fate(outcome=O.PENDING)),
    ],
)
def test_what_a_new_run_takes_an_instance_for(
    start: Step, fate: Fate | None, taken_for: Fate
) -> None:
    assert fate_at(start, fate) == taken_for

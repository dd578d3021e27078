"""The order of messages before a RIS, on both databases."""

from __future__ import annotations

import math

import pytest

from pacsor_tasks.ledger import Bounds, Ledger
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName, Step
from tests.conftest import Clock
from tests.support.ledgers import STUDY, add_run, bring_to

RIS = PeerName(PeerKind.DESTINATION, "hl7")
ONE_AT_A_TIME = Bounds(slots=1)


def message(ledger: Ledger, clock: Clock, n: int, study_uid: str | None = None) -> str:
    """A message that is due; later ones are of later runs."""
    clock.tick(1)
    run = bring_to(ledger, add_run(ledger, f"t{n}", 1, study_uid or f"{STUDY}.{n}"), Step.DELIVER)
    return f"{run.id}:hl7"


def claim(ledger: Ledger, delivery_id: str) -> Delivery | None:
    return ledger.deliveries.claim(delivery_id, "me", 10, ONE_AT_A_TIME)


def claimed(ledger: Ledger, delivery_id: str) -> Delivery:
    found = claim(ledger, delivery_id)
    assert found is not None, waiting_for(ledger, delivery_id)
    return found


def waiting_for(ledger: Ledger, delivery_id: str) -> str:
    found = ledger.deliveries.get(delivery_id)
    assert found is not None
    return found.waiting_for or ""


def finish(ledger: Ledger, delivery_id: str) -> None:
    ledger.deliveries.finish(claimed(ledger, delivery_id), DeliveryState.DELIVERED, "AA")


def park_away(ledger: Ledger, delivery_id: str, error: str) -> None:
    """A try that found the RIS away, or so it says, while the RIS is known to be away."""
    ledger.deliveries.park(claimed(ledger, delivery_id), ledger.clock() + 300, error, error)
    ledger.peers.failed(RIS, "RIS 192.0.2.1:2575: no connection", 1)


def launched(ledger: Ledger) -> list[str]:
    due = ledger.deliveries.due(stale_s=0, limit=10, destination="hl7", in_line=True)
    return [d.delivery_id for d in due]


def test_an_older_message_that_is_due_goes_first(ledger: Ledger, clock: Clock) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    assert claim(ledger, second) is None
    assert "its turn: an earlier message to hl7" in waiting_for(ledger, second)
    assert launched(ledger) == [first, second]
    finish(ledger, first)
    finish(ledger, second)


def test_nobody_overtakes_the_one_that_is_being_sent(ledger: Ledger, clock: Clock) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    claimed(ledger, first)
    assert claim(ledger, second) is None


def test_when_the_ris_is_away_the_oldest_is_tried_again_first_and_at_once(
    ledger: Ledger, clock: Clock
) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    park_away(ledger, first, "RIS 192.0.2.1:2575: no connection")
    clock.tick(5)
    assert claim(ledger, second) is None
    clock.tick(2)
    assert launched(ledger) == [first, second]
    finish(ledger, first)
    ledger.peers.answered(RIS)
    finish(ledger, second)


@pytest.mark.parametrize("error", ["core core is left alone: no answer", "the RIS answered AE"])
def test_what_failed_elsewhere_holds_up_nobody_even_while_the_ris_is_away(
    ledger: Ledger, clock: Clock, error: str
) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    park_away(ledger, first, error)
    finish(ledger, second)


def test_a_message_the_ris_cannot_take_now_steps_aside(ledger: Ledger, clock: Clock) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    ledger.deliveries.park(claimed(ledger, first), clock() + 300, "AE", "AE")
    finish(ledger, second)
    clock.tick(301)
    finish(ledger, first)


def test_a_message_that_waits_for_the_ai_steps_aside(ledger: Ledger, clock: Clock) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    ledger.deliveries.park(claimed(ledger, first), clock() + 30, "the AI's JSON results")
    finish(ledger, second)


@pytest.mark.parametrize("error", ["AE", None])
def test_two_messages_about_one_study_never_change_their_order(
    ledger: Ledger, clock: Clock, error: str | None
) -> None:
    first, second = (message(ledger, clock, n, STUDY) for n in (1, 2))
    other = message(ledger, clock, 3)
    clock.tick(1)
    ledger.deliveries.park(claimed(ledger, first), clock() + 30, "waits", error)
    assert claim(ledger, second) is None
    assert waiting_for(ledger, second) == "an earlier message about this study"
    assert launched(ledger) == [other]
    finish(ledger, other)
    clock.tick(32)
    finish(ledger, first)
    finish(ledger, second)


def test_a_quarantined_message_holds_up_nothing(ledger: Ledger, clock: Clock) -> None:
    first, second = (message(ledger, clock, n, STUDY) for n in (1, 2))
    ledger.deliveries.finish(claimed(ledger, first), DeliveryState.QUARANTINED, "AR")
    finish(ledger, second)


def test_images_know_no_line(ledger: Ledger, clock: Clock) -> None:
    message(ledger, clock, 1)
    second = message(ledger, clock, 2).replace(":hl7", ":storescu")
    assert claim(ledger, second) is not None


def test_a_later_message_about_a_study_looks_again_soon_whatever_the_earlier_waits_for(
    ledger: Ledger, clock: Clock
) -> None:
    first = message(ledger, clock, 1, STUDY)
    second = message(ledger, clock, 2, STUDY)
    ledger.deliveries.park(claimed(ledger, first), clock() + 300, "the RIS answered AE", "AE")
    assert claim(ledger, second) is None
    ledger.verbs.skip_delivery(first, "ada", "wrong")
    clock.tick(12)
    finish(ledger, second)


def test_the_first_in_line_is_found_whether_its_message_is_under_way_or_not(
    ledger: Ledger, clock: Clock
) -> None:
    first, second = (message(ledger, clock, n) for n in (1, 2))
    assert claim(ledger, second) is None

    def due(stale_s: float) -> list[str]:
        found = ledger.deliveries.due(stale_s=stale_s, limit=1, destination="hl7", in_line=True)
        return [d.delivery_id for d in found]

    assert due(math.inf) == [second]  # whose message came to nothing
    assert due(-math.inf) == [first]
    ledger.deliveries.let_go_first(first)
    assert due(math.inf) == [first]

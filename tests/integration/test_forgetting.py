"""Old rows go by rule, never what is pending or quarantined; on each database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.models import DeliveryState, InstanceOutcome, PeerKind, PeerName, Run, Step
from tests.conftest import Clock
from tests.support.ledgers import STUDY, TARGET, add_results, add_run, bring_to, existing

YEAR_S = 365 * 86400.0


def rows(ledger: Ledger) -> dict[str, int]:
    """Tables that are not empty, and how long they are."""
    with ledger.engine.connect() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in t.metadata.sorted_tables
        }
    return {name: n for name, n in counts.items() if n}


def delivered(ledger: Ledger, state: DeliveryState = DeliveryState.DELIVERED) -> Run:
    """A run with everything a run can have."""
    run = add_run(ledger)
    sent = ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    ledger.runs.record_uploaded(run, sent)
    add_results(ledger, run)
    bring_to(ledger, run, Step.DELIVER)
    for delivery in ledger.deliveries.of_run(run.id):
        claimed = ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        ledger.deliveries.finish(claimed, state, "so")
    if ledger.runs.settle(run.id):
        claimed_run = ledger.runs.claim(run.id, Step.CLEANUP, "w", 10)
        assert claimed_run is not None
        assert ledger.runs.advance(claimed_run, Step.END)
    return existing(ledger, run.id)


def remove_pixels(ledger: Ledger) -> None:
    for revision in ledger.retention.removable(0):
        assert ledger.retention.removed(revision)


def test_a_study_long_over_is_forgotten_whole(ledger: Ledger, clock: Clock):
    delivered(ledger)
    clock.tick(1)
    remove_pixels(ledger)
    assert ledger.forgetting.old(YEAR_S) == []
    assert not ledger.forgetting.forget(STUDY, YEAR_S)
    clock.tick(YEAR_S + 1)
    assert ledger.forgetting.old(YEAR_S) == [STUDY]
    assert ledger.forgetting.forget(STUDY, YEAR_S)
    left = rows(ledger)
    left.pop("alembic_version", None)
    assert left == {}


def test_sent_again_after_that_it_is_a_new_study(ledger: Ledger, clock: Clock):
    delivered(ledger)
    clock.tick(1)
    remove_pixels(ledger)
    clock.tick(YEAR_S + 1)
    ledger.forgetting.forget(STUDY, YEAR_S)
    run = add_run(ledger)
    uids = [i.sop_instance_uid for i in ledger.runs.instances(run.id, [InstanceOutcome.PENDING])]
    assert ledger.runs.already_uploaded("core", uids) == set()


def unfinished(ledger: Ledger) -> None:
    delivered(ledger)
    ledger.intake.relaunch(STUDY, [TARGET])


def quarantined(ledger: Ledger) -> None:
    delivered(ledger, DeliveryState.QUARANTINED)


def with_pixels(ledger: Ledger) -> None:
    delivered(ledger)


@pytest.mark.parametrize("made", [unfinished, quarantined])
def test_what_is_pending_or_quarantined_is_never_forgotten(
    ledger: Ledger, clock: Clock, made: Callable[[Ledger], None]
):
    made(ledger)
    clock.tick(1)
    remove_pixels(ledger)
    clock.tick(10 * YEAR_S)
    before = rows(ledger)
    assert ledger.forgetting.old(YEAR_S) == []
    assert not ledger.forgetting.forget(STUDY, YEAR_S)
    assert rows(ledger) == before


def test_what_still_has_pixels_is_not_forgotten(ledger: Ledger, clock: Clock):
    with_pixels(ledger)
    clock.tick(10 * YEAR_S)
    assert ledger.forgetting.old(YEAR_S) == []


def test_the_oldest_go_first_and_another_study_is_not_touched(ledger: Ledger, clock: Clock):
    for i in range(3):
        ledger.runs.cancel(add_run(ledger, f"t{i}", study_uid=f"1.{i}").id, "test")
        clock.tick(10)
    remove_pixels(ledger)
    clock.tick(YEAR_S + 1)
    assert ledger.forgetting.old(YEAR_S, limit=2) == ["1.0", "1.1"]
    assert ledger.forgetting.forget("1.0", YEAR_S)
    assert ledger.studies.detail("1.0") is None
    assert ledger.studies.detail("1.1") is not None


def test_what_happened_to_peers_is_forgotten_too(ledger: Ledger, clock: Clock):
    ledger.peers.pause(PeerName(PeerKind.CORE, "core"), "ada", "")
    assert ledger.forgetting.forget_peer_events(YEAR_S) == 0
    clock.tick(YEAR_S + 1)
    ledger.peers.resume(PeerName(PeerKind.CORE, "core"), "ada")
    assert ledger.forgetting.forget_peer_events(YEAR_S) == 1
    assert [e["kind"] for e in ledger.peers.events()] == ["peer.resumed"]

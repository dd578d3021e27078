"""What waits for a paused, absent or busy peer: put off at no cost, and let go. Each database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pacsor_tasks import guard
from pacsor_tasks.errors import Conflict, PeerUnavailable
from pacsor_tasks.ledger import Bounds, Ledger
from pacsor_tasks.ledger.peers import OPEN_AT
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    PeerKind,
    PeerName,
    PeerState,
    Run,
    RunState,
    Step,
)
from pacsor_tasks.outcomes import Ended, RetryPolicy
from tests.conftest import Clock
from tests.support.ledgers import add_run, bring_to, existing

PACS = PeerName(PeerKind.DESTINATION, "storescu")
CORE = PeerName(PeerKind.CORE, "core")
POLICY = RetryPolicy(horizon_s=1000)
OK = Ended(DeliveryState.DELIVERED, "ok")


def delivering(ledger: Ledger, n: int = 1) -> list[Run]:
    return [
        bring_to(ledger, add_run(ledger, f"t{i}", study_uid=f"1.2.{i}"), Step.DELIVER)
        for i in range(n)
    ]


def delivery(ledger: Ledger, run: Run, name: str = "storescu") -> Delivery:
    found = ledger.deliveries.get(f"{run.id}:{name}")
    assert found is not None
    return found


def deliver(ledger: Ledger, run: Run, slots: int = 0) -> list[str]:
    """One try; what was called."""
    called: list[str] = []

    def action(given: Delivery) -> Ended:
        called.append(given.id)
        return OK

    guard.deliver(ledger, POLICY, f"{run.id}:storescu", action, slots)
    return called


def leave_alone(ledger: Ledger, peer: PeerName) -> None:
    assert ledger.peers.failed(peer, "no connection within 10 s", OPEN_AT)


# --- pauses


def test_a_pause_holds_what_waits_with_its_reason_and_no_try(ledger: Ledger, clock: Clock):
    (run,) = delivering(ledger)
    ledger.peers.pause(PACS, "ada", "disk change")
    held = delivery(ledger, run)
    assert (held.waiting_for or "").startswith("destination storescu is paused by ada since 20")
    assert (held.waiting_for or "").endswith("UTC: disk change")
    assert (held.due_at or 0) > clock()
    assert deliver(ledger, run) == []
    assert delivery(ledger, run).attempts == 0
    assert ledger.deliveries.due(stale_s=-1, limit=9, destination="storescu") == []
    assert ledger.deliveries.due(stale_s=-1, limit=9, destination="hl7") != []


def test_what_becomes_due_during_a_pause_is_held_by_the_worker_that_gets_it(ledger: Ledger):
    ledger.peers.pause(PACS, "ada", "")
    (run,) = delivering(ledger)
    assert deliver(ledger, run) == []
    assert "is paused by ada" in (delivery(ledger, run).waiting_for or "")


def test_a_resume_lets_it_go_at_once(ledger: Ledger, clock: Clock):
    (run,) = delivering(ledger)
    ledger.peers.pause(PACS, "ada", "")
    clock.tick(10)
    ledger.peers.resume(PACS, "bob")
    assert deliver(ledger, run) == [f"{run.id}:storescu"]
    kinds = [(e["kind"], e["by"], e["peer"]) for e in ledger.peers.events()]
    assert kinds == [
        ("peer.resumed", "bob", "destination storescu"),
        ("peer.paused", "ada", "destination storescu"),
    ]


def test_the_horizon_stands_still_during_a_pause(ledger: Ledger, clock: Clock):
    (run,) = delivering(ledger)
    began = delivery(ledger, run).active_since or 0
    clock.tick(100)  # these count
    ledger.peers.pause(PACS, "ada", "")
    for _ in range(50):  # longer than the horizon
        clock.tick(50)
        ledger.peers.hold_due(POLICY.horizon_s)
    ledger.peers.resume(PACS, "ada")
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    assert clock() - (claimed.active_since or 0) <= 160
    assert (claimed.active_since or 0) > began + 2000


def test_a_pause_ends_no_work_that_is_under_way(ledger: Ledger):
    (run,) = delivering(ledger)
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    ledger.peers.pause(PACS, "ada", "")
    assert ledger.deliveries.finish(claimed, DeliveryState.DELIVERED, "ok")


def test_a_pause_or_resume_that_changes_nothing_is_told(ledger: Ledger):
    with pytest.raises(Conflict, match="storescu is not paused"):
        ledger.peers.resume(PACS, "ada")
    ledger.peers.pause(PACS, "ada", "")
    with pytest.raises(Conflict, match="paused already, by ada"):
        ledger.peers.pause(PACS, "bob", "")


def test_a_paused_core_holds_the_steps_that_ask_it_and_no_other(ledger: Ledger, clock: Clock):
    run = add_run(ledger)
    ledger.peers.pause(CORE, "ada", "")
    assert ledger.runs.claim(run.id, Step.FILTER, "w", 10) is not None
    clock.tick(11)
    run = bring_to(ledger, existing(ledger, run.id), Step.UPLOAD)
    assert ledger.runs.claim(run.id, Step.UPLOAD, "w", 10) is None
    held = existing(ledger, run.id)
    assert "core core is paused by ada" in (held.waiting_for or "")
    assert (held.attempts, held.state) == (0, RunState.UPLOADING)
    ledger.peers.resume(CORE, "ada")
    assert ledger.runs.claim(run.id, Step.UPLOAD, "w", 10) is not None


# --- left alone


def test_the_sweep_puts_off_all_that_waits_for_a_peer_that_is_left_alone(
    ledger: Ledger, clock: Clock
):
    runs = delivering(ledger, 5)
    leave_alone(ledger, PACS)
    ledger.peers.hold_due(POLICY.horizon_s)
    for run in runs:
        held = delivery(ledger, run)
        assert held.due_at == ledger.peers.get(PACS).probe_at
        assert "is left alone until a probe gets through: no connection" in (held.waiting_for or "")
        assert deliver(ledger, run) == []
        assert delivery(ledger, run).attempts == 0


def test_on_trial_one_goes_at_a_time_and_a_success_lets_all_go(ledger: Ledger, clock: Clock):
    runs = delivering(ledger, 4)
    leave_alone(ledger, PACS)
    ledger.peers.hold_due(POLICY.horizon_s)
    clock.tick(5)
    assert ledger.peers.take_probes() == [PACS]
    ledger.peers.probed(PACS, None)
    ledger.peers.hold_due(POLICY.horizon_s)
    first = ledger.deliveries.due(stale_s=-1, limit=9, destination="storescu")
    assert len(first) == 1
    claimed = ledger.deliveries.claim(first[0].delivery_id, "w", 10)
    assert claimed is not None
    others = [r for r in runs if r.id != claimed.run_id]
    assert all(deliver(ledger, run) == [] for run in others)
    assert "tried one at a time" in (delivery(ledger, others[0]).waiting_for or "")
    assert ledger.peers.answered(PACS)
    assert all(deliver(ledger, run) for run in others)


def test_beyond_the_horizon_a_delivery_to_an_absent_peer_is_quarantined_untried(
    ledger: Ledger, clock: Clock
):
    (run,) = delivering(ledger)
    leave_alone(ledger, PACS)
    for _ in range(40):
        clock.tick(30)
        ledger.peers.hold_due(POLICY.horizon_s)
    (due,) = ledger.deliveries.due(stale_s=-1, limit=9, destination="storescu")

    def refused(_: Delivery) -> Ended:
        raise PeerUnavailable("destination storescu is left alone: no connection within 10 s")

    guard.deliver(ledger, POLICY, due.delivery_id, refused)
    ended = delivery(ledger, run)
    assert ended.state is DeliveryState.QUARANTINED
    assert "no connection within 10 s (given up after" in (ended.error or "")


def test_one_sweep_statement_puts_off_a_backlog(ledger: Ledger, clock: Clock):
    delivering(ledger, 30)
    leave_alone(ledger, PACS)
    ledger.peers.hold_due(POLICY.horizon_s)
    assert ledger.deliveries.due(stale_s=-1, limit=99, destination="storescu") == []
    assert len(ledger.deliveries.due(stale_s=-1, limit=99, destination="hl7")) == 30
    assert ledger.peers.waiting([PACS])[PACS] == {
        "waiting": 30, "in_work": 0, "quarantined": 0,
    }  # fmt: skip


# --- slots


def test_no_more_deliveries_to_a_destination_than_its_slots(ledger: Ledger, clock: Clock):
    runs = delivering(ledger, 3)
    bounds = Bounds(slots=2)
    claims: list[Callable[[], Delivery | None]] = [
        lambda run=run: ledger.deliveries.claim(f"{run.id}:storescu", "w", 10, bounds)  # type: ignore[misc]
        for run in runs
    ]
    first, second = claims[0](), claims[1]()
    assert first is not None
    assert second is not None
    assert claims[2]() is None
    assert delivery(ledger, runs[2]).waiting_for == ("its turn: 2 at once for destination storescu")
    assert ledger.peers.free_slots(PACS, 2) == 0
    first_in_line = min(run.id for run in runs)  # all made at once; messages keep their order
    assert ledger.deliveries.claim(f"{first_in_line}:hl7", "w", 10, bounds) is not None
    ledger.deliveries.finish(first, DeliveryState.DELIVERED, "ok")
    assert claims[2]() is not None


def test_the_slot_of_a_worker_that_died_is_free_again_with_its_lease(ledger: Ledger, clock: Clock):
    runs = delivering(ledger, 2)
    bounds = Bounds(slots=1)
    assert ledger.deliveries.claim(f"{runs[0].id}:storescu", "dead", 10, bounds) is not None
    assert ledger.deliveries.claim(f"{runs[1].id}:storescu", "w", 10, bounds) is None
    clock.tick(11)
    assert ledger.deliveries.claim(f"{runs[1].id}:storescu", "w", 10, bounds) is not None


def test_two_that_claim_the_last_slot_at_once_get_one(ledger: Ledger):
    from concurrent.futures import ThreadPoolExecutor

    runs = delivering(ledger, 8)
    bounds = Bounds(slots=2)
    with ThreadPoolExecutor(8) as pool:
        got = list(
            pool.map(
                lambda run: ledger.deliveries.claim(f"{run.id}:storescu", "w", 10, bounds), runs
            )
        )
    assert sum(claimed is not None for claimed in got) == 2


def test_every_destination_with_a_delivery_is_found(ledger: Ledger):
    assert ledger.peers.destinations() == []
    delivering(ledger, 2)
    assert ledger.peers.destinations() == ["hl7", "storescu", "storescu-2"]


def test_a_peer_nobody_spoke_of_is_well(ledger: Ledger):
    assert ledger.peers.get(PACS).state is PeerState.CLOSED
    assert ledger.peers.all() == {}

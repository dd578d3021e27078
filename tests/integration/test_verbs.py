"""What an operator can do to runs and deliveries, and what is refused; on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import event

from pacsor_tasks.errors import Conflict, NotFound
from pacsor_tasks.ledger import Answer, Ledger
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    DestinationKind,
    PeerKind,
    PeerName,
    Run,
    RunState,
    Step,
)
from tests.conftest import Clock
from tests.support.ledgers import STUDY, TARGET, add_results, add_run, bring_to, existing

OTHER_PACS = ("storescu-3", DestinationKind.STORESCU)


def delivering(ledger: Ledger) -> Run:
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    add_results(ledger, run)
    return run


def end(ledger: Ledger, run: Run, name: str, state: DeliveryState) -> None:
    claimed = ledger.deliveries.claim(f"{run.id}:{name}", "w", 10)
    assert claimed is not None
    assert ledger.deliveries.finish(claimed, state, f"{name}: said so")


def failed_delivering(ledger: Ledger) -> Run:
    """Two delivered, one quarantined."""
    run = delivering(ledger)
    end(ledger, run, "hl7", DeliveryState.DELIVERED)
    end(ledger, run, "storescu-2", DeliveryState.DELIVERED)
    end(ledger, run, "storescu", DeliveryState.QUARANTINED)
    ledger.runs.settle(run.id)
    assert existing(ledger, run.id).state is RunState.FAILED
    return run


def delivery(ledger: Ledger, run: Run, name: str = "storescu") -> Delivery:
    found = ledger.deliveries.get(f"{run.id}:{name}")
    assert found is not None
    return found


def done_by(ledger: Ledger) -> list[tuple[str, str, str | None]]:
    """Kind, message and person of the timeline's lines with a person."""
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    return [(e["kind"], e["message"], e["by"]) for e in detail["events"] if e["by"]]


# --- retry


def test_a_waiting_delivery_is_due_now(ledger: Ledger, clock: Clock):
    run = delivering(ledger)
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    ledger.deliveries.park(claimed, clock() + 300, "refused", "refused")
    ledger.verbs.retry_delivery(claimed.id, "ada")
    assert [d.delivery_id for d in ledger.deliveries.due(stale_s=99, limit=9)] == [claimed.id]
    assert delivery(ledger, run).attempts == 1  # it is the same try's next, not a new life
    assert done_by(ledger) == [("operator.retried", "retried now", "ada")]


def test_a_quarantined_delivery_starts_afresh_and_its_run_delivers_again(
    ledger: Ledger, clock: Clock
):
    run = failed_delivering(ledger)
    clock.tick(500_000)
    ledger.verbs.retry_delivery(f"{run.id}:storescu", "ada")
    again = delivery(ledger, run)
    assert (again.state, again.attempts, again.error) == (DeliveryState.PENDING, 0, None)
    assert again.active_since == clock()
    now = existing(ledger, run.id)
    assert (now.state, now.finished_at, now.error) == (RunState.DELIVERING, None, None)
    assert not ledger.runs.settle(run.id)
    end(ledger, run, "storescu", DeliveryState.DELIVERED)
    assert ledger.runs.settle(run.id)
    assert delivery(ledger, run, "hl7").state is DeliveryState.DELIVERED  # and not sent again


def test_only_what_is_missing_is_sent_after_a_retry(ledger: Ledger):
    run = delivering(ledger)
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    first, second = ledger.deliveries.unsent(claimed)
    ledger.deliveries.record_answers(claimed, [Answer(first.id, 0, "Success", True)])
    ledger.deliveries.finish(claimed, DeliveryState.QUARANTINED, "0xC000")
    ledger.verbs.retry_delivery(claimed.id, "ada")
    assert [r.id for r in ledger.deliveries.unsent(claimed)] == [second.id]


def held(ledger: Ledger) -> str:
    run = delivering(ledger)
    assert ledger.deliveries.claim(f"{run.id}:storescu", "w", 10) is not None
    return run.id


def delivered(ledger: Ledger) -> str:
    run = delivering(ledger)
    end(ledger, run, "storescu", DeliveryState.DELIVERED)
    return run.id


def not_there_yet(ledger: Ledger) -> str:
    return add_run(ledger).id


def paused(ledger: Ledger) -> str:
    run = delivering(ledger)
    ledger.peers.pause(PeerName(PeerKind.DESTINATION, "storescu"), "bob", "")
    return run.id


def relaunched(ledger: Ledger) -> str:
    run = failed_delivering(ledger)
    ledger.intake.relaunch(STUDY, [TARGET])
    return run.id


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (held, "a worker is at it"),
        (delivered, "the delivery to storescu is delivered"),
        (not_there_yet, "results for storescu are not there yet"),
        (paused, "destination storescu is paused"),
        (relaunched, "relaunched on core since"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(
    ledger: Ledger, clock: Clock, made: Callable[[Ledger], str], says: str
):
    run_id = made(ledger)
    clock.tick(1)
    with pytest.raises(Conflict, match=says):
        ledger.verbs.retry_delivery(f"{run_id}:storescu", "ada")
    assert done_by(ledger) == []


def test_what_does_not_exist_is_not_found(ledger: Ledger):
    run = add_run(ledger)
    for act in (
        lambda: ledger.verbs.retry_delivery("nope:storescu", "ada"),
        lambda: ledger.verbs.skip_delivery(f"{run.id}:nope", "ada", "why"),
        lambda: ledger.verbs.retry_run("nope", "ada"),
    ):
        with pytest.raises(NotFound):
            act()


# --- runs


@pytest.mark.parametrize("step", [Step.UPLOAD, Step.POLL, Step.DOWNLOAD])
def test_a_failed_run_is_tried_again_where_it_failed(ledger: Ledger, clock: Clock, step: Step):
    run = bring_to(ledger, add_run(ledger), step)
    skipped = f"{run.id}:storescu-2"
    ledger.verbs.skip_delivery(skipped, "bob", "not wanted")
    ledger.deliveries.record_command(run.id, "smarturgences", ("failed", "no"), [])
    claimed = ledger.runs.claim(run.id, step, "w", 10)
    assert claimed is not None
    ledger.runs.finish(claimed, RunState.FAILED, f"{step}: the API refused the token")
    clock.tick(500_000)
    ledger.verbs.retry_run(run.id, "ada")
    now = existing(ledger, run.id)
    assert (now.step, now.state, now.attempts, now.error) == (step, step.state, 0, None)
    assert now.step_since == clock()
    states = {d.destination: d.state for d in ledger.deliveries.of_run(run.id)}
    assert states == {
        "storescu": DeliveryState.PENDING,
        "hl7": DeliveryState.PENDING,
        "storescu-2": DeliveryState.SKIPPED,  # by an operator, and so it stays
    }
    settled = ledger.deliveries.outcomes(run.id)
    assert settled == ({} if step is Step.DOWNLOAD else {"smarturgences": ("failed", "no")})


def test_a_run_that_failed_by_its_deliveries_retries_them(ledger: Ledger):
    run = failed_delivering(ledger)
    ledger.verbs.retry_run(run.id, "ada")
    assert delivery(ledger, run).state is DeliveryState.PENDING
    assert existing(ledger, run.id).state is RunState.DELIVERING


def test_a_waiting_run_is_due_now(ledger: Ledger, clock: Clock):
    run = bring_to(ledger, add_run(ledger), Step.POLL)
    claimed = ledger.runs.claim(run.id, Step.POLL, "w", 10)
    assert claimed is not None
    ledger.runs.park(claimed, clock() + 300, "the prediction")
    ledger.verbs.retry_run(run.id, "ada")
    assert [d.run_id for d in ledger.runs.due(stale_s=99, limit=9)] == [run.id]


@pytest.mark.parametrize("state", [RunState.DONE, RunState.FILTERED, RunState.CANCELLED])
def test_a_run_that_is_over_is_relaunched_not_retried(ledger: Ledger, state: RunState):
    run = add_run(ledger)
    claimed = ledger.runs.claim(run.id, Step.FILTER, "w", 10)
    assert claimed is not None
    ledger.runs.finish(claimed, state, "so")
    with pytest.raises(Conflict, match=f"the run is {state}: relaunch"):
        ledger.verbs.retry_run(run.id, "ada")


def test_a_failed_run_whose_pixels_are_gone_cannot_be_retried(ledger: Ledger, clock: Clock):
    run = bring_to(ledger, add_run(ledger), Step.UPLOAD)
    claimed = ledger.runs.claim(run.id, Step.UPLOAD, "w", 10)
    assert claimed is not None
    ledger.runs.finish(claimed, RunState.FAILED, "upload: refused")
    clock.tick(101)
    (old,) = ledger.retention.removable(100)
    assert ledger.retention.removed(old)
    with pytest.raises(NotFound, match="no longer held"):
        ledger.verbs.retry_run(run.id, "ada")


def test_a_cancelled_run_says_by_whom(ledger: Ledger):
    run = delivering(ledger)
    held_by_worker = ledger.deliveries.claim(f"{run.id}:hl7", "w", 10)
    assert held_by_worker is not None
    assert ledger.runs.cancel(run.id, "cancelled by ada", "ada")
    assert not ledger.deliveries.finish(held_by_worker, DeliveryState.DELIVERED, "late")
    assert ("run.cancelled", "cancelled by ada", "ada") in done_by(ledger)


# --- skip


@pytest.mark.parametrize("quarantined", [True, False])
def test_a_run_goes_on_without_what_is_skipped(ledger: Ledger, quarantined: bool):
    if quarantined:
        run = failed_delivering(ledger)
    else:
        run = delivering(ledger)
        end(ledger, run, "hl7", DeliveryState.DELIVERED)
        end(ledger, run, "storescu-2", DeliveryState.DELIVERED)
    ledger.verbs.skip_delivery(f"{run.id}:storescu", "ada", "that PACS is sold")
    skipped = delivery(ledger, run)
    assert (skipped.state, skipped.error) == (
        DeliveryState.SKIPPED,
        "skipped by ada: that PACS is sold",
    )
    assert ledger.runs.settle(run.id)
    assert existing(ledger, run.id).step is Step.CLEANUP
    assert done_by(ledger) == [("delivery.skipped", "skipped: that PACS is sold", "ada")]


def test_of_two_quarantined_the_one_that_is_not_skipped_still_fails_the_run(ledger: Ledger):
    run = delivering(ledger)
    for name in ("storescu", "storescu-2"):
        end(ledger, run, name, DeliveryState.QUARANTINED)
    end(ledger, run, "hl7", DeliveryState.DELIVERED)
    ledger.runs.settle(run.id)
    ledger.verbs.skip_delivery(f"{run.id}:storescu", "ada", "sold")
    assert not ledger.runs.settle(run.id)
    now = existing(ledger, run.id)
    assert (now.state, now.error) == (
        RunState.FAILED,
        "quarantined: storescu-2; the results are kept",
    )


def test_a_worker_that_holds_what_is_skipped_commits_nothing(ledger: Ledger):
    run = delivering(ledger)
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    ledger.verbs.skip_delivery(claimed.id, "ada", "sold")
    assert not ledger.deliveries.renew(claimed.id, "w", 10)
    assert not ledger.deliveries.finish(claimed, DeliveryState.DELIVERED, "late")
    assert not ledger.deliveries.park(claimed, 0, "late", "late")
    assert delivery(ledger, run).state is DeliveryState.SKIPPED


def test_what_is_skipped_before_its_results_are_there_stays_skipped(ledger: Ledger):
    run = add_run(ledger)
    ledger.verbs.skip_delivery(f"{run.id}:storescu", "ada", "sold")
    bring_to(ledger, run, Step.DELIVER)
    assert delivery(ledger, run).state is DeliveryState.SKIPPED
    assert len(ledger.deliveries.due(stale_s=-1, limit=9)) == 2


def test_what_is_over_cannot_be_skipped(ledger: Ledger):
    run_id = delivered(ledger)
    with pytest.raises(Conflict, match="is delivered already"):
        ledger.verbs.skip_delivery(f"{run_id}:storescu", "ada", "why")


# --- re-route


@pytest.mark.parametrize("quarantined", [True, False])
def test_a_rerouted_delivery_goes_to_the_other_one_and_only_there(
    ledger: Ledger, quarantined: bool
):
    run = failed_delivering(ledger) if quarantined else delivering(ledger)
    ledger.verbs.reroute_delivery(f"{run.id}:storescu", OTHER_PACS, "ada")
    old, new = delivery(ledger, run), delivery(ledger, run, "storescu-3")
    assert (old.state, old.error) == (DeliveryState.SKIPPED, "re-routed to storescu-3 by ada")
    assert (new.state, new.total, new.sent) == (DeliveryState.PENDING, 2, 0)
    assert new.id in [d.delivery_id for d in ledger.deliveries.due(stale_s=99, limit=9)]
    assert existing(ledger, run.id).state is RunState.DELIVERING
    with pytest.raises(Conflict):
        ledger.verbs.reroute_delivery(f"{run.id}:storescu", OTHER_PACS, "ada")
    assert done_by(ledger) == [("operator.rerouted", "re-routed to storescu-3", "ada")]


def test_a_destination_that_has_the_results_already_gets_them_not_twice(ledger: Ledger):
    run = failed_delivering(ledger)
    with pytest.raises(Conflict, match="storescu-2 has this run's results or will: delivered"):
        ledger.verbs.reroute_delivery(
            f"{run.id}:storescu", ("storescu-2", DestinationKind.STORESCU), "ada"
        )
    assert delivery(ledger, run).state is DeliveryState.QUARANTINED


def test_results_do_not_go_where_another_language_is_spoken(ledger: Ledger):
    run = delivering(ledger)
    with pytest.raises(Conflict, match="storescu is storescu, hl7-2 is hl7"):
        ledger.verbs.reroute_delivery(f"{run.id}:storescu", ("hl7-2", DestinationKind.HL7), "ada")


def test_there_and_back_again_sends_only_what_is_missing(ledger: Ledger):
    run = delivering(ledger)
    claimed = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert claimed is not None
    first, second = ledger.deliveries.unsent(claimed)
    ledger.deliveries.record_answers(claimed, [Answer(first.id, 0, "Success", True)])
    ledger.verbs.reroute_delivery(claimed.id, OTHER_PACS, "ada")
    ledger.verbs.reroute_delivery(
        f"{run.id}:storescu-3", ("storescu", DestinationKind.STORESCU), "bob"
    )
    back = delivery(ledger, run)
    assert (back.state, back.sent) == (DeliveryState.PENDING, 1)
    assert [r.id for r in ledger.deliveries.unsent(back)] == [second.id]
    assert not ledger.deliveries.finish(claimed, DeliveryState.DELIVERED, "late")


def test_rerouted_before_the_results_are_there_it_waits_for_them_too(ledger: Ledger):
    run = add_run(ledger)
    ledger.verbs.reroute_delivery(f"{run.id}:storescu", OTHER_PACS, "ada")
    assert delivery(ledger, run, "storescu-3").waiting_for == "the results"
    bring_to(ledger, run, Step.DELIVER)
    assert delivery(ledger, run, "storescu-3").due_at is not None
    assert delivery(ledger, run).state is DeliveryState.SKIPPED


def test_what_a_relaunch_replaced_is_not_rerouted(ledger: Ledger, clock: Clock):
    run = delivering(ledger)
    end(ledger, run, "storescu", DeliveryState.QUARANTINED)
    clock.tick(1)
    ledger.intake.relaunch(STUDY, [TARGET])
    with pytest.raises(Conflict, match="relaunched on core since"):
        ledger.verbs.reroute_delivery(f"{run.id}:storescu", OTHER_PACS, "ada")
    assert delivery(ledger, run).state is DeliveryState.QUARANTINED


def test_a_retry_while_the_run_is_being_settled_is_not_lost(ledger: Ledger):
    run = delivering(ledger)
    end(ledger, run, "hl7", DeliveryState.DELIVERED)
    end(ledger, run, "storescu-2", DeliveryState.DELIVERED)
    end(ledger, run, "storescu", DeliveryState.QUARANTINED)
    retry = threading.Thread(target=ledger.verbs.retry_delivery, args=(f"{run.id}:storescu", "ada"))

    def meanwhile(statement: str) -> None:
        if statement.startswith("SELECT delivery.destination") and not retry.ident:
            retry.start()
            retry.join(0.5)

    event.listen(ledger.engine, "after_cursor_execute", lambda *a: meanwhile(a[2]))
    ledger.runs.settle(run.id)
    retry.join()
    assert existing(ledger, run.id).state is RunState.DELIVERING
    assert delivery(ledger, run).state is DeliveryState.PENDING

"""The guard: whose turn it is, what an exception becomes, who may commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import structlog

from pacsor_tasks import guard
from pacsor_tasks.errors import ConfigError, PeerUnavailable, Rejected
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import Delivery, DeliveryState, Run, RunState, Step
from pacsor_tasks.outcomes import Advance, End, Ended, RetryPolicy, Wait
from tests.conftest import Clock
from tests.support.ledgers import add_run, bring_to, existing

POLICY = RetryPolicy(horizon_s=1000)


def step(
    ledger: Ledger,
    run: Run,
    action: Callable[[Run], object],
    at: Step = Step.FILTER,
    policy: RetryPolicy = POLICY,
) -> bool:
    return guard.run_step(ledger, policy, run.id, at, action)  # type: ignore[arg-type] # tables of outcomes


def raising(error: Exception) -> Callable[[object], object]:
    def action(_: object) -> object:
        raise error

    return action


def test_a_done_step_moves_the_run_on(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    assert step(sqlite_ledger, run, lambda _: Advance(("filter.done", "2 of 2")))
    assert existing(sqlite_ledger, run.id).step is Step.UPLOAD


def test_a_message_that_comes_twice_does_nothing_and_lets_the_chain_go_on(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    calls: list[Run] = []
    for _ in range(3):
        assert step(sqlite_ledger, run, lambda r: (calls.append(r), Advance())[1])  # type: ignore[func-returns-value]
    assert len(calls) == 1


def test_a_message_that_comes_early_ends_its_chain(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    assert not step(sqlite_ledger, run, raising(AssertionError("not its turn")), Step.DOWNLOAD)
    assert existing(sqlite_ledger, run.id).step is Step.FILTER


def test_a_message_of_an_unknown_or_ended_run_is_dropped(sqlite_ledger: Ledger):
    assert not guard.run_step(
        sqlite_ledger, POLICY, "no such run", Step.FILTER, lambda _: Advance()
    )
    run = add_run(sqlite_ledger)
    sqlite_ledger.runs.cancel(run.id, "test")
    assert not step(sqlite_ledger, run, raising(AssertionError("it is over")))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PeerUnavailable("API: connection refused"), "API: connection refused"),
        (ZeroDivisionError("x"), "internal error ZeroDivisionError"),
    ],
)
def test_what_may_pass_parks_the_run_with_its_reason_and_due_time(
    sqlite_ledger: Ledger, clock: Clock, error: Exception, says: str
):
    run = add_run(sqlite_ledger)
    assert not step(sqlite_ledger, run, raising(error))
    parked = existing(sqlite_ledger, run.id)
    assert parked.state is RunState.FILTERING
    assert says in (parked.waiting_for or "")
    assert parked.owner is None
    assert parked.due_at is not None
    assert clock() < parked.due_at <= clock() + 300


@pytest.mark.parametrize(
    "error", [Rejected("the API refused the token"), ConfigError("core9 is not configured")]
)
def test_what_cannot_pass_ends_the_run_with_its_reason(sqlite_ledger: Ledger, error: Exception):
    run = add_run(sqlite_ledger)
    assert not step(sqlite_ledger, run, raising(error))
    ended = existing(sqlite_ledger, run.id)
    assert ended.state is RunState.FAILED
    assert ended.error == f"filter: {error}"
    states = {d.state for d in sqlite_ledger.deliveries.of_run(run.id)}
    assert states == {DeliveryState.SKIPPED}


def test_beyond_the_horizon_the_run_fails_and_says_how_often_it_was_tried(
    sqlite_ledger: Ledger, clock: Clock
):
    run = add_run(sqlite_ledger)
    for _ in range(5):
        clock.tick(250)
        step(sqlite_ledger, run, raising(PeerUnavailable("API: timeout", 200)))
    ended = existing(sqlite_ledger, run.id)
    assert ended.state is RunState.FAILED
    assert ended.error == "filter: API: timeout (given up after 4 tries in 1000 s)"


def test_the_time_in_which_the_gateway_was_off_does_not_count_for_the_horizon(
    sqlite_ledger: Ledger, clock: Clock
):
    run = add_run(sqlite_ledger)
    step(sqlite_ledger, run, raising(PeerUnavailable("API: timeout")))
    clock.tick(400_000)
    step(sqlite_ledger, run, raising(PeerUnavailable("API: timeout")))
    assert existing(sqlite_ledger, run.id).state is RunState.FILTERING
    delivered = bring_to(sqlite_ledger, add_run(sqlite_ledger, "t2"), Step.DELIVER)
    delivery_id = f"{delivered.id}:hl7"
    deliver(sqlite_ledger, delivery_id, raising(PeerUnavailable("refused")))
    clock.tick(400_000)
    deliver(sqlite_ledger, delivery_id, raising(PeerUnavailable("refused")))
    found = sqlite_ledger.deliveries.get(delivery_id)
    assert found is not None
    assert found.state is DeliveryState.RETRYING


def test_what_kills_every_worker_that_takes_it_is_stopped(sqlite_ledger: Ledger, clock: Clock):
    run = add_run(sqlite_ledger)
    for died in range(guard.MAX_LOSSES + 1):
        assert sqlite_ledger.runs.claim(run.id, Step.FILTER, f"w{died}", 10) is not None
        clock.tick(11)
    assert not step(sqlite_ledger, run, raising(AssertionError("not once more")))
    ended = existing(sqlite_ledger, run.id)
    assert ended.state is RunState.FAILED
    assert "processes in a row died at it" in (ended.error or "")


def test_a_worker_that_dies_now_and_then_is_not_held_against_the_run(
    sqlite_ledger: Ledger, clock: Clock
):
    run = add_run(sqlite_ledger)
    for died in range(3 * guard.MAX_LOSSES):
        assert sqlite_ledger.runs.claim(run.id, Step.FILTER, f"w{died}", 10) is not None
        clock.tick(11)
        assert not step(sqlite_ledger, run, lambda _: Wait(1, "something"))
        clock.tick(2)
    assert existing(sqlite_ledger, run.id).losses == 0


def test_waits_do_not_count_as_failed_tries(sqlite_ledger: Ledger, clock: Clock):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.POLL)
    for _ in range(40):
        step(sqlite_ledger, run, lambda _: Wait(1, "the prediction"), Step.POLL)
        clock.tick(2)
    step(sqlite_ledger, run, raising(PeerUnavailable("503")), Step.POLL)
    parked = existing(sqlite_ledger, run.id)
    assert parked.attempts == 1
    assert (parked.due_at or 0) - clock() <= POLICY.base_s * 2  # the first backoff, not the cap


def test_three_days_of_the_same_failure_are_a_few_lines_of_the_timeline(
    sqlite_ledger: Ledger, clock: Clock
):
    run = add_run(sqlite_ledger)
    policy = RetryPolicy(horizon_s=1e9)
    for _ in range(500):
        step(sqlite_ledger, run, raising(PeerUnavailable("refused")), policy=policy)
        clock.tick(301)
    step(sqlite_ledger, run, raising(PeerUnavailable("reset")), policy=policy)
    detail = sqlite_ledger.studies.detail(run.study_uid)
    assert detail is not None
    said = [e["message"] for e in detail["events"] if e["kind"] == "filter.retry"]
    assert said == ["refused"] * 9 + ["reset"]  # tries 1, 2, 4, … 256, and what was new


def test_a_librarys_words_about_a_value_are_not_logged(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    with structlog.testing.capture_logs() as logs:
        step(sqlite_ledger, run, lambda _: Advance((float("^".join(["DOE", "JOHN"])), "")))  # type: ignore[arg-type]
    (line,) = [entry for entry in logs if entry["event"] == "step.bug"]
    assert line["error_type"] == "ValueError"
    assert any("test_guard.py" in frame for frame in line["where"])
    assert "DOE^JOHN" not in repr(logs)
    assert "DOE^JOHN" not in (existing(sqlite_ledger, run.id).error or "")


def test_waiting_is_a_due_time_and_no_error(sqlite_ledger: Ledger, clock: Clock):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.POLL)
    assert not step(sqlite_ledger, run, lambda _: Wait(7, "the prediction"), Step.POLL)
    parked = existing(sqlite_ledger, run.id)
    assert (parked.due_at, parked.waiting_for, parked.error) == (
        clock() + 7,
        "the prediction",
        None,
    )
    assert parked.state is RunState.PREDICTING


def test_an_ended_run_skips_its_deliveries(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    step(sqlite_ledger, run, lambda _: End(RunState.FILTERED, "all skipped"))
    assert existing(sqlite_ledger, run.id).state is RunState.FILTERED
    (error,) = {d.error for d in sqlite_ledger.deliveries.of_run(run.id)}
    assert error == "all skipped"


def test_who_lost_the_lease_cannot_commit(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)

    def cancelled_meanwhile(_: Run) -> Advance:
        sqlite_ledger.runs.cancel(run.id, "replaced by a relaunch")
        return Advance()

    assert not step(sqlite_ledger, run, cancelled_meanwhile)
    assert existing(sqlite_ledger, run.id).state is RunState.CANCELLED


def deliver(ledger: Ledger, delivery_id: str, action: Callable[[Delivery], object]) -> bool:
    return guard.deliver(ledger, POLICY, delivery_id, action)  # type: ignore[arg-type]


def test_a_dead_destination_keeps_only_its_own_delivery_waiting(sqlite_ledger: Ledger):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    ok = Ended(DeliveryState.DELIVERED, "2 instances")
    assert not deliver(sqlite_ledger, f"{run.id}:storescu", raising(PeerUnavailable("refused")))
    assert not deliver(sqlite_ledger, f"{run.id}:storescu-2", lambda _: ok)
    assert not deliver(sqlite_ledger, f"{run.id}:hl7", lambda _: ok)
    states = {d.destination: d.state for d in sqlite_ledger.deliveries.of_run(run.id)}
    assert states == {
        "storescu": DeliveryState.RETRYING,
        "storescu-2": DeliveryState.DELIVERED,
        "hl7": DeliveryState.DELIVERED,
    }
    assert existing(sqlite_ledger, run.id).state is RunState.DELIVERING


def test_whoever_ends_the_last_delivery_is_told_to_clean_up(sqlite_ledger: Ledger):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    ok = Ended(DeliveryState.DELIVERED, "ok")
    told = [
        deliver(sqlite_ledger, delivery.id, lambda _: ok)
        for delivery in sqlite_ledger.deliveries.of_run(run.id)
    ]
    assert told == [False, False, True]


def test_a_refused_delivery_is_quarantined_not_dropped(sqlite_ledger: Ledger):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    deliver(sqlite_ledger, f"{run.id}:hl7", raising(Rejected("AR: unknown patient class")))
    delivery = sqlite_ledger.deliveries.get(f"{run.id}:hl7")
    assert delivery is not None
    assert delivery.state is DeliveryState.QUARANTINED
    assert delivery.error == "AR: unknown patient class"


def test_a_delivery_held_by_another_is_left_alone(sqlite_ledger: Ledger):
    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    sqlite_ledger.deliveries.claim(f"{run.id}:hl7", "another", 10)
    assert not deliver(sqlite_ledger, f"{run.id}:hl7", raising(AssertionError("held")))


def test_the_lease_is_renewed_while_the_step_works(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "RENEW_S", 0.01)
    run = add_run(sqlite_ledger)
    renewed: list[float] = []
    renew = sqlite_ledger.runs.renew

    def counting(*args: object) -> bool:
        renewed.append(1)
        return renew(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite_ledger.runs, "renew", counting)

    def working(_: Run) -> Advance:
        while len(renewed) < 3:
            pass
        return Advance()

    assert step(sqlite_ledger, run, working)

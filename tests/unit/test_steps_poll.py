"""Poll: each answer, the pauses, and many runs in one task."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks import pipeline, polling
from pacsor_tasks.errors import PeerUnavailable, Rejected
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.milvue.outcomes import StudyState, StudyStatus, UnknownStudy
from pacsor_tasks.models import Run, RunState, Step
from pacsor_tasks.ports import PollPolicy
from pacsor_tasks.steps.poll import pause_s, poll
from tests.conftest import Clock
from tests.support.bench import HORIZON_S, Bench
from tests.support.ledgers import existing

RUNNING = StudyStatus(state=StudyState.RUNNING)
POLICY = PollPolicy(interval_s=2, max_interval_s=30, timeout_s=300)


def at_poll(bench: Bench, token: str = "t1") -> Run:
    return bench.at(bench.run(1, token), Step.POLL)


@pytest.mark.parametrize(
    ("answer", "state", "says"),
    [
        (StudyStatus(state=StudyState.DONE), RunState.DOWNLOADING, "a worker to download"),
        (RUNNING, RunState.PREDICTING, "the prediction"),
        (
            StudyStatus(state=StudyState.ERROR, message="model crashed"),
            RunState.FAILED,
            "the prediction failed: model crashed",
        ),
        (StudyStatus(state=StudyState.ERROR), RunState.FAILED, "no message"),
        (UnknownStudy("status of 1.2: HTTP 404"), RunState.PREDICTING, "HTTP 404"),
        (PeerUnavailable("status of 1.2: HTTP 503"), RunState.PREDICTING, "HTTP 503"),
        (Rejected("status of 1.2: HTTP 403"), RunState.FAILED, "HTTP 403"),
    ],
)
def test_each_answer_has_its_consequence(
    sqlite_ledger: Ledger, tmp_path: Path, answer: object, state: RunState, says: str
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [answer]  # type: ignore[list-item] # a table of both kinds
    run = bench.do(at_poll(bench), poll)
    assert run.state is state
    assert says in (run.waiting_for or run.error or "")


@pytest.mark.parametrize(
    ("elapsed_s", "at_least_s", "at_most_s"),
    [
        (0, 1.6, 2.4),  # 2 s ± a fifth
        (4, 1.6, 2.4),  # half of what has passed
        (20, 8, 12),
        (60, 24, 36),  # the longest, 30 s
        (1e6, 24, 36),
    ],
)
def test_the_pause_grows_by_half_of_what_has_passed(
    elapsed_s: float, at_least_s: float, at_most_s: float
):
    pauses = [pause_s(POLICY, elapsed_s) for _ in range(200)]
    assert at_least_s <= min(pauses)
    assert max(pauses) <= at_most_s


def test_a_blip_of_the_api_costs_a_short_pause_however_long_it_was_polled(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [*[RUNNING] * 9, PeerUnavailable("HTTP 503")]
    run = at_poll(bench)
    for _ in range(10):
        clock.now = max(clock.now, run.due_at or 0)
        run = bench.do(run, poll)
    assert run.waiting_for == "HTTP 503"
    assert (run.due_at or 0) - clock() <= 4


def test_a_prediction_that_takes_longer_than_it_should_is_said_and_looked_at_seldom(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [RUNNING]
    run = at_poll(bench)
    clock.tick(300)
    run = bench.do(run, poll)
    assert "longer than PREDICTION_TIMEOUT" in (run.waiting_for or "")
    assert run.due_at == clock() + bench.ports.retry.cap_s


def test_a_prediction_that_never_ends_fails_at_the_horizon(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [RUNNING]
    run, began = at_poll(bench), clock()
    while not run.state.is_terminal:
        clock.now = max(clock.now, run.due_at or 0)
        run = bench.do(run, poll)
    assert run.state is RunState.FAILED
    assert "still running" in (run.error or "")
    assert HORIZON_S <= clock() - began < HORIZON_S + 301


def test_a_study_the_api_does_not_know_is_retried_briefly_then_given_up(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.states = [UnknownStudy("status of 1.2: HTTP 404")]
    run, began = at_poll(bench), clock()
    while not run.state.is_terminal:
        clock.now = max(clock.now, run.due_at or 0)
        run = bench.do(run, poll)
    assert run.state is RunState.FAILED
    assert "relaunch" in (run.error or "")
    assert clock() - began < HORIZON_S


def test_of_many_runs_of_a_core_that_is_away_one_is_asked_for_and_all_wait(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    runs = [at_poll(bench, f"t{i}") for i in range(5)]
    asked: list[str] = []

    def away(study_uid: str) -> StudyStatus:
        asked.append(study_uid)
        raise PeerUnavailable("API: connection timed out")

    bench.api.status = away  # type: ignore[method-assign]
    polling.poll_all([run.id for run in runs], bench.ports)
    assert len(asked) == 1
    for run in runs:
        parked = existing(sqlite_ledger, run.id)
        assert parked.waiting_for == "API: connection timed out"
        assert parked.owner is None


def test_a_broker_that_is_away_does_not_keep_a_batch_from_being_polled(
    sqlite_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger)
    runs = [at_poll(bench, f"t{i}") for i in range(3)]

    def away(*_: object) -> None:
        raise PeerUnavailable("broker: ConnectionError")

    monkeypatch.setattr(pipeline, "launch", away)
    polling.poll_all([run.id for run in runs], bench.ports)
    assert {existing(sqlite_ledger, run.id).step for run in runs} == {Step.DOWNLOAD}


def test_a_batch_that_takes_too_long_leaves_the_rest_to_the_sweep(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    runs = [at_poll(bench, f"t{i}") for i in range(4)]

    def slow(study_uid: str) -> StudyStatus:
        clock.tick(40)
        return RUNNING

    bench.api.status = slow  # type: ignore[method-assign]
    polling.poll_all([run.id for run in runs], bench.ports)
    waiting = [existing(sqlite_ledger, run.id).waiting_for for run in runs]
    assert waiting.count("the prediction") == 2

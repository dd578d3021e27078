"""What the pages make of the ledger's JSON."""

from __future__ import annotations

from typing import Any

import pytest

from pacsor_tasks.admin import views
from pacsor_tasks.admin.probes import human_bytes
from pacsor_tasks.arrivals import ArrivalState
from pacsor_tasks.models import DeliveryState, RunState, Step


def run(**given: Any) -> dict[str, Any]:
    return {
        "core": "core", "state": "queued", "step": "filter", "waiting_for": None, "due_at": None,
        "error": None, "finished_at": None, "created_at": "2025-08-01T12:00:00.000Z",
        "deliveries": [], "only": None, **given,
    }  # fmt: skip


def delivery(**given: Any) -> dict[str, Any]:
    return {
        "destination": "storescu", "state": "pending", "waiting_for": None, "due_at": None,
        "error": None, **given,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "step", "marks"),
    [
        ("queued", "filter", "todo todo todo todo todo"),
        ("filtering", "filter", "current todo todo todo todo"),
        ("predicting", "poll", "done done current todo todo"),
        ("failed", "upload", "done failed todo todo todo"),
        ("cancelled", "download", "done done done stopped todo"),
        ("filtered", "filter", "done todo todo todo todo"),
        ("delivering", "fan_out", "done done done done current"),
        ("delivering", "deliver", "done done done done current"),
        ("delivering", "cleanup", "done done done done current"),
        ("failed", "deliver", "done done done done failed"),
        ("done", "end", "done done done done done"),
    ],
)
def test_the_step_indicator(state: str, step: str, marks: str) -> None:
    assert [m.status for m in views.steps(run(state=state, step=step))] == marks.split()


def test_every_step_and_state_has_an_indicator_and_a_tone() -> None:
    for step in Step:
        for state in RunState:
            assert len(views.steps(run(state=state, step=step))) == 5
    assert set(views.TONES) == set(RunState) | set(DeliveryState) | set(ArrivalState)
    assert views.tone("received") == "idle"


def test_a_run_waits_for_what_it_says() -> None:
    (wait,) = views.waits(run(waiting_for="the prediction", due_at="2025-08-01T12:00:05.000Z"))
    assert (wait.who, wait.reason, wait.due_at, wait.is_retry, wait.in_work) == (
        None, "the prediction", "2025-08-01T12:00:05.000Z", False, False,
    )  # fmt: skip


def test_an_error_that_is_the_reason_is_said_once() -> None:
    (wait,) = views.waits(run(waiting_for="refused", error="refused"))
    assert (wait.reason, wait.error, wait.is_retry) == ("refused", None, True)
    (wait,) = views.waits(run(waiting_for="its turn", error="refused"))
    assert (wait.reason, wait.error) == ("its turn", "refused")


def test_what_a_worker_holds_is_not_overdue() -> None:
    held = run(waiting_for="the worker that holds step upload", due_at="2025-08-01T12:00:00.000Z")
    (wait,) = views.waits(held)
    assert (wait.in_work, wait.due_at) == (True, None)


def test_a_run_that_delivers_waits_for_what_its_deliveries_wait_for() -> None:
    deliveries = [
        delivery(state="delivered"),
        delivery(
            destination="storescu-2", state="retrying",
            waiting_for="storescu-2: connection refused", error="storescu-2: connection refused",
        ),
    ]  # fmt: skip
    given = run(state="delivering", step="deliver", waiting_for="x", deliveries=deliveries)
    (wait,) = views.waits(given)
    assert (wait.who, wait.reason) == ("storescu-2", "connection refused")


def test_a_run_that_is_over_waits_for_nothing() -> None:
    assert views.waits(run(state="done", step="end")) == []


def test_problems_are_those_of_the_quarantined_deliveries() -> None:
    deliveries = [
        delivery(state="quarantined", error="storescu: 0xC000"),
        delivery(destination="hl7", state="skipped", error="x"),
    ]
    ended = run(state="failed", step="deliver", error="quarantined: storescu", finished_at="x",
                deliveries=deliveries)  # fmt: skip
    assert views.problems(ended) == [("storescu", "0xC000")]
    assert views.problems(run(state="failed", error="why", finished_at="x")) == [(None, "why")]
    assert views.problems(run(state="done", finished_at="x")) == []
    assert views.problems(run(state="uploading", error="429")) == []


def test_the_newest_run_of_each_core_counts() -> None:
    runs = [run(core="core1", id=3), run(core="core", id=2), run(core="core", id=1)]
    assert [r["id"] for r in views.latest_runs({"runs": runs})] == [2, 3]


def test_a_run_for_one_destination_only_counts_beside_the_one_for_all() -> None:
    newest_first = [
        run(id=5, only="storescu"), run(id=4, only="hl7"), run(id=3, only="hl7"), run(id=2),
        run(id=1, only="hl7"),
    ]  # fmt: skip
    assert [r["id"] for r in views.latest_runs({"runs": newest_first})] == [2, 4, 5]


def test_a_study_is_open_while_one_run_moves() -> None:
    assert views.is_open({"runs": [run(state="done"), run(state="predicting")]})
    assert not views.is_open({"runs": [run(state="done"), run(state="failed")]})


@pytest.mark.parametrize(
    ("finished_at", "text"),
    [
        (None, None),
        ("2025-08-01T12:00:04.250Z", "4.2 s"),
        ("2025-08-01T12:00:41.000Z", "41 s"),
        ("2025-08-01T12:03:20.000Z", "3 min 20 s"),
        ("2025-08-01T14:05:10.000Z", "2 h 5 min"),
    ],
)
def test_how_long_a_run_took(finished_at: str | None, text: str | None) -> None:
    assert views.lasted(run(finished_at=finished_at)) == text


@pytest.mark.parametrize(
    ("kind", "tone"),
    [
        ("run.failed", "bad"),
        ("delivery.quarantined", "bad"),
        ("upload.retry", "warn"),
        ("delivery.delivered", "good"),
        ("filter.done", "idle"),
    ],
)
def test_events_that_matter_are_coloured(kind: str, tone: str) -> None:
    assert views.event_tone(kind) == tone


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_400_000, "12 MB"),
        (1_400_000_000, "1.4 GB"),
        (25e12, "25 TB"),
    ],
)
def test_bytes_for_people(n: float, text: str) -> None:
    assert human_bytes(n) == text


def test_a_uid_in_two_parts_is_whole() -> None:
    for uid in ("1.2", "1.2.826.0.1.3680043.8.498.596915152075622959729"):
        assert views.uid_head(uid) + views.uid_tail(uid) == uid


def test_a_moment_without_javascript() -> None:
    assert views.moment("2025-08-01T12:00:03.123Z") == "2025-08-01 12:00:03 UTC"

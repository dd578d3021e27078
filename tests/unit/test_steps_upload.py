"""Upload: each instance once, whatever comes in between."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pacsor_tasks.errors import PeerUnavailable, RateLimited, Rejected
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.milvue.outcomes import UnreadableInstance
from pacsor_tasks.models import InstanceOutcome, Run, RunState, Step
from pacsor_tasks.steps.upload import upload
from tests.conftest import Clock
from tests.support.bench import Bench, uid_of
from tests.support.ledgers import existing


class CountingLimit:
    """A limiter that refuses at the n-th turn and notes what it is asked."""

    def __init__(self, refuse_at: int | None = None) -> None:
        self.refuse_at, self.turns, self.pushed = refuse_at, 0, [0.0][:0]

    def wait(self, max_wait_s: float = 2.0) -> None:
        self.turns += 1
        if self.turns == self.refuse_at:
            raise RateLimited("the limit upload:core is used up", 4)

    def pushback(self, seconds: float) -> None:
        self.pushed.append(seconds)


def at_upload(bench: Bench, n: int = 3, token: str = "t1", **attributes: str) -> Run:
    return bench.at(bench.run(n, token, **attributes), Step.UPLOAD)


def test_every_kept_instance_is_uploaded_once(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.do(at_upload(bench), upload)
    assert run.step is Step.POLL
    assert len(bench.api.uploaded) == len(set(bench.api.uploaded)) == 3
    assert bench.outcomes(run) == {"uploaded": 3}
    assert ("upload.done", "3 instances uploaded to core") in bench.events(run)


def test_after_a_failure_in_the_middle_only_the_rest_is_uploaded(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.upload_error = (2, PeerUnavailable("API: reset"))
    run = bench.do(at_upload(bench, 5), upload)
    assert (run.step, run.waiting_for) == (Step.UPLOAD, "API: reset")
    bench.api.upload_error = None
    clock.tick(300)
    run = bench.do(run, upload)
    assert run.step is Step.POLL
    assert len(bench.api.uploaded) == len(set(bench.api.uploaded)) == 5
    assert [len(asked) for asked in bench.api.asked] == [5, 3]


def test_a_worker_that_dies_in_the_middle_is_taken_over_behind_what_it_recorded(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_upload(bench, 4)
    dead = sqlite_ledger.runs.claim(run.id, Step.UPLOAD, "dead", 10)
    assert dead is not None
    bench.api.upload_error = (3, PeerUnavailable("killed"))
    with pytest.raises(PeerUnavailable):
        upload(dead, bench.ports)
    bench.api.upload_error = None
    assert bench.do(run, upload).step is Step.UPLOAD  # still leased
    clock.tick(11)
    assert bench.do(run, upload).step is Step.POLL
    assert len(bench.api.uploaded) == len(set(bench.api.uploaded)) == 4


def test_what_an_earlier_run_uploaded_is_left_out_of_a_late_revision(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    first = bench.do(at_upload(bench, 2), upload)
    again = bench.ports.spool.revision_dir(first.study_uid, "t1")
    late = bench.results(first.study_uid, 1)
    bench.received([*sorted(again.glob("*.dcm")), *late], first.study_uid, "t2")
    second = bench.do(bench.at(bench.ingested(first.study_uid, "t2"), Step.UPLOAD), upload)
    assert second.step is Step.POLL
    assert bench.outcomes(second) == {"uploaded": 1, "duplicate": 2}
    assert len(bench.api.uploaded) == len(set(bench.api.uploaded)) == 3


@pytest.mark.parametrize(
    ("earlier", "state"),
    [
        (RunState.PREDICTING, RunState.FILTERED),  # it still works on them
        (RunState.DONE, RunState.FILTERED),
        (RunState.FAILED, RunState.PREDICTING),  # nobody else delivers them
        (RunState.CANCELLED, RunState.PREDICTING),
    ],
)
def test_a_revision_of_duplicates_only_is_delivered_if_nobody_else_does(
    sqlite_ledger: Ledger, tmp_path: Path, earlier: RunState, state: RunState
):
    bench = Bench(tmp_path, sqlite_ledger)
    first = bench.do(at_upload(bench, 2), upload)
    if earlier is RunState.DONE:
        bench.at(first, Step.END)
    elif earlier is not RunState.PREDICTING:
        claimed = sqlite_ledger.runs.claim(first.id, Step.POLL, "w", 10)
        assert claimed is not None
        sqlite_ledger.runs.finish(claimed, earlier, "test")
    files = sorted(bench.ports.spool.revision_dir(first.study_uid, "t1").glob("*.dcm"))
    bench.received(files, first.study_uid, "t2")
    second = bench.do(bench.at(bench.ingested(first.study_uid, "t2"), Step.UPLOAD), upload)
    assert second.state is state
    assert bench.outcomes(second) == {"duplicate": 2}
    assert len(bench.api.uploaded) == 2


def test_a_relaunch_uploads_all_again(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    first = bench.do(at_upload(bench, 2), upload)
    (again,) = sqlite_ledger.intake.relaunch(first.study_uid, bench.ports.targets)
    run = bench.do(bench.at(existing(sqlite_ledger, again), Step.UPLOAD), upload)
    assert run.step is Step.POLL
    assert bench.outcomes(run) == {"uploaded": 2}
    assert len(bench.api.uploaded) == 4


def test_without_no_duplicate_upload_everything_goes_again(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger, no_duplicate_upload=False)
    first = bench.do(at_upload(bench, 2), upload)
    files = sorted(bench.ports.spool.revision_dir(first.study_uid, "t1").glob("*.dcm"))
    bench.received(files, first.study_uid, "t2")
    bench.do(bench.at(bench.ingested(first.study_uid, "t2"), Step.UPLOAD), upload)
    assert len(bench.api.uploaded) == 4


@pytest.mark.parametrize("relaunched", [False, True])
def test_an_instance_under_two_names_is_uploaded_once(
    sqlite_ledger: Ledger, tmp_path: Path, relaunched: bool
):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, files = bench.study(2)
    directory = bench.ports.spool.revision_dir(study_uid, "t1")
    shutil.copy(files[0], directory / "1.2.3.dcm")  # the sender named it wrongly
    run = bench.ingested(study_uid)
    if relaunched:
        sqlite_ledger.runs.cancel(run.id, "test")
        (again,) = sqlite_ledger.intake.relaunch(study_uid, bench.ports.targets)
        run = existing(sqlite_ledger, again)
    run = bench.do(bench.at(run, Step.UPLOAD), upload)
    assert run.step is Step.POLL
    assert sorted(bench.api.uploaded) == sorted(uid_of(f) for f in files)
    assert "pending" not in bench.outcomes(run)


def test_an_instance_that_cannot_be_sent_does_not_hold_back_the_others(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_upload(bench, 3)
    bad = sqlite_ledger.runs.instances(run.id, [InstanceOutcome.PENDING])[1].sop_instance_uid
    bench.api.bad[bad] = UnreadableInstance(bad, "its file cannot be pruned")
    run = bench.do(run, upload)
    assert run.step is Step.POLL
    assert bench.outcomes(run) == {"uploaded": 2, "unreadable": 1}


def test_a_run_of_which_nothing_can_be_sent_fails(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_upload(bench, 2)
    for instance in sqlite_ledger.runs.instances(run.id, [InstanceOutcome.PENDING]):
        uid = instance.sop_instance_uid
        bench.api.bad[uid] = UnreadableInstance(uid, "its file is empty")
    run = bench.do(run, upload)
    assert run.state is RunState.FAILED
    assert "no instance could be uploaded" in (run.error or "")


def test_a_refusal_ends_the_run_with_the_apis_words(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.api.upload_error = (0, Rejected("upload of 1.2: HTTP 403: the API refused the token"))
    run = bench.do(at_upload(bench), upload)
    assert run.state is RunState.FAILED
    assert (run.error or "").startswith("upload: upload of 1.2: HTTP 403")


def test_the_apis_429_stops_every_worker(sqlite_ledger: Ledger, tmp_path: Path, clock: Clock):
    limit = CountingLimit()
    bench = Bench(tmp_path, sqlite_ledger, limit=limit)
    bench.api.upload_error = (1, RateLimited("HTTP 429", 60))
    run = bench.do(at_upload(bench), upload)
    assert limit.pushed == [60]
    assert run.due_at == clock() + 60


def test_our_own_limit_used_up_stops_nobody_else(sqlite_ledger: Ledger, tmp_path: Path):
    limit = CountingLimit(refuse_at=2)
    bench = Bench(tmp_path, sqlite_ledger, limit=limit)
    run = bench.do(at_upload(bench), upload)
    assert limit.pushed == []
    assert run.waiting_for == "the limit upload:core is used up"
    assert bench.outcomes(run) == {"uploaded": 1, "pending": 2}


def test_nothing_is_asked_of_the_api_before_the_first_turn(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger, limit=CountingLimit(refuse_at=1))
    run = bench.do(at_upload(bench), upload)
    assert bench.api.asked == []
    assert run.step is Step.UPLOAD


def test_each_instance_takes_one_turn(sqlite_ledger: Ledger, tmp_path: Path):
    limit = CountingLimit()
    bench = Bench(tmp_path, sqlite_ledger, limit=limit)
    bench.do(at_upload(bench, 4), upload)
    assert limit.turns == 4


def test_a_run_cancelled_in_the_middle_stops_at_the_next_instance(
    sqlite_ledger: Ledger, tmp_path: Path
):
    class Cancelling(CountingLimit):
        def wait(self, max_wait_s: float = 2.0) -> None:
            super().wait(max_wait_s)
            if self.turns == 3:
                sqlite_ledger.runs.cancel(run.id, "replaced by a relaunch")

    bench = Bench(tmp_path, sqlite_ledger, limit=Cancelling())
    run = at_upload(bench, 5)
    assert bench.do(run, upload).state is RunState.CANCELLED
    assert len(bench.api.uploaded) == 2

"""Download: every command's answer, what is checked, and what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from pacsor_tasks.errors import NotReady, Rejected, Retryable
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.milvue.outcomes import FormattingError, Outcome
from pacsor_tasks.models import Run, RunState, Step
from pacsor_tasks.ports import Ris
from pacsor_tasks.steps.download import FORMATTING_TRIES, download
from tests.conftest import Clock
from tests.support.bench import Bench, Brought

TWO = ("smarturgences", "smartxpert")
FORMATTING = FormattingError("smartxpert results of 1.2: Error formatting study")
FORBIDDEN, EMPTY = Outcome.FORBIDDEN, Outcome.EMPTY


def at_download(bench: Bench) -> Run:
    return bench.at(bench.run(2), Step.DOWNLOAD)


def until_over(bench: Bench, run: Run, clock: Clock) -> Run:
    while run.step is Step.DOWNLOAD and not run.state.is_terminal:
        clock.now = max(clock.now, run.due_at or 0)
        run = bench.do(run, download)
    return run


def rows(ledger: Ledger, run: Run) -> list[str]:
    """Paths of the results the ledger has."""
    with ledger.engine.connect() as connection:
        query = text("SELECT path FROM result WHERE run_id = :id ORDER BY id")
        return list(connection.execute(query, {"id": run.id}).scalars())


@pytest.mark.parametrize(
    ("first", "second", "state", "n", "said"),
    [
        # (answer of each command, then the run's state, result rows and the sentence)
        (2, 1, "delivering", 3, "3 result instances (smarturgences done, smartxpert done)"),
        (2, EMPTY, "delivering", 2, "2 result instances (smarturgences done, smartxpert empty)"),
        (2, FORBIDDEN, "delivering", 2, "(smarturgences done, smartxpert forbidden)"),
        (FORBIDDEN, 1, "delivering", 1, "(smarturgences forbidden, smartxpert done)"),
        (EMPTY, EMPTY, "delivering", 0, "0 result instances"),
        (EMPTY, FORBIDDEN, "delivering", 0, "0 result instances"),
        (FORBIDDEN, FORBIDDEN, "failed", 0, "no command gave results: smarturgences forbidden"),
        (1, FORMATTING, "delivering", 1, "(smarturgences done, smartxpert failed)"),
        (FORMATTING, 1, "delivering", 1, "(smarturgences failed, smartxpert done)"),
        (FORMATTING, FORMATTING, "failed", 0, "no command gave results"),
        (FORMATTING, FORBIDDEN, "failed", 0, "no command gave results"),
        (1, Rejected("HTTP 422: inference_command"), "delivering", 1, "smartxpert failed"),
        (Rejected("HTTP 403"), Rejected("HTTP 403"), "failed", 0, "smartxpert failed (HTTP 403)"),
        (NotReady("running"), 1, "failed", 0, None),
    ],
)
def test_no_command_holds_back_another(  # noqa: PLR0917 - a table's columns
    sqlite_ledger: Ledger,
    tmp_path: Path,
    clock: Clock,
    first: Brought | int,
    second: Brought | int,
    state: str,
    n: int,
    said: str | None,
):
    bench = Bench(tmp_path, sqlite_ledger, commands=TWO)
    run = at_download(bench)
    for command, answer in zip(TWO, (first, second), strict=True):
        brought = bench.results(run.study_uid, answer) if isinstance(answer, int) else answer
        bench.api.results_by_command[command] = [brought]
    run = until_over(bench, run, clock)
    if said is None:  # running for ever: the other is delivered without it
        assert run.state is RunState.DELIVERING
        assert len(rows(sqlite_ledger, run)) == 1
        return
    assert run.state == state
    assert len(rows(sqlite_ledger, run)) == n
    assert any(said in message for _, message in bench.events(run))


def test_rendering_is_tried_a_bounded_number_of_times(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger, commands=TWO)
    run = at_download(bench)
    bench.api.results_by_command = {
        "smarturgences": [bench.results(run.study_uid)],
        "smartxpert": [FORMATTING],
    }
    until_over(bench, run, clock)
    fetched = [command for command, _ in bench.api.fetched]
    assert fetched.count("smartxpert") == FORMATTING_TRIES
    assert fetched.count("smarturgences") == 1


def test_earlier_waits_do_not_use_up_the_tries_of_rendering(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger, commands=TWO[1:])
    run = at_download(bench)
    good = bench.results(run.study_uid)
    bench.api.results_by_command["smartxpert"] = [
        *[NotReady("running")] * 9, FORMATTING, FORMATTING, good,
    ]  # fmt: skip
    run = until_over(bench, run, clock)
    assert run.step is Step.FAN_OUT
    assert len(rows(sqlite_ledger, run)) == 1


def test_running_is_waited_for_and_never_taken_for_no_results(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_download(bench)
    bench.api.results_by_command["smarturgences"] = [NotReady("running")]
    run = bench.do(run, download)
    assert (run.step, run.waiting_for, run.error) == (Step.DOWNLOAD, "the results", None)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"PatientID": "PX-2"}, "PatientID differs"),
        ({"AccessionNumber": "ACC-2"}, "AccessionNumber differs"),
        ({"StudyInstanceUID": "1.2.3.4"}, "StudyInstanceUID differs"),
    ],
)
def test_a_result_of_somebody_else_is_quarantined_and_nothing_is_delivered(
    sqlite_ledger: Ledger, tmp_path: Path, wrong: dict[str, str], says: str
):
    ris = Ris(name="hl7", host="127.0.0.1", port=9, timeout_s=1)
    bench = Bench(tmp_path, sqlite_ledger, commands=TWO, ris={"hl7": ris})
    run = at_download(bench)
    study_uid = wrong.pop("StudyInstanceUID", run.study_uid)
    bench.api.results_by_command = {
        "smarturgences": [bench.results(run.study_uid)],
        "smartxpert": [bench.results(run.study_uid) + bench.results(study_uid, 1, **wrong)],
    }
    run = bench.do(run, download)
    assert run.state is RunState.FAILED
    assert says in (run.error or "")
    assert "PX-2" not in (run.error or "")
    assert "ACC-2" not in (run.error or "")
    assert {d.state for d in sqlite_ledger.deliveries.of_run(run.id)} == {"skipped"}
    assert len(list((bench.ports.spool.root / "quarantine" / run.id).iterdir())) == 1


def test_a_result_that_cannot_be_read_is_quarantined(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_download(bench)
    (broken,) = bench.results(run.study_uid)
    broken.write_bytes(b"no DICOM" * 40)
    bench.api.results_by_command["smarturgences"] = [[broken]]
    run = bench.do(run, download)
    assert run.state is RunState.FAILED
    assert "unreadable" in (run.error or "")
    assert len(list((bench.ports.spool.root / "quarantine" / run.id).iterdir())) == 1


def test_what_was_sent_without_an_accession_number_may_come_back_with_one(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.at(bench.run(1, AccessionNumber=""), Step.DOWNLOAD)
    brought = bench.results(run.study_uid, 1, AccessionNumber="ANY")
    bench.api.results_by_command["smarturgences"] = [brought]
    assert bench.do(run, download).step is Step.FAN_OUT


def files_of(bench: Bench, run: Run) -> set[str]:
    root = bench.ports.spool.root
    return {p.relative_to(root).as_posix() for p in (root / "results" / run.id).rglob("*.dcm")}


def test_a_download_repeated_after_a_crash_leaves_rows_and_files_that_match(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger, commands=TWO)
    run = at_download(bench)
    bench.api.results_by_command = {
        "smarturgences": [bench.results(run.study_uid, 2)],
        "smartxpert": [bench.results(run.study_uid, 1)],
    }
    record = sqlite_ledger.deliveries.record_command

    class KilledError(BaseException):
        pass

    def killed(run_id: str, name: str, *args: object, **kwargs: object) -> bool:
        if name == "smartxpert":
            raise KilledError
        return record(run_id, name, *args, **kwargs)  # type: ignore[arg-type]

    dead = sqlite_ledger.runs.claim(run.id, Step.DOWNLOAD, "h:1:dead", 10)
    assert dead is not None
    monkeypatch.setattr(sqlite_ledger.deliveries, "record_command", killed)
    with pytest.raises(KilledError):
        download(dead, bench.ports)
    monkeypatch.undo()
    clock.tick(11)
    run = bench.do(run, download)
    assert run.step is Step.FAN_OUT
    assert len(rows(sqlite_ledger, run)) == 3
    assert files_of(bench, run) == set(rows(sqlite_ledger, run))


def test_a_worker_that_lost_its_lease_spoils_nothing_of_the_one_that_took_over(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_download(bench)
    bench.api.results_by_command["smarturgences"] = [bench.results(run.study_uid, 2)]
    paused = sqlite_ledger.runs.claim(run.id, Step.DOWNLOAD, "h:1:paused", 10)
    assert paused is not None
    clock.tick(11)
    run = bench.do(run, download)
    assert run.step is Step.FAN_OUT
    download(paused, bench.ports)
    assert len(rows(sqlite_ledger, run)) == 2
    assert files_of(bench, run) == set(rows(sqlite_ledger, run))


def test_a_worker_that_wakes_up_while_another_downloads_records_nothing(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_download(bench)
    bench.api.results_by_command["smarturgences"] = [bench.results(run.study_uid, 2)]
    paused = sqlite_ledger.runs.claim(run.id, Step.DOWNLOAD, "h:1:paused", 10)
    assert paused is not None

    def other_takes_over() -> None:
        bench.api.before_results = lambda: None
        clock.tick(11)
        assert bench.do(run, download).step is Step.FAN_OUT

    bench.api.before_results = other_takes_over
    with pytest.raises(Retryable, match="lease"):
        download(paused, bench.ports)
    found = rows(sqlite_ledger, run)
    assert len(found) == 2
    assert set(found) <= files_of(bench, run)


def test_a_run_cancelled_while_it_downloads_records_nothing(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    run = at_download(bench)
    bench.api.results_by_command["smarturgences"] = [bench.results(run.study_uid, 2)]

    def cancel() -> None:
        assert sqlite_ledger.runs.cancel(run.id, "test")

    bench.api.before_results = cancel
    run = bench.do(run, download)
    assert run.state is RunState.CANCELLED
    assert rows(sqlite_ledger, run) == []

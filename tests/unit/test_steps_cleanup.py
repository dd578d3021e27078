"""Fan out, cleanup and retention: what becomes due, and what may be forgotten."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import pipeline, reconcile
from pacsor_tasks.errors import NotFound
from pacsor_tasks.ledger import Bounds, Ledger
from pacsor_tasks.ledger.retention import HeldRevision
from pacsor_tasks.models import DeliveryState, Run, RunState, Step
from pacsor_tasks.ports import Ris
from pacsor_tasks.steps import cleanup as cleanup_module
from pacsor_tasks.steps.cleanup import apply_retention, cleanup
from pacsor_tasks.steps.fan_out import fan_out
from tests.conftest import Clock
from tests.support.bench import Bench
from tests.support.ledgers import STUDY, add_results, add_run, bring_to, existing

RIS = {n: Ris(name=n, host="127.0.0.1", port=9, timeout_s=1) for n in ("hl7", "hl7-2")}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is put into the queues: (verb, what)."""
    sent: list[tuple[object, ...]] = []
    for verb in ("launch", "launch_delivery", "launch_polls", "enqueue_ingest"):
        monkeypatch.setattr(pipeline, verb, lambda *args, _verb=verb: sent.append((_verb, *args)))
    return sent


def delivered(bench: Bench, run: Run, *, quarantined: bool = False) -> None:
    for delivery in bench.ledger.deliveries.of_run(run.id):
        claimed = bench.ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        state = DeliveryState.QUARANTINED if quarantined else DeliveryState.DELIVERED
        bench.ledger.deliveries.finish(claimed, state, "test")
    bench.ledger.runs.settle(run.id)


def test_the_fan_out_makes_every_delivery_due_at_once(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger, ris=RIS)
    run = bench.at(bench.run(), Step.FAN_OUT)
    add_results(sqlite_ledger, run, 3)
    run = bench.do(run, fan_out)
    assert (run.step, run.waiting_for) == (Step.DELIVER, "its deliveries")
    found = sqlite_ledger.deliveries.of_run(run.id)
    assert {(d.due_at, d.total) for d in found} == {(clock(), 1)}
    assert ("fan_out.done", "3 result instances to hl7, hl7-2") in bench.events(run)


def test_a_fan_out_by_a_worker_that_lost_its_lease_changes_nothing(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger, ris=RIS)
    run = bench.at(bench.run(), Step.FAN_OUT)
    former = sqlite_ledger.runs.claim(run.id, Step.FAN_OUT, "former", 10)
    assert former is not None
    clock.tick(11)
    assert sqlite_ledger.runs.claim(run.id, Step.FAN_OUT, "latter", 10) is not None
    assert not fan_out(former, bench.ports).done
    assert {d.due_at for d in sqlite_ledger.deliveries.of_run(run.id)} == {None}


def test_a_run_without_a_destination_is_cleaned_up_by_the_next_sweep(
    sqlite_ledger: Ledger, tmp_path: Path, published: list[tuple[object, ...]]
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.do(bench.at(bench.run(), Step.FAN_OUT), fan_out)
    published.clear()
    reconcile.reconcile(bench.ports)
    assert published == [("launch", run.id, Step.CLEANUP, ())]
    assert bench.do(existing(sqlite_ledger, run.id), cleanup).state is RunState.DONE


def test_a_worker_that_died_after_the_last_delivery_is_noticed(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
):
    bench = Bench(tmp_path, sqlite_ledger, ris=RIS)
    run = bench.at(bench.run(), Step.DELIVER)
    clock.tick(1)  # a RIS gets its messages in the order of their runs
    waiting = bench.at(bench.run(token="t2"), Step.DELIVER)
    for delivery in sqlite_ledger.deliveries.of_run(run.id):
        claimed = sqlite_ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        sqlite_ledger.deliveries.finish(claimed, DeliveryState.DELIVERED, "ok")
    clock.tick(31)
    reconcile.reconcile(bench.ports)
    assert existing(sqlite_ledger, run.id).step is Step.CLEANUP
    assert ("launch", run.id, Step.CLEANUP, ()) in published
    assert (existing(sqlite_ledger, waiting.id).due_at or 0) > clock()


def test_runs_that_wait_for_their_deliveries_do_not_keep_a_sweep_from_the_others(
    sqlite_ledger: Ledger,
    tmp_path: Path,
    clock: Clock,
    published: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(reconcile, "LIMIT", 3)
    bench = Bench(tmp_path, sqlite_ledger, ris=RIS)
    for i in range(5):
        bench.at(bench.run(1, token=f"w{i}"), Step.DELIVER)
    late = bench.run(1, token="late")
    clock.tick(3600)
    reconcile.reconcile(bench.ports)
    assert late.id in [what for verb, what, *_ in published if verb == "launch"]


def test_cleanup_removes_the_results_of_this_run_only(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    spool = bench.ports.spool
    mine, other = bench.run(token="t1"), bench.run(token="t2")
    for run in (mine, other):
        (spool.results_dir(run.id, "smarturgences") / "1.dcm").write_bytes(b"x")
    run = bench.do(bench.at(mine, Step.CLEANUP), cleanup)
    assert run.state is RunState.DONE
    assert [p.name for p in (spool.root / "results").iterdir()] == [other.id]
    assert spool.instance_paths(mine.study_uid, "t1")  # for a relaunch


def test_results_of_failed_and_cancelled_runs_go_and_quarantined_ones_stay(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger, ris=RIS)
    spool = bench.ports.spool
    cancelled, bad, busy = (bench.run(token=t) for t in ("t1", "t2", "t3"))
    sqlite_ledger.runs.cancel(cancelled.id, "test")
    delivered(bench, bench.at(bad, Step.DELIVER), quarantined=True)
    for run in (cancelled, bad, busy):
        (spool.results_dir(run.id, "smarturgences") / "1.dcm").write_bytes(b"x")
    apply_retention(bench.ports)
    assert {p.name for p in (spool.root / "results").iterdir()} == {bad.id, busy.id}


def test_retention_takes_all_that_is_old_however_many(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger)
    for i in range(5):
        sqlite_ledger.runs.cancel(bench.run(1, token=f"t{i}").id, "test")
    removable = sqlite_ledger.retention.removable
    monkeypatch.setattr(sqlite_ledger.retention, "removable", lambda older: removable(older, 2))
    clock.tick(101)
    assert apply_retention(bench.ports) == 5
    assert list(bench.ports.spool.all_ready()) == []
    assert apply_retention(bench.ports) == 0


def test_what_a_crash_left_of_a_removal_is_removed_by_the_next_pass(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.run()
    sqlite_ledger.runs.cancel(run.id, "test")
    clock.tick(101)
    (old,) = sqlite_ledger.retention.removable(100)
    assert sqlite_ledger.retention.removed(old)  # and its worker died before the files went
    apply_retention(bench.ports)
    assert list(bench.ports.spool.all_ready()) == []


def test_a_study_relaunched_at_that_moment_keeps_its_pixels(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.run()
    sqlite_ledger.runs.cancel(run.id, "test")
    clock.tick(101)
    removed = sqlite_ledger.retention.removed

    def relaunched_first(revision: HeldRevision) -> bool:
        sqlite_ledger.intake.relaunch(run.study_uid, bench.ports.targets)
        return removed(revision)

    monkeypatch.setattr(sqlite_ledger.retention, "removed", relaunched_first)
    assert apply_retention(bench.ports) == 0
    assert bench.ports.spool.instance_paths(run.study_uid, "t1")


def test_a_removed_study_cannot_be_relaunched_and_says_why(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.run()
    sqlite_ledger.runs.cancel(run.id, "test")
    clock.tick(101)
    assert apply_retention(bench.ports) == 1
    with pytest.raises(NotFound, match="no longer held"):
        sqlite_ledger.intake.relaunch(run.study_uid, bench.ports.targets)


def test_a_pass_ends_in_time_and_the_next_one_goes_on(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger)
    for i in range(3):
        sqlite_ledger.runs.cancel(bench.run(1, token=f"t{i}").id, "test")
    clock.tick(101)
    monkeypatch.setattr(cleanup_module, "PASS_S", -1)
    assert [apply_retention(bench.ports) for _ in range(4)] == [1, 1, 1, 0]


def test_an_ingest_that_cannot_be_done_is_enqueued_with_a_pause_not_by_every_sweep(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, _ = bench.study()
    entry = bench.ports.spool.root / "outbox" / "t1"
    os.utime(entry, (clock(), clock()))
    for _ in range(25):
        clock.tick(1)
        reconcile.reconcile(bench.ports)
    assert [(verb, what) for verb, what, *_ in published] == [("enqueue_ingest", study_uid)] * 2
    assert bench.ports.spool.outbox() == [(study_uid, "t1")]


def test_while_ingests_wait_in_the_queue_none_is_added(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.study()
    busy = replace(bench.ports, queue_length=lambda _: 1)
    clock.now += 1e9
    reconcile.reconcile(busy)
    assert published == []


def test_a_lost_ledger_finds_every_revision_again(
    sqlite_ledger: Ledger, tmp_path: Path, published: list[tuple[object, ...]]
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.run(1, token="known")
    study_uid, _ = bench.study(2, token="unknown")
    bench.ports.spool.acknowledge("unknown")
    assert reconcile.recover_ready(bench.ports) == 1
    paths = bench.ports.spool.instance_paths(study_uid, "unknown")
    assert published == [("enqueue_ingest", study_uid, paths)]


def test_a_message_that_was_turned_away_is_not_published_again_at_once(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
) -> None:
    ris = Ris(name="hl7", host="127.0.0.1", port=9, timeout_s=1)
    bench = Bench(tmp_path, sqlite_ledger, ris={"hl7": ris})
    first = add_run(sqlite_ledger, "t1")
    clock.tick(1)
    second = add_run(sqlite_ledger, "t2", study_uid=f"{STUDY}.2")
    for run in (first, second):  # fan_out has published both; the older one's message is lost
        bring_to(sqlite_ledger, run, Step.DELIVER)
    turned_away = f"{second.id}:hl7"
    assert sqlite_ledger.deliveries.claim(turned_away, "w", 10, Bounds(slots=1)) is None
    reconcile.launch_next("hl7", bench.ports, after=turned_away)
    assert published == []


def test_a_message_from_the_queue_is_good_for_whoever_is_first_in_line(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
) -> None:
    ris = Ris(name="hl7", host="127.0.0.1", port=9, timeout_s=1)
    bench = Bench(tmp_path, sqlite_ledger, ris={"hl7": ris})
    ids = []
    for n in range(3):
        clock.tick(1)
        run = add_run(sqlite_ledger, f"t{n}", study_uid=f"{STUDY}.{n}")
        bring_to(sqlite_ledger, run, Step.DELIVER)
        ids.append(f"{run.id}:hl7")
    first, second, third = ids
    # fan_out has published all three, and the first one's message is far behind in the queue
    assert reconcile.first_in_line(third, bench.ports) == first
    held = sqlite_ledger.deliveries.claim(first, "w", 10, Bounds(slots=1))
    assert held is not None
    assert reconcile.first_in_line(second, bench.ports) == second
    sqlite_ledger.deliveries.finish(held, DeliveryState.DELIVERED, "AA")
    reconcile.launch_next("hl7", bench.ports, after=first)
    assert [call[1] for call in published] == [third]  # whose message was used up
    assert reconcile.first_in_line(first, bench.ports) == second
    assert reconcile.first_in_line(f"{run.id}:storescu", bench.ports) == f"{run.id}:storescu"


def test_messages_of_runs_that_nobody_knows_any_more_go_by_the_same_rule(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    old, new = (bench.ports.spool.message_file(run_id, "hl7") for run_id in ("old", "new"))
    for file, age_s in ((old, bench.ports.retention_s + 1), (new, 0)):
        file.parent.mkdir()
        file.write_bytes(b"MSH|")
        os.utime(file.parent, (clock() - age_s,) * 2)
    apply_retention(bench.ports)
    assert not old.parent.exists()
    assert new.is_file()


def test_results_linked_for_a_run_that_did_not_come_about_go_after_a_day(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    bench = Bench(tmp_path, sqlite_ledger)
    old, new = (bench.ports.spool.results_dir(run_id, "smarturgences") for run_id in ("old", "new"))
    for directory, age_s in ((old, 86401), (new, 0)):
        os.utime(directory.parent, (clock() - age_s,) * 2)
    apply_retention(bench.ports)
    assert not old.exists()
    assert new.exists()

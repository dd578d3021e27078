"""Two at once: what workers, sweeps, operators and the clock can do to each other in the ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from pacsor_tasks.ledger import Answer, Ledger
from pacsor_tasks.models import DeliveryState, InstanceOutcome, RunState, Step
from tests.conftest import Clock
from tests.support.ledgers import (
    STUDY,
    TARGET,
    add_results,
    add_run,
    bring_to,
    existing,
    new_revision,
)


@contextmanager
def meanwhile(ledger: Ledger, at: str, action: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run `action` beside this thread, just before its first statement that holds `at`.

    On SQLite the action waits for our transaction to end; on PostgreSQL it commits in between. It
    runs at the end when there was no such statement.

    Yields:
        A list that gets what the action returned.
    """
    us = threading.current_thread()
    beside: list[Future[Any]] = []
    returned: list[Any] = []

    with ThreadPoolExecutor(1) as executor:

        def hook(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if beside or threading.current_thread() is not us or at not in statement:
                return
            beside.append(executor.submit(action))
            wait(beside, 0.5)

        event.listen(ledger.engine, "before_cursor_execute", hook)
        try:
            yield returned
        finally:
            event.remove(ledger.engine, "before_cursor_execute", hook)
    returned.append(beside[0].result() if beside else action())


def unfinished(ledger: Ledger) -> list[str]:
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    return [r["id"] for r in detail["runs"] if not RunState(r["state"]).is_terminal]


def finish(ledger: Ledger, run_id: str, destination: str, state: DeliveryState) -> None:
    claimed = ledger.deliveries.claim(f"{run_id}:{destination}", f"w-{destination}", 10)
    assert claimed is not None
    assert ledger.deliveries.finish(claimed, state, "said so")


def test_a_delivery_quarantined_while_another_settles_the_run_is_not_overlooked(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    finish(ledger, run.id, "storescu", DeliveryState.DELIVERED)
    finish(ledger, run.id, "storescu-2", DeliveryState.DELIVERED)

    def refused() -> None:
        finish(ledger, run.id, "hl7", DeliveryState.QUARANTINED)

    with meanwhile(ledger, "UPDATE run", refused):
        assert not ledger.runs.settle(run.id)
    assert not ledger.runs.settle(run.id)
    assert existing(ledger, run.id).state is RunState.FAILED


def test_of_two_that_end_the_last_deliveries_at_once_one_moves_the_run_on(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    finish(ledger, run.id, "hl7", DeliveryState.DELIVERED)
    moved: list[bool] = []
    together = threading.Barrier(2)

    def worker(destination: str) -> None:
        together.wait()
        finish(ledger, run.id, destination, DeliveryState.DELIVERED)
        moved.append(ledger.runs.settle(run.id))

    threads = [threading.Thread(target=worker, args=(d,)) for d in ("storescu", "storescu-2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [False, True]
    assert existing(ledger, run.id).step is Step.CLEANUP


def test_two_revisions_of_a_study_recorded_at_once_get_their_own_numbers(ledger: Ledger):
    add_run(ledger, "t0")
    with meanwhile(ledger, "INSERT INTO revision", lambda: add_run(ledger, "t2")):
        add_run(ledger, "t1")
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    assert [r["number"] for r in detail["revisions"]] == [1, 2, 3]
    assert len(unfinished(ledger)) == 3


def test_one_revision_recorded_by_two_at_once_has_one_run(ledger: Ledger):
    def record() -> list[str]:
        return ledger.intake.add_revision(new_revision("t1"), [TARGET])

    with meanwhile(ledger, "INSERT INTO revision", record) as other:
        ours = record()
    assert other == [ours]
    assert unfinished(ledger) == ours


def test_two_relaunches_at_once_leave_one_unfinished_run(ledger: Ledger):
    add_run(ledger)

    def relaunch() -> list[str]:
        return ledger.intake.relaunch(STUDY, [TARGET])

    with meanwhile(ledger, "INSERT INTO run ", relaunch):
        relaunch()
    assert len(unfinished(ledger)) == 1


def test_two_relaunches_of_a_finished_study_at_once_leave_one_unfinished_run(ledger: Ledger):
    ledger.runs.cancel(add_run(ledger).id, "test")

    def relaunch() -> list[str]:
        return ledger.intake.relaunch(STUDY, [TARGET])

    with meanwhile(ledger, "INSERT INTO run ", relaunch):
        relaunch()
    assert len(unfinished(ledger)) == 1


def test_retention_does_not_take_what_is_relaunched_at_that_moment(ledger: Ledger, clock: Clock):
    ledger.runs.cancel(add_run(ledger).id, "test")
    clock.tick(101)
    (old,) = ledger.retention.removable(100)
    ledger.intake.relaunch(STUDY, [TARGET])
    assert not ledger.retention.removed(old)
    assert ledger.retention.removable(100) == []
    assert len(ledger.intake.relaunch(STUDY, [TARGET])) == 1  # its pixels are still held


def test_retention_waits_for_a_relaunch_that_is_about_to_commit(ledger: Ledger, clock: Clock):
    ledger.runs.cancel(add_run(ledger).id, "test")
    clock.tick(101)
    (old,) = ledger.retention.removable(100)
    with meanwhile(ledger, "INSERT INTO run ", lambda: ledger.retention.removed(old)) as taken:
        ledger.intake.relaunch(STUDY, [TARGET])
    assert taken == [False]


def test_two_runs_that_upload_the_same_instance_both_record_it(ledger: Ledger):
    first, second = add_run(ledger, "t1"), add_run(ledger, "t2")
    one = ledger.runs.instances(first.id, [InstanceOutcome.PENDING])[:1]

    def record() -> None:
        ledger.runs.record_uploaded(second, one)

    with meanwhile(ledger, "INSERT INTO upload", record):
        ledger.runs.record_uploaded(first, one)
    assert ledger.runs.already_uploaded("core", [one[0].sop_instance_uid])


def test_two_answers_for_the_same_instance_count_once(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    add_results(ledger, run)
    delivery = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert delivery is not None
    result = ledger.deliveries.unsent(delivery)[0]

    def answered() -> None:
        ledger.deliveries.record_answers(delivery, [Answer(result.id, 0, "Success", True)])

    with meanwhile(ledger, "INSERT INTO delivery_instance", answered):
        answered()
    now = ledger.deliveries.get(delivery.id)
    assert now is not None
    assert now.sent == 1


def test_two_sweeps_at_once_launch_each_run_once(ledger: Ledger, clock: Clock):
    for i in range(6):
        add_run(ledger, f"t{i}", study_uid=f"1.{i}")
    clock.tick(11)
    launched: list[str] = []
    together = threading.Barrier(2)

    def sweep() -> None:
        due = ledger.runs.due(stale_s=10, limit=99)
        together.wait()
        launched.extend(d.run_id for d in due if ledger.runs.mark_enqueued(d))

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(launched) == len(set(launched)) == 6


def test_a_relaunch_while_the_deliveries_go_out_leaves_them_uncommitted(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    held = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert held is not None
    ledger.intake.relaunch(STUDY, [TARGET])
    assert not ledger.deliveries.finish(held, DeliveryState.DELIVERED, "late")
    assert not ledger.deliveries.renew(held.id, "w", 10)
    assert not ledger.runs.settle(run.id)
    assert existing(ledger, run.id).state is RunState.CANCELLED


@pytest.mark.parametrize("at", ["UPDATE run", "UPDATE delivery"])
def test_a_relaunch_at_the_moment_of_the_fan_out_skips_every_delivery(ledger: Ledger, at: str):
    run = bring_to(ledger, add_run(ledger), Step.FAN_OUT)
    claimed = ledger.runs.claim(run.id, Step.FAN_OUT, "w", 10)
    assert claimed is not None
    totals = {d.destination: 2 for d in ledger.deliveries.of_run(run.id)}
    with meanwhile(ledger, at, lambda: ledger.intake.relaunch(STUDY, [TARGET])):
        ledger.deliveries.fan_out(claimed, totals, ("fan_out.done", "test"))
    assert existing(ledger, run.id).state is RunState.CANCELLED
    assert {d.state for d in ledger.deliveries.of_run(run.id)} == {DeliveryState.SKIPPED}
    assert ledger.deliveries.due(stale_s=0, limit=9) == []

"""The ledger's promises, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pacsor_tasks.errors import ConfigError, NotFound
from pacsor_tasks.ledger import Answer, Ledger, migrate
from pacsor_tasks.ledger.engine import open_engine
from pacsor_tasks.ledger.schema import metadata
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


def test_the_migrations_make_exactly_the_tables_of_the_schema(ledger: Ledger):
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_and_from_many_processes_at_once_is_harmless(ledger_url: str):
    threads = [threading.Thread(target=migrate, args=(ledger_url,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://x/y", "'mysql' is not supported"),
        ("not a url", "not a database URL"),
        ("postgresql+psycopg://u:pw@host:port/db", "not a database URL"),
        ("sqlite:////proc/nowhere/ledger.sqlite3", "cannot be opened"),
    ],
)
def test_a_wrong_ledger_url_is_a_config_error_that_names_the_setting(url: str, says: str):
    with pytest.raises(ConfigError, match=f"LEDGER_URL: .*{says}"):
        migrate(url)


def test_a_revision_is_recorded_once_whatever_is_repeated(ledger: Ledger):
    first = ledger.intake.add_revision(new_revision(), [TARGET])
    again = ledger.intake.add_revision(new_revision(), [TARGET])
    assert first == again
    assert ledger.intake.knows("t1")
    assert not ledger.intake.knows("t2")


def test_late_instances_make_revision_two(ledger: Ledger):
    add_run(ledger, "t1")
    add_run(ledger, "t2", n=1)
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    assert [(r["number"], r["instances"]) for r in detail["revisions"]] == [(1, 2), (2, 1)]


def test_a_revision_without_instances_leaves_its_notes_and_no_run(ledger: Ledger):
    assert ledger.intake.add_revision(new_revision(n=0, notes=("resent",)), [TARGET]) == []
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    assert next(e["message"] for e in detail["events"]) == "resent"


def test_one_worker_gets_the_lease(ledger: Ledger):
    run = add_run(ledger)
    assert ledger.runs.claim(run.id, Step.FILTER, "a", 10) is not None
    assert ledger.runs.claim(run.id, Step.FILTER, "b", 10) is None


def test_of_many_workers_at_once_exactly_one_gets_the_lease(ledger: Ledger):
    run = add_run(ledger)
    won: Counter[str] = Counter()

    def worker(name: str) -> None:
        if ledger.runs.claim(run.id, Step.FILTER, name, 10):
            won[name] += 1

    threads = [threading.Thread(target=worker, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won.values()) == 1


def test_a_lease_that_ran_out_is_taken_over_and_fences_its_former_holder(
    ledger: Ledger, clock: Clock
):
    run = add_run(ledger)
    former = ledger.runs.claim(run.id, Step.FILTER, "former", 10)
    clock.tick(11)
    latter = ledger.runs.claim(run.id, Step.FILTER, "latter", 10)
    assert former is not None
    assert latter is not None
    assert not ledger.runs.advance(former, Step.UPLOAD)
    assert not ledger.runs.renew(run.id, "former", 10)
    assert ledger.runs.advance(latter, Step.UPLOAD)
    assert existing(ledger, run.id).step is Step.UPLOAD


def test_a_step_is_not_taken_before_it_is_due_nor_out_of_order(ledger: Ledger, clock: Clock):
    run = add_run(ledger)
    assert ledger.runs.claim(run.id, Step.UPLOAD, "a", 10) is None
    claimed = ledger.runs.claim(run.id, Step.FILTER, "a", 10)
    assert claimed is not None
    ledger.runs.park(claimed, clock() + 5, "a peer", "it is away")
    assert ledger.runs.claim(run.id, Step.FILTER, "a", 10) is None
    clock.tick(6)
    assert ledger.runs.claim(run.id, Step.FILTER, "a", 10) is not None


def test_a_host_whose_clock_is_a_little_behind_takes_the_next_step(ledger: Ledger, clock: Clock):
    run = add_run(ledger)
    claimed = ledger.runs.claim(run.id, Step.FILTER, "a", 10)
    assert claimed is not None
    ledger.runs.advance(claimed, Step.UPLOAD)
    clock.tick(-0.2)
    assert ledger.runs.claim(run.id, Step.UPLOAD, "b", 10) is not None


def test_a_parked_run_is_due_when_its_time_comes_and_is_marked_by_one_sweep(
    ledger: Ledger, clock: Clock
):
    run = add_run(ledger)
    claimed = ledger.runs.claim(run.id, Step.FILTER, "a", 10)
    assert claimed is not None
    ledger.runs.park(claimed, clock() + 5, "a peer")
    assert ledger.runs.due(stale_s=10, limit=9) == []
    clock.tick(5)
    (due,) = ledger.runs.due(stale_s=10, limit=9)
    assert ledger.runs.mark_enqueued(due)
    assert not ledger.runs.mark_enqueued(due)
    assert ledger.runs.due(stale_s=10, limit=9) == []


def test_a_message_that_never_arrives_counts_as_lost_after_a_while(ledger: Ledger, clock: Clock):
    add_run(ledger)
    assert ledger.runs.due(stale_s=10, limit=9) == []
    clock.tick(11)
    assert len(ledger.runs.due(stale_s=10, limit=9)) == 1
    assert ledger.runs.due(stale_s=float("inf"), limit=9) == []


def test_the_last_delivery_moves_the_run_to_cleanup_once(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    moved = []
    for delivery in ledger.deliveries.of_run(run.id):
        claimed = ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        ledger.deliveries.finish(claimed, DeliveryState.DELIVERED, "ok")
        moved.append(ledger.runs.settle(run.id))
    assert moved == [False, False, True]
    assert not ledger.runs.settle(run.id)
    assert existing(ledger, run.id).step is Step.CLEANUP


def test_a_quarantined_delivery_ends_the_run_as_failed_and_says_which(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    for delivery in ledger.deliveries.of_run(run.id):
        claimed = ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        bad = delivery.destination == "storescu-2"
        state = DeliveryState.QUARANTINED if bad else DeliveryState.DELIVERED
        ledger.deliveries.finish(claimed, state, "refused" if bad else "ok")
        assert not ledger.runs.settle(run.id)
    ended = existing(ledger, run.id)
    assert ended.state is RunState.FAILED
    assert ended.error == "quarantined: storescu-2; the results are kept"
    assert ended.due_at is None


def test_what_a_pacs_has_is_not_sent_again(ledger: Ledger):
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    add_results(ledger, run, n=3)
    delivery = ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert delivery is not None
    first, second, third = ledger.deliveries.unsent(delivery)
    ledger.deliveries.record_answers(delivery, [Answer(first.id, 0, "Success", True)])
    ledger.deliveries.record_answers(delivery, [Answer(second.id, 0xA700, "Full", False)])
    ledger.deliveries.record_answers(delivery, [Answer(second.id, 0xA700, "Full", False)])
    untried_first = [third.id, second.id]
    assert [r.id for r in ledger.deliveries.unsent(delivery)] == untried_first
    again = ledger.deliveries.get(delivery.id)
    assert again is not None
    assert again.sent == 1


def test_the_control_id_is_made_once(ledger: Ledger):
    run = add_run(ledger)
    assert ledger.deliveries.keep_control_id(f"{run.id}:hl7", "GW1") == "GW1"
    assert ledger.deliveries.keep_control_id(f"{run.id}:hl7", "GW2") == "GW1"


def test_an_instance_uploaded_to_a_core_is_known_there_and_nowhere_else(ledger: Ledger):
    run = add_run(ledger)
    instances = ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    ledger.runs.record_uploaded(run, instances[:1])
    ledger.runs.record_uploaded(run, instances[:1])
    uids = [i.sop_instance_uid for i in instances]
    assert ledger.runs.already_uploaded("core", uids) == {uids[0]}
    assert ledger.runs.already_uploaded("core1", uids) == set()


def test_a_relaunch_cancels_the_unfinished_run_and_takes_all_revisions(ledger: Ledger):
    old = add_run(ledger, "t1")
    other = add_run(ledger, "t2", n=1)
    holder = ledger.runs.claim(old.id, Step.FILTER, "w", 10)
    (new_id,) = ledger.intake.relaunch(STUDY, [TARGET])
    assert existing(ledger, old.id).state is RunState.CANCELLED
    assert existing(ledger, other.id).state is RunState.CANCELLED
    assert holder is not None
    assert not ledger.runs.advance(holder, Step.UPLOAD)
    new = existing(ledger, new_id)
    assert new.force
    assert len(ledger.runs.instances(new_id, [InstanceOutcome.PENDING])) == 3
    assert {d.state for d in ledger.deliveries.of_run(old.id)} == {DeliveryState.SKIPPED}


def test_an_unknown_study_cannot_be_relaunched(ledger: Ledger):
    with pytest.raises(NotFound, match="never received"):
        ledger.intake.relaunch("9.9", [TARGET])


def test_retention_takes_old_finished_studies_only(ledger: Ledger, clock: Clock):
    done = add_run(ledger, "t1", study_uid="1.1")
    add_run(ledger, "t2", study_uid="1.2")  # unfinished
    bad = bring_to(ledger, add_run(ledger, "t3", study_uid="1.3"), Step.DELIVER)
    assert ledger.runs.cancel(done.id, "test")
    for delivery in ledger.deliveries.of_run(bad.id):
        claimed = ledger.deliveries.claim(delivery.id, "w", 10)
        assert claimed is not None
        ledger.deliveries.finish(claimed, DeliveryState.QUARANTINED, "refused")
    ledger.runs.settle(bad.id)
    assert ledger.retention.removable(100) == []
    clock.tick(101)
    (only,) = ledger.retention.removable(100)
    assert only.study_uid == "1.1"
    assert ledger.retention.disposable([done.id, bad.id]) == [done.id]
    ledger.retention.removed(only)
    assert ledger.retention.removable(100) == []
    with pytest.raises(NotFound, match="no longer held"):
        ledger.intake.relaunch("1.1", [TARGET])


def test_pages_walk_through_all_studies_without_repeating_one(ledger: Ledger, clock: Clock):
    for i in range(7):
        add_run(ledger, f"t{i}", study_uid=f"1.{i}")
        clock.tick(i % 2)  # some share their time
    seen: list[str] = []
    cursor = None
    while True:
        page = ledger.studies.page(limit=2, cursor=cursor)
        seen += [s["study_instance_uid"] for s in page["studies"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == [f"1.{i}" for i in range(7)]
    assert [s["study_instance_uid"] for s in ledger.studies.page(q="1.3")["studies"]] == ["1.3"]
    assert len(ledger.studies.page(state="queued")["studies"]) == 7
    assert ledger.studies.page(state="done")["studies"] == []


def test_the_shape_of_a_study_is_the_public_one(ledger: Ledger):
    run = add_run(ledger)
    detail = ledger.studies.detail(STUDY)
    assert detail is not None
    assert detail["study_instance_uid"] == STUDY
    (shown,) = detail["runs"]
    assert {"id", "core", "state", "waiting_for", "due_at", "deliveries"} <= set(shown)
    assert shown["id"] == run.id
    assert {"destination", "state", "attempts", "sent", "total"} <= set(shown["deliveries"][0])
    assert all(d["due_at"] for d in shown["deliveries"])
    assert {"at", "kind", "message"} <= set(detail["events"][0])
    assert ledger.studies.detail("9.9") is None


def test_whoever_reads_does_not_wait_for_a_writer(ledger: Ledger):
    add_run(ledger)
    with ledger.runs.write() as connection:
        connection.exec_driver_sql("UPDATE study SET updated_at = updated_at")
        assert ledger.studies.exists(STUDY)


def test_the_engine_is_closed_with_the_ledger(ledger_url: str):
    engine = open_engine(ledger_url)
    with engine.connect():
        pass
    engine.dispose()

"""Ingest: what lies in `ready/` becomes a revision and its runs, once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pacsor_tasks.errors import Permanent
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import InstanceOutcome
from pacsor_tasks.steps.ingest import ingest
from tests.support.bench import Bench, uid_of


def test_a_directory_becomes_a_revision_with_one_run_and_leaves_the_outbox(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, files = bench.study(3)
    paths = bench.ports.spool.instance_paths(study_uid, "t1")
    (run_id,) = ingest(study_uid, paths, bench.ports)
    found = sqlite_ledger.runs.instances(run_id, [InstanceOutcome.PENDING])
    assert [i.sop_instance_uid for i in found] == sorted(uid_of(f) for f in files)
    assert [i.path for i in found] == paths
    assert {i.error for i in found} == {None}
    assert bench.ports.spool.outbox() == []


def test_a_repeated_message_finds_the_same_run(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, _ = bench.study()
    paths = bench.ports.spool.instance_paths(study_uid, "t1")
    assert ingest(study_uid, paths, bench.ports) == ingest(study_uid, paths, bench.ports)


def test_what_is_on_disk_counts_not_what_the_message_names(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, _ = bench.study(3)
    paths = bench.ports.spool.instance_paths(study_uid, "t1")
    (run_id,) = ingest(study_uid, paths[:1], bench.ports)
    assert len(sqlite_ledger.runs.instances(run_id, [InstanceOutcome.PENDING])) == 3


@pytest.mark.parametrize(
    "paths",
    [
        ["ready/1.2.3/t1/a.dcm", "ready/1.2.3/t2/a.dcm"],  # of two revisions
        ["ready/9.9/t1/a.dcm"],  # of another study
        ["incoming/1.2.3/a.dcm"],
        ["ready/1.2.3/../../ledger.sqlite3"],
        ["/etc/passwd"],
        ["ready/1.2.3/t9/a.dcm"],  # not on disk
    ],
)
def test_paths_that_are_not_one_revision_of_the_study_are_refused(
    sqlite_ledger: Ledger, tmp_path: Path, paths: list[str]
):
    with pytest.raises(Permanent):
        ingest("1.2.3", paths, Bench(tmp_path, sqlite_ledger).ports)


def test_unreadable_instances_are_recorded_with_the_reason(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, files = bench.study(3)
    directory = bench.ports.spool.revision_dir(study_uid, "t1")
    (directory / files[0].name).write_bytes(b"")
    (directory / files[1].name).write_bytes(b"x" * 300)
    run = bench.ingested(study_uid)
    found = sqlite_ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    errors = {i.path.rpartition("/")[2]: i.error for i in found}
    assert errors[files[0].name] == "the file is empty"
    assert errors[files[1].name] == "not a DICOM file: no DICM prefix"
    assert errors[files[2].name] is None


def test_an_instance_of_another_study_is_not_taken_for_one_of_this(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    foreign = bench.results("1.2.3.4", 1)
    bench.received(foreign, "1.2.3", "t1")
    run = bench.ingested("1.2.3")
    (found,) = sqlite_ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    assert found.error == "its StudyInstanceUID is 1.2.3.4"


def test_what_happened_on_the_way_is_in_the_timeline(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    files = bench.results("1.2.3", 1)
    bench.received(files, "1.2.3", events=({"kind": "duplicate.same", "count": 3},))
    run = bench.ingested("1.2.3")
    assert ("study.note", "duplicate.same: count 3") in bench.events(run)


@pytest.mark.parametrize("damage", [None, "", "{", '{"study_uid": 1}', "[]"])
def test_a_damaged_manifest_does_not_hold_back_the_study(
    sqlite_ledger: Ledger, tmp_path: Path, damage: str | None
):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, _ = bench.study(2)
    manifest = bench.ports.spool.revision_dir(study_uid, "t1") / "revision.json"
    manifest.unlink() if damage is None else manifest.write_text(damage)
    run = bench.ingested(study_uid)
    assert any("revision.json" in message for kind, message in bench.events(run))
    assert bench.ports.spool.outbox() == []


def test_a_study_that_came_again_with_nothing_new_leaves_a_note_and_no_run(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    bench.received([], "1.2.3", events=({"kind": "duplicate.same", "count": 2},))
    assert ingest("1.2.3", [], bench.ports) == []
    assert sqlite_ledger.intake.knows("t1")
    assert bench.ports.spool.outbox() == []


def test_no_patient_data_is_recorded(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.run(2, PatientName="DOE^JANE", PatientID="SECRET-ID", AccessionNumber="SECRET-ACC")
    with sqlite3.connect(tmp_path / "only.sqlite3") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert run.study_uid in dump
    assert not any(word in dump for word in ("DOE", "JANE", "SECRET"))

"""Filter: which instances go to the AI, and what becomes of a run of which none does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import DeliveryState, InstanceOutcome, Run, RunState, Step
from pacsor_tasks.ports import Ris
from pacsor_tasks.steps.filter import filter_instances
from tests.support.bench import Bench
from tests.support.ledgers import existing


def rule(tag: str, pattern: str, *, should_match: bool) -> FilterRule:
    group, element = tag.split(",")
    return FilterRule.model_validate(
        {
            "tag": {"group": group, "element": element},
            "pattern": pattern,
            "should_match": should_match,
        }
    )


RULES = (
    rule("0010,0010", "^TEST.*", should_match=False),
    rule("0008,0060", "^SR$", should_match=True),
)


@pytest.mark.parametrize(
    ("name", "modality", "state"),
    [
        ("TEST^A", "SR", RunState.FILTERED),  # the name matches where it should not
        ("NOT_A_TEST", "SR", RunState.UPLOADING),
        ("NOT_A_TEST", "DX", RunState.FILTERED),  # the modality does not match where it should
        ("NOT_A_TEST", None, RunState.UPLOADING),  # a missing tag skips nothing
    ],
)
def test_the_worked_example(
    sqlite_ledger: Ledger, tmp_path: Path, name: str, modality: str | None, state: RunState
):
    bench = Bench(tmp_path, sqlite_ledger, filters=RULES)
    study_uid, (file,) = bench.study(1, PatientName=name, Modality=modality or "XX")
    if modality is None:
        without(bench, study_uid, file, "Modality")
    run = bench.do(bench.ingested(study_uid), filter_instances)
    assert run.state is state


def without(bench: Bench, study_uid: str, file: Path, keyword: str) -> None:
    path = bench.ports.spool.revision_dir(study_uid, "t1") / file.name
    dataset = dcmread(path)
    delattr(dataset, keyword)
    dataset.save_as(path, enforce_file_format=True)


def test_what_is_kept_goes_on_and_the_rule_is_named_without_the_value(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger, filters=(rule("0020,0013", "^1$", should_match=False),))
    run = bench.do(bench.run(3), filter_instances)
    assert run.step is Step.UPLOAD
    assert bench.outcomes(run) == {"pending": 2, "filtered": 1}
    said = "2 of 3 instances kept; 1 by rule 1: InstanceNumber (0020,0013) matches '^1$'"
    assert ("filter.done", said) in bench.events(run)


def test_of_a_study_filtered_whole_nothing_is_asked_and_nothing_delivered(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(
        tmp_path,
        sqlite_ledger,
        filters=RULES,
        ris={"hl7": Ris(name="hl7", host="127.0.0.1", port=9, timeout_s=1)},
    )
    run = bench.do(bench.run(2, PatientName="TEST^B"), filter_instances)
    assert run.state is RunState.FILTERED
    assert bench.api.asked == []
    states = {d.state for d in sqlite_ledger.deliveries.of_run(run.id)}
    assert states == {DeliveryState.SKIPPED}


def test_an_unreadable_instance_is_left_out_and_said(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)
    study_uid, files = bench.study(2)
    bad = bench.ports.spool.revision_dir(study_uid, "t1") / files[0].name
    bad.write_bytes(b"not DICOM" * 50)
    run = bench.do(bench.ingested(study_uid), filter_instances)
    assert run.step is Step.UPLOAD
    assert bench.outcomes(run) == {"pending": 1, "unreadable": 1}


def test_an_instance_that_the_rules_cannot_be_applied_to_does_not_stop_the_others(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger, filters=RULES)
    study_uid, files = bench.study(2, Modality="SR", PatientName="A")
    run = bench.ingested(study_uid)
    # Gone since: as any file whose header pydicom cannot take.
    (bench.ports.spool.revision_dir(study_uid, "t1") / files[0].name).unlink()
    run = bench.do(run, filter_instances)
    assert run.step is Step.UPLOAD
    assert bench.outcomes(run) == {"pending": 1, "unreadable": 1}


def test_a_study_of_which_nothing_can_be_read_has_failed_not_been_filtered(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger, filters=RULES)
    study_uid, files = bench.study(2, PatientName="TEST^A")
    (bench.ports.spool.revision_dir(study_uid, "t1") / files[0].name).write_bytes(b"x" * 200)
    run = bench.do(bench.ingested(study_uid), filter_instances)
    assert run.state is RunState.FAILED
    assert bench.outcomes(run) == {"filtered": 1, "unreadable": 1}


def test_a_crash_after_the_decision_changes_nothing(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger, filters=RULES)
    study_uid, files = bench.study(2, PatientName="TEST^A")
    (bench.ports.spool.revision_dir(study_uid, "t1") / files[0].name).write_bytes(b"x" * 200)
    run = bench.ingested(study_uid)
    filter_instances(run, bench.ports)  # its worker died before the commit
    assert bench.do(run, filter_instances).state is RunState.FAILED


def test_a_crash_after_an_upload_of_a_replayed_run_does_not_filter_it(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    run = bench.run(2)
    every = sqlite_ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    sqlite_ledger.runs.record_uploaded(run, every)
    assert bench.do(run, filter_instances).step is Step.UPLOAD


def test_a_core_that_is_no_longer_configured_ends_its_runs_with_a_reason(
    sqlite_ledger: Ledger, tmp_path: Path
):
    bench = Bench(tmp_path, sqlite_ledger)
    run: Run = bench.run()
    bench.ports = replace(bench.ports, cores={})
    bench.do(run, filter_instances)
    ended = existing(sqlite_ledger, run.id)
    assert ended.state is RunState.FAILED
    assert "core core is not configured" in (ended.error or "")

"""Reports from elsewhere in the ledger, on both databases."""

from __future__ import annotations

import uuid

import pytest

from pacsor_tasks.errors import NotFound
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.ledger.reports import NewReport, is_received
from pacsor_tasks.models import DeliveryState, DestinationKind, RunState, Step
from tests.conftest import Clock
from tests.support.ledger_seed import Seed
from tests.support.ledgers import existing

UID = "1.2.840.99.5"


def report(number: int = 1, provider: str = "radio-a") -> NewReport:
    run_id = str(uuid.UUID(int=number))
    return NewReport(run_id=run_id, study_uid=UID, provider=provider)


def due(ledger: Ledger) -> list[str]:
    return [d.delivery_id for d in ledger.deliveries.due(stale_s=0, limit=100)]


def test_a_report_is_recorded_once_with_its_deliveries_due(ledger: Ledger):
    assert not ledger.reports.knows(report().run_id)
    assert ledger.reports.add(report(), ["hl7", "hl7-2"])
    assert not ledger.reports.add(report(), ["hl7", "hl7-2"])
    assert ledger.reports.knows(report().run_id)
    assert sorted(due(ledger)) == [f"{report().run_id}:hl7", f"{report().run_id}:hl7-2"]
    run = existing(ledger, report().run_id)
    assert (run.step, run.state) == (Step.DELIVER, RunState.DELIVERING)
    assert is_received(run.core)
    assert not is_received("core1")
    detail = ledger.studies.detail(UID)
    assert detail is not None
    assert [e["kind"] for e in detail["events"]] == ["report.received"]
    assert ledger.retention.removable(0) == []


def test_a_delivered_report_goes_on_to_cleanup(ledger: Ledger):
    ledger.reports.add(report(), ["hl7"])
    delivery = ledger.deliveries.claim(f"{report().run_id}:hl7", "me", 10)
    assert delivery is not None
    ledger.deliveries.finish(delivery, DeliveryState.DELIVERED, "acknowledged")
    assert ledger.runs.settle(report().run_id)
    assert existing(ledger, report().run_id).step is Step.CLEANUP


def test_a_later_report_does_not_stand_in_for_one_that_is_quarantined(ledger: Ledger, clock: Clock):
    ledger.reports.add(report(1), ["hl7"])
    delivery = ledger.deliveries.claim(f"{report(1).run_id}:hl7", "me", 10)
    assert delivery is not None
    ledger.deliveries.finish(delivery, DeliveryState.QUARANTINED, "AR")
    assert not ledger.runs.settle(report(1).run_id)
    clock.tick(60)
    ledger.reports.add(report(2), ["hl7"])
    ledger.verbs.retry_delivery(f"{report(1).run_id}:hl7", "anna")
    assert sorted(due(ledger)) == [f"{report(1).run_id}:hl7", f"{report(2).run_id}:hl7"]


def test_a_relaunch_of_the_study_leaves_reports_alone(ledger: Ledger, clock: Clock):
    seed = Seed(ledger)
    seed.receive(UID, destinations=())
    clock.tick(1)
    ledger.reports.add(report(), ["hl7"])
    target = Target(core="core", destinations=[("hl7", DestinationKind.HL7)])
    ledger.intake.relaunch(UID, [target])
    assert existing(ledger, report().run_id).state is RunState.DELIVERING


def test_a_report_alone_cannot_be_relaunched(ledger: Ledger):
    ledger.reports.add(report(), ["hl7"])
    with pytest.raises(NotFound):
        ledger.intake.relaunch(UID, [Target(core="core", destinations=[])])


def test_the_latest_instance_held_of_a_study_is_found(ledger: Ledger, clock: Clock):
    assert ledger.reports.instance_of(UID) is None
    ledger.reports.add(report(), ["hl7"])
    assert ledger.reports.instance_of(UID) is None
    seed = Seed(ledger)
    seed.receive(UID)
    clock.tick(1)
    seed.receive(UID, n_instances=1)
    found = ledger.reports.instance_of(UID)
    assert found is not None
    assert found.endswith(f"{clock.now}/1.dcm")


def test_what_cannot_be_used_is_an_event(ledger: Ledger):
    before = ledger.studies.last_event_id()
    ledger.reports.refused("x" * 200, "no StudyInstanceUID", "quarantine/webps/a.json")
    assert ledger.studies.last_event_id() > before

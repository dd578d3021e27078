"""Other providers' reports: the subscriber as a process, a hub that speaks its subprotocol."""

from __future__ import annotations

import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.models import DeliveryState
from tests.support.net import wait_until
from tests.support.studies import make_study, study_uid_of
from tests.support.webps import PROVIDER, Site, message, open_site

UID = "1.2.840.99.7"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site without its subscriber."""
    with open_site(tmp_path) as opened:
        yield opened


def segments(raw: bytes) -> list[str]:
    return raw.decode().rstrip("\r").split("\r")


def test_a_report_goes_to_the_ris_once_however_often_it_comes(site: Site):
    site.start()
    site.hub.publish(PROVIDER, message(UID))
    (delivery_id,) = site.recorded(1)
    # Patient data is in no log, and in no file that others can read.
    assert "LEGRAND" not in site.log.read_text()
    assert stat.S_IMODE((site.ports.spool.root / "reports").stat().st_mode) == 0o700
    session = site.settings.DATA_DIR / "webps" / "session.json"
    assert stat.S_IMODE(session.stat().st_mode) == 0o600
    assert "access_token" not in session.read_text()

    site.hub.publish(PROVIDER, message(UID))
    site.hub.publish(PROVIDER, {**message(UID), "published_at": "later"})
    wait_until(lambda: site.hub.unacknowledged() == 0)
    assert site.end() == 0
    site.start()
    site.hub.publish(PROVIDER, message(UID))
    site.hub.publish(PROVIDER, message(UID, 2))
    second = wait_until(lambda: [d for d in site.recorded(2) if d != delivery_id])
    assert len(second) == 1

    assert site.deliver(delivery_id).state is DeliveryState.DELIVERED
    (sent,) = site.ris.messages
    found = segments(sent)
    assert next(s for s in found if s.startswith("PID")) == (
        "PID|||PX-9^^^MILVUE^PI||LEGRAND^Anaïs||19610412|F|"
    )
    assert next(s for s in found if s.startswith("OBR")).startswith("OBR|1||ACC-9|")
    assert "OBX||TX|CONCLUSION^Conclusion^LN||No fracture \\F\\ seen.||||||F" in found
    assert not any("SmartUrgences" in s for s in found)
    detail = site.ports.ledger.studies.detail(UID)
    assert detail is not None
    assert ("report.received", f"a report of {PROVIDER}, to hl7") in [
        (e["kind"], e["message"]) for e in detail["events"]
    ]


def test_a_corrected_report_goes_to_the_ris_after_the_first(site: Site):
    site.start()
    site.hub.publish(PROVIDER, message(UID))
    (first,) = site.recorded(1)
    site.hub.publish(PROVIDER, message(UID, report={"conclusion": "A fracture after all."}))
    (second,) = [d for d in site.recorded(2) if d != first]
    for delivery_id in (first, second):
        assert site.deliver(delivery_id).state is DeliveryState.DELIVERED
    conclusions = [next(s for s in segments(m) if "CONCLUSION" in s) for m in site.ris.messages]
    assert conclusions == [
        "OBX||TX|CONCLUSION^Conclusion^LN||No fracture \\F\\ seen.||||||F",
        "OBX||TX|CONCLUSION^Conclusion^LN||A fracture after all.||||||F",
    ]


def test_nothing_is_lost_or_doubled_when_the_process_is_killed_again_and_again(site: Site):
    n = 120
    site.start()
    published = threading.Event()

    def publish() -> None:
        for number in range(n):
            assert site.hub.publish(PROVIDER, message(f"{UID}.{number + 1}", number)) == 1
            time.sleep(0.02)
        published.set()

    publisher = threading.Thread(target=publish)
    publisher.start()
    while not published.is_set():
        time.sleep(0.3)
        site.end(signal.SIGKILL)
        site.start()
    publisher.join()
    assert len(set(site.recorded(n, 40))) == n
    wait_until(lambda: site.hub.unacknowledged() == 0)
    assert site.waiting == []
    assert site.api.journal.events("recovered")
    assert len(site.api.journal.events("connected")) == 1


def test_a_broken_connection_is_taken_up_again_with_what_was_missed(site: Site):
    site.start()
    site.hub.drop()
    assert site.hub.publish(PROVIDER, message(UID)) == 1
    site.recorded(1)
    assert site.api.journal.events("recovered")
    assert len(site.api.journal.events("access")) == 1


def test_a_session_that_the_service_forgot_is_begun_anew(site: Site):
    site.start()
    site.hub.forget()
    wait_until(lambda: len(site.api.journal.events("access")) == 2 and site.listens(), 30)
    site.hub.publish(PROVIDER, message(UID))
    site.recorded(1)
    assert site.end() == 0
    site.hub.forget()
    site.start()
    assert len(site.api.journal.events("access")) == 3


def test_a_refused_token_and_a_refused_group_are_tried_again(site: Site):
    site.api.switches.set(fault=403, operation="access", times=1)
    site.hub.forbidden.add(PROVIDER)
    site.start(listening=False)
    wait_until(lambda: site.api.journal.events("joined", success=False), 30)
    site.hub.forbidden.clear()
    wait_until(site.listens, 30)
    said = site.log.read_text()
    assert "check TOKEN" in said
    assert "webps.not_joined" in said
    assert "access_token" not in said


@pytest.mark.parametrize(
    "unusable",
    [
        {"id": "r-1", "study": {"StudyInstanceUID": "not a uid"}, "report": {"title": "x"}},
        {"id": "r-1", "study": {"StudyInstanceUID": UID}, "report": {}},
        {"id": "r-1", "study": {"StudyInstanceUID": UID}, "format": [], "report": {"title": "x"}},
        ["LEGRAND"],
    ],
)
def test_what_cannot_be_used_is_kept_aside_and_shown(site: Site, unusable: object):
    site.start()
    site.hub.publish(PROVIDER, unusable)
    site.hub.publish(PROVIDER, message(UID, 2))
    site.recorded(1)
    kept = wait_until(lambda: list((site.ports.spool.root / "quarantine").rglob("*.json")))
    assert len(kept) == 1
    assert site.waiting == []
    assert "LEGRAND" not in site.log.read_text()


def test_a_damaged_file_of_the_inbox_does_not_keep_the_process_from_its_work(site: Site):
    inbox = site.ports.spool.root / "reports"
    inbox.mkdir()
    (inbox / "1.json").write_text('{"provider": "radio-a", "data": {"LEGRAND')
    site.start()
    site.hub.publish(PROVIDER, message(UID))
    site.recorded(1)
    assert site.waiting == []
    assert len(list((site.ports.spool.root / "quarantine").rglob("1.json"))) == 1
    assert "LEGRAND" not in site.log.read_text()


def test_a_report_of_another_patient_than_the_study_held_is_quarantined(site: Site, tmp_path: Path):
    from pacsor_tasks.ledger import NewInstance, NewRevision

    (file,) = make_study(tmp_path / "made", 1)  # PatientID PX-1
    uid = study_uid_of([file])
    held = site.ports.spool.revision_dir(uid, "t1")
    held.mkdir(parents=True)
    file.rename(held / "1.dcm")
    instance = NewInstance(
        sop_instance_uid="1.2.3", sop_class_uid="1.2", series_uid="1.2", transfer_syntax_uid="1.2",
        path=f"ready/{uid}/t1/1.dcm", size_bytes=1,
    )  # fmt: skip
    new = NewRevision(study_uid=uid, token="t1", reason="quiet", instances=[instance])
    site.ports.ledger.intake.add_revision(new, [])
    site.start()
    site.hub.publish(PROVIDER, message(uid))
    site.hub.publish(
        PROVIDER, message(uid, 2, study={"StudyInstanceUID": uid, "AccessionNumber": "ACC-1"})
    )
    ended = [site.deliver(delivery_id) for delivery_id in site.recorded(2)]
    by_state = {delivery.state: delivery for delivery in ended}
    assert set(by_state) == {DeliveryState.QUARANTINED, DeliveryState.DELIVERED}
    assert "PatientID differs" in (by_state[DeliveryState.QUARANTINED].error or "")
    assert b"PX-1^^^MILVUE^PI||TEST^STUDY" in site.ris.messages[0]

"""Storage Commitment with pynetdicom's and Orthanc's SCU: what is promised, who is told where."""

from __future__ import annotations

import json
import os
import queue
import signal
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from pacsor_tasks.spool import Spool
from receiver import commitment
from receiver.commitment import NO_SUCH_INSTANCE, OTHER_CLASS, Reference, judge
from receiver.incoming import file_meta
from receiver.reporting import SOP_CLASS, SOP_INSTANCE
from tests.support.instances import CR, CT, encode, make_dataset, new_uid, write_instance
from tests.support.net import free_port, wait_until
from tests.support.pacs_peers import orthanc
from tests.support.receivers import Receiver, receiver, send

LONG: dict[str, Any] = {"STUDY_QUIET_SECONDS": 900, "STUDY_MAX_WAIT_SECONDS": 900}
Reports = queue.Queue[tuple[int, Dataset]]


@pytest.fixture(scope="module")
def committing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    directory = tmp_path_factory.mktemp("commitment")
    with receiver(directory, STORAGE_COMMITMENT="true", RECEIVER_PROCESSES=2, **LONG) as running:
        yield running


@contextmanager
def modality(port: int, reports: Reports | None = None) -> Iterator[Association]:
    """A sender with an open association; what it is told goes into the queue."""
    ae = AE("MODALITY")
    ae.add_requested_context(CR, [ExplicitVRLittleEndian])
    ae.add_requested_context(SOP_CLASS)

    def on_report(event: evt.Event) -> tuple[int, None]:
        assert reports is not None
        reports.put((event.event_type or 0, event.event_information))
        return 0x0000, None

    opened = ae.associate(
        "127.0.0.1", port, ae_title="MILVUE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    assert opened.is_established
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.abort()


@contextmanager
def listening(port: int) -> Iterator[Reports]:
    """Where a modality takes reports that come later."""
    reports: Reports = queue.Queue()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.put((event.event_type or 0, event.event_information))
        return 0x0000, None

    ae = AE("MODALITY")
    ae.add_supported_context(SOP_CLASS, scu_role=True, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)]
    )
    assert server is not None
    try:
        yield reports
    finally:
        server.shutdown()


def store(opened: Association, study_uid: str, n: int = 1) -> list[str]:
    """New instances of the study; their UIDs."""
    datasets = [make_dataset(study_uid) for _ in range(n)]
    for dataset in datasets:
        status, _ = send(opened, encode(dataset), sop_instance_uid=dataset.SOPInstanceUID)
        assert status == 0
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


def request(transaction_uid: str, uids: Sequence[str], sop_class_uid: str = CR) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = transaction_uid
    asked.ReferencedSOPSequence = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
        asked.ReferencedSOPSequence.append(item)
    return asked


def commit(opened: Association, uids: Sequence[str], sop_class_uid: str = CR) -> str:
    """Ask for commitment, which is accepted; the transaction's UID."""
    transaction_uid = new_uid()
    status, _ = opened.send_n_action(
        request(transaction_uid, uids, sop_class_uid), 1, SOP_CLASS, SOP_INSTANCE
    )
    assert status.Status == 0
    return transaction_uid


def uids_of(report: Dataset, keyword: str) -> set[str]:
    return {str(item.ReferencedSOPInstanceUID) for item in report.get(keyword) or ()}


def test_the_report_comes_over_the_open_association_and_ends_the_wait(
    committing: Receiver,
) -> None:
    study_uid, reports = new_uid(), Reports()
    with modality(committing.port, reports) as opened:
        uids = store(opened, study_uid, 3)
        transaction_uid = commit(opened, uids)
        event_type, report = reports.get(timeout=20)
        assert (event_type, report.TransactionUID) == (1, transaction_uid)
        assert uids_of(report, "ReferencedSOPSequence") == set(uids)
        assert "FailedSOPSequence" not in report
        (manifest,) = committing.wait_for_revisions(study_uid, 1)
        assert (manifest.reason, manifest.n_instances) == ("committed", 3)
        # The association goes on; what it sends now is the next revision's.
        late = store(opened, study_uid)
        commit(opened, [*uids, *late])
        event_type, report = reports.get(timeout=20)
        assert event_type == 1
        assert uids_of(report, "ReferencedSOPSequence") == {*uids, *late}
        assert len(committing.wait_for_revisions(study_uid, 2)) == 2
        opened.release()
        assert opened.is_released
    assert not list((committing.spool.root / "commitments").iterdir())


def test_what_is_not_held_is_not_promised(committing: Receiver) -> None:
    study_uid, reports = new_uid(), Reports()
    with modality(committing.port, reports) as opened:
        first, second = store(opened, study_uid, 2)
        never = new_uid()
        commit(opened, [first, never])
        event_type, report = reports.get(timeout=20)
        assert event_type == 2
        assert uids_of(report, "ReferencedSOPSequence") == {first}
        assert uids_of(report, "FailedSOPSequence") == {never}
        assert report.FailedSOPSequence[0].FailureReason == NO_SUCH_INSTANCE
        # `second` was not asked for: the study is not whole.
        assert committing.spool.incoming_dir(study_uid).is_dir()
        commit(opened, [first], sop_class_uid=CT)
        event_type, report = reports.get(timeout=20)
        assert event_type == 2
        assert report.FailedSOPSequence[0].FailureReason == OTHER_CLASS
        assert "ReferencedSOPSequence" not in report
        commit(opened, [first, second])
        assert reports.get(timeout=20)[0] == 1
        committing.wait_for_revisions(study_uid, 1)
        opened.release()


@pytest.mark.parametrize(
    ("action", "instance", "asked", "status"),
    [
        (2, SOP_INSTANCE, request("1.2", ["1.2.3"]), 0x0123),
        (1, "1.2.3", request("1.2", ["1.2.3"]), 0x0112),
        (1, SOP_INSTANCE, request("1.2", []), 0x0115),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    committing: Receiver, action: int, instance: str, asked: Dataset, status: int
) -> None:
    with modality(committing.port) as opened:
        answer, _ = opened.send_n_action(asked, action, SOP_CLASS, instance)
        assert answer.Status == status
        opened.release()


def test_who_has_hung_up_is_told_at_its_address(tmp_path: Path) -> None:
    port, study_uid = free_port(), new_uid()
    with (
        receiver(
            tmp_path,
            STORAGE_COMMITMENT="true",
            STORAGE_COMMITMENT_PEERS=f"MODALITY@127.0.0.1:{port}",
            **LONG,
        ) as running,
        listening(port) as reports,
    ):
        with modality(running.port) as opened:
            (uid,) = store(opened, study_uid)
            transaction_uid = commit(opened, [uid])
            opened.abort()
        event_type, report = reports.get(timeout=30)
        assert (event_type, report.TransactionUID) == (1, transaction_uid)
        assert uids_of(report, "ReferencedSOPSequence") == {uid}
        running.wait_for_revisions(study_uid, 1)
        wait_until(lambda: running.log("commitment.reported"))


def test_a_report_outlives_the_peers_absence_and_our_own_death(tmp_path: Path) -> None:
    port, study_uid = free_port(), new_uid()
    with receiver(
        tmp_path,
        STORAGE_COMMITMENT="true",
        STORAGE_COMMITMENT_PEERS=f"MODALITY@127.0.0.1:{port}",
        **LONG,
    ) as running:
        with modality(running.port) as opened:
            (uid,) = store(opened, study_uid)
            transaction_uid = commit(opened, [uid])
            opened.abort()
        wait_until(lambda: running.log("commitment.not_reported"))
        os.kill(running.scp_pids()[0], signal.SIGKILL)
        with listening(port) as reports:
            event_type, report = reports.get(timeout=40)
            assert (event_type, report.TransactionUID) == (1, transaction_uid)
            # The report is known to be taken a moment later here than there: it must stay until
            # its answer was read.
            wait_until(lambda: not list((running.spool.root / "commitments").iterdir()))


def test_a_release_right_after_the_request_is_answered_at_once(committing: Receiver) -> None:
    for _ in range(5):
        with modality(committing.port, Reports()) as opened:
            (uid,) = store(opened, new_uid())
            commit(opened, [uid])
            opened.release()
            assert opened.is_released


def test_orthanc_sends_and_has_it_committed(tmp_path: Path) -> None:
    study_uid = new_uid()
    path = write_instance(tmp_path / "sent", study_uid)
    known = {"KnownAetMustBeMatching": False, "DicomAlwaysAllowEcho": True}
    with (
        orthanc(tmp_path / "orthanc", DicomAet="ORTHANC", **known) as peer,
        receiver(
            tmp_path,
            STORAGE_COMMITMENT="true",
            STORAGE_COMMITMENT_PEERS=f"ORTHANC@127.0.0.1:{peer.pacs.port}",
            **LONG,
        ) as running,
    ):

        def call(method: str, path: str, body: Any = None) -> Any:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent = urllib.request.Request(
                peer.url + path, data=data if body is not None else None, method=method
            )
            with urllib.request.urlopen(sent, timeout=30) as answer:
                return json.loads(answer.read() or b"null")

        instance = call("POST", "/instances", path.read_bytes())["ID"]
        gateway = {"AET": "MILVUE", "Host": "127.0.0.1", "Port": running.port}
        call("PUT", "/modalities/gateway", gateway | {"AllowStorageCommitment": True})
        call("POST", "/modalities/gateway/store", instance)
        asked = {"DicomInstances": [{"SOPClassUID": CR, "SOPInstanceUID": path.stem}]}
        transaction = call("POST", "/modalities/gateway/storage-commitment", asked)["ID"]
        wait_until(lambda: call("GET", f"/storage-commitment/{transaction}")["Status"] != "Pending")
        assert call("GET", f"/storage-commitment/{transaction}")["Status"] == "Success"
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        assert manifest.reason == "committed"


def test_it_is_not_offered_unless_set(tmp_path: Path) -> None:
    with receiver(tmp_path) as running, modality(running.port) as opened:
        assert [c.abstract_syntax for c in opened.accepted_contexts] == [CR]
        opened.release()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_study_that_moves_while_it_is_looked_at_is_held_and_one_that_goes_is_not(
    tmp_path: Path, is_removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    study, uid = new_uid(), new_uid()
    incoming, making = spool.incoming_dir(study), spool.root / "ready" / study / ".1-0"
    incoming.mkdir()
    (incoming / f"{uid}.dcm").write_bytes(file_meta(CR, uid, ExplicitVRLittleEndian))

    def find_and_move(where: Spool, wanted: set[str]) -> dict[str, Path]:
        found = find(where, wanted)
        if incoming.is_dir():
            making.parent.mkdir()
            incoming.rename(making)
            if is_removed:
                (making / f"{uid}.dcm").unlink()
        return found

    find = commitment._find
    monkeypatch.setattr(commitment, "_find", find_and_move)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    judgement = judge(spool, [Reference(CR, uid)], must_sync=True, sleep=print)
    if is_removed:
        assert judgement.failed == ((Reference(CR, uid), NO_SUCH_INSTANCE),)
    else:
        assert judgement.held == (Reference(CR, uid),)
        assert len(synced) == 2, "what is promised is synced where it is now: the file, its name"


def test_revisions_in_the_making_and_damaged_files_are_judged_by_what_is_there(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    study, held, bad, gone = (new_uid() for _ in range(4))
    making = spool.root / "ready" / study / ".20250101T000000Z-00000000"
    making.mkdir(parents=True)
    (making / f"{held}.dcm").write_bytes(file_meta(CR, held, ExplicitVRLittleEndian))
    (making / f"{bad}.dcm").write_bytes(b"short")
    found = judge(
        spool, [Reference(CR, uid) for uid in (held, bad, gone)], must_sync=True, sleep=print
    )
    assert found.held == (Reference(CR, held),)
    assert [reason for _, reason in found.failed] == [OTHER_CLASS, NO_SUCH_INSTANCE]
    assert found.complete == ()

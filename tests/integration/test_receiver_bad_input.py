"""Corrupt, foreign and unfinished input: a status with its meaning, one line, nothing left over."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom import Dataset

from tests.support.dcmtk import echoscu
from tests.support.instances import encode, make_dataset, new_uid
from tests.support.net import wait_until
from tests.support.receivers import Receiver, association, receiver, send, store_command


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One receiver that all the bad peers meet: it must live through them all."""
    with receiver(tmp_path_factory.mktemp("bad"), RECEIVER_IDLE_TIMEOUT=2) as up:
        (pid,) = up.scp_pids()
        yield up
        assert up.scp_pids() == [pid], "the process died of its input"
        assert up.log("process.ended") == []


def cut_in_pixels(dataset: Dataset) -> bytes:
    return encode(dataset)[:-100]


def cut_in_header(dataset: Dataset) -> bytes:
    return encode(dataset)[:30]


CASES: dict[str, tuple[dict[str, object], Callable[[Dataset], bytes | None], int, str]] = {
    "none": ({}, lambda _: None, 0xC101, "empty"),
    "empty": ({}, lambda _: b"", 0xC101, "empty"),
    "rubbish": ({}, lambda _: b"\x17\x2a" * 400, 0xC100, "not a whole DICOM data set"),
    "text": ({}, lambda _: b"GET / HTTP/1.1\r\n\r\n" * 9, 0xC100, "not a whole DICOM data set"),
    "cut in the pixels": ({}, cut_in_pixels, 0xC100, "not a whole DICOM data set"),
    "cut in the header": ({}, cut_in_header, 0xC100, "not a whole DICOM data set"),
    "no study": ({"StudyInstanceUID": None}, encode, 0xC102, "UID is missing"),
    "no series": ({"SeriesInstanceUID": None}, encode, 0xC102, "UID is missing"),
    "empty study": ({"StudyInstanceUID": ""}, encode, 0xC102, "UID is missing"),
    "no instance": ({"SOPInstanceUID": None}, encode, 0xC102, "UID is missing"),
    "other class": ({"SOPClassUID": "1.2.3"}, encode, 0xA900, "does not match SOP class"),
}


def said(running: Receiver, instance_uid: str) -> list[dict[str, Any]]:
    return [line for line in running.log() if line.get("instance_uid") == instance_uid]


@pytest.mark.parametrize("name", CASES)
def test_a_data_set_that_cannot_be_taken_is_refused_with_its_meaning(
    running: Receiver, name: str
) -> None:
    attributes, encoded, status, meaning = CASES[name]
    dataset = make_dataset()
    instance_uid = dataset.SOPInstanceUID
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    with association(running.port) as opened:
        answer = send(opened, encoded(dataset), sop_instance_uid=instance_uid)
        assert answer[0] == status
        assert meaning in answer[1]
        # The association goes on.
        good = make_dataset()
        assert send(opened, encode(good), sop_instance_uid=good.SOPInstanceUID)[0] == 0x0000
        opened.release()
    # The parent process passes the lines on, in its own time.
    wait_until(lambda: said(running, instance_uid))
    assert [(line["event"], line["status"]) for line in said(running, instance_uid)] == [
        ("store.refused", f"0x{status:04X}")
    ]
    assert running.nothing_half_written()
    assert not running.files(f"{instance_uid}.dcm")


def test_an_instance_uid_that_is_not_the_commands_is_refused(running: Receiver) -> None:
    dataset, claimed = make_dataset(), new_uid()
    with association(running.port) as opened:
        status, _ = send(opened, encode(dataset), sop_instance_uid=claimed)
        opened.release()
    assert status == 0xA901
    assert not running.files(f"{dataset.SOPInstanceUID}.dcm")


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2.3/4", "1..2", "1.2.a", "1.2.", "."])
def test_a_uid_that_is_no_uid_never_becomes_a_path(running: Receiver, uid: str) -> None:
    dataset = make_dataset()
    raw = encode(dataset).replace(
        element(0x0020, 0x000D, dataset.StudyInstanceUID), element(0x0020, 0x000D, uid)
    )
    before = {path.name for path in (running.spool.root / "incoming").iterdir()}
    with association(running.port) as opened:
        status, _ = send(opened, raw, sop_instance_uid=dataset.SOPInstanceUID)
        opened.release()
    assert status == 0xC103
    assert {path.name for path in (running.spool.root / "incoming").iterdir()} <= before


def test_a_leading_zero_in_a_uid_is_let_pass_with_a_warning(running: Receiver) -> None:
    dataset = make_dataset()
    uid = dataset.StudyInstanceUID[:-3].rstrip(".") + ".07"
    raw = encode(dataset).replace(
        element(0x0020, 0x000D, dataset.StudyInstanceUID), element(0x0020, 0x000D, uid)
    )
    with association(running.port) as opened:
        for _ in range(2):
            status, _ = send(opened, raw, sop_instance_uid=dataset.SOPInstanceUID)
            assert status == 0x0000
        opened.release()
    running.wait_for_revisions(uid, 1)
    lines = running.log("store.leading_zero_in_uid")
    assert [line["study_uid"] for line in lines] == [uid], "said once"


def element(group: int, number: int, uid: str) -> bytes:
    """A UI element, explicit VR little endian."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"\x01" * 517,  # a TLS hello
        b"\x01\x00" + struct.pack(">I", 200) + b"\x00" * 10,  # an A-ASSOCIATE-RQ that ends early
        b"\x01\x00" + struct.pack(">I", 100) + b"\xff" * 100,  # … that means nothing
        b"\x04\x00" + struct.pack(">I", 20) + b"\x00" * 20,  # data before an association
        b"",
    ],
    ids=["http", "tls", "short associate", "senseless associate", "early data", "nothing"],
)
def test_a_stream_that_is_not_dicom_costs_its_connection_only(
    running: Receiver, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        local_port = connection.getsockname()[1]
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert "Received Echo Response (Success)" in echoscu(running.port)
    lines = [line for line in running.log() if f":{local_port}" in str(line)]
    assert len(lines) <= 1, lines
    assert running.nothing_half_written()


def test_half_an_instance_and_then_the_end_leaves_nothing(running: Receiver) -> None:
    dataset = make_dataset(PixelData=bytes(400_000))
    with association(running.port) as opened:
        assert opened.dul.socket is not None
        assert opened.dul.socket.socket is not None
        raw = opened.dul.socket.socket
        pdv = struct.pack(">IBB", 100_002, 1, 0) + encode(dataset)[:100_000]
        # The command is whole, the data set is not, and one more PDU is cut off.
        group = store_command(dataset.SOPInstanceUID)
        head = struct.pack(">IBB", len(group) + 2, 1, 3) + group
        raw.sendall(b"\x04\x00" + struct.pack(">I", len(head)) + head)
        raw.sendall(b"\x04\x00" + struct.pack(">I", len(pdv)) + pdv)
        raw.sendall(b"\x04\x00" + struct.pack(">I", len(pdv)) + pdv[:500])
        raw.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: "Received Echo Response (Success)" in echoscu(running.port))
    assert running.nothing_half_written()
    assert not running.files(f"{dataset.SOPInstanceUID}.dcm")


def test_half_a_pdu_and_then_silence_is_ended_after_the_idle_timeout(running: Receiver) -> None:
    with association(running.port) as opened:
        assert opened.dul.socket is not None
        assert opened.dul.socket.socket is not None
        opened.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">I", 1000) + b"\x00" * 10)
        wait_until(lambda: not opened.is_established)


def test_no_patient_data_is_logged(running: Receiver) -> None:
    dataset = make_dataset(PatientName="Secret^Name", PatientID="SECRET-ID")
    with association(running.port) as opened:
        send(opened, encode(dataset)[:-100], sop_instance_uid=dataset.SOPInstanceUID)
        send(opened, encode(dataset), sop_instance_uid=new_uid())
        opened.release()
    assert "SECRET" not in running.log_path.read_text().upper().replace('"SECRET"', "")

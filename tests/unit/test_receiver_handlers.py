"""The answer to a C-STORE, without a network."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.dicom.elements import EXPLICIT_LE
from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Spool
from receiver.associations import MAX_TOLD, OpenAssociation
from receiver.handlers import WRITES_PER_LOOK, Answer, Arrival, StoreRequest, check, store
from receiver.incoming import Incoming, Partial
from receiver.processes import Process
from receiver.status import StoreStatus
from tests.support.instances import CR, CT, encode, make_dataset


def request_for(**attributes: Any) -> tuple[StoreRequest, bytes]:
    dataset = make_dataset()
    uid = dataset.SOPInstanceUID
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    request = StoreRequest(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        abstract_syntax_uid=CR,
        transfer_syntax_uid=EXPLICIT_LE,
    )
    return request, encode(dataset)


class Failing(Incoming):
    """Takes all the bytes, then cannot keep them."""

    error: ClassVar[Exception] = OSError(errno.EIO, "Input/output error")

    def keep(self, partial: Partial, header: InstanceHeader, association: OpenAssociation) -> Any:
        raise self.error


class Filling(Incoming):
    """Takes the first piece of an instance, then the disk is full."""

    def begin(self, association: OpenAssociation, **uids: str) -> Partial:
        partial = super().begin(association, **uids)
        os.close(partial._fd)
        partial._fd = os.open("/dev/full", os.O_WRONLY)
        return partial


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """A receiver process and its spool."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return Process(spool, "1-a")


@pytest.fixture
def association(process: Process) -> OpenAssociation:
    """Somebody who sends."""
    return OpenAssociation(process, "CR1", "10.0.0.1:4711")


def pieces_of(data_set: bytes, n_bytes: int) -> list[memoryview]:
    return [memoryview(data_set)[at : at + n_bytes] for at in range(0, len(data_set), n_bytes)]


def partials(process: Process) -> list[Path]:
    return [path for path in (process.spool.root / "tmp").rglob("*") if path.is_file()]


def test_a_sound_instance_is_taken_by_its_own_uids() -> None:
    request, data_set = request_for(StudyInstanceUID="1.2.3")
    header = check(request, data_set)
    assert isinstance(header, InstanceHeader)
    assert header.study_uid == "1.2.3"
    assert header.sop_instance_uid == request.sop_instance_uid
    assert header.transfer_syntax_uid == EXPLICIT_LE


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"data_set": b""}, StoreStatus.EMPTY_DATA_SET),
        ({"data_set": b"rubbish"}, StoreStatus.NOT_A_DATA_SET),
        ({"sop_instance_uid": "1.2.3"}, StoreStatus.OTHER_SOP_INSTANCE),
        # the class of the command, of the context and of the data set are one
        ({"sop_class_uid": CT}, StoreStatus.OTHER_SOP_CLASS),
        ({"abstract_syntax_uid": CT}, StoreStatus.OTHER_SOP_CLASS),
        ({"sop_class_uid": CT, "abstract_syntax_uid": CT}, StoreStatus.OTHER_SOP_CLASS),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], status: StoreStatus) -> None:
    changes = dict(given)
    request, data_set = request_for()
    data_set = changes.pop("data_set", data_set)
    answer = check(replace(request, **changes), data_set)
    assert isinstance(answer, Answer)
    assert answer.status is status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreStatus.OUT_OF_RESOURCES),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreStatus.OUT_OF_RESOURCES),
        (OSError(errno.EIO, "Input/output error"), StoreStatus.OUT_OF_RESOURCES),
        (RuntimeError("a mistake of ours"), StoreStatus.PROCESSING_FAILURE),
    ],
)
def test_a_failure_to_store_is_an_answer_and_a_line(
    process: Process, association: OpenAssociation, error: Exception, status: StoreStatus
) -> None:
    incoming = Failing(process, "keep-first")
    with capture_logs() as lines, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Failing, "error", error)
        answer = store(incoming, *request_for(), association)
    assert answer.status is status
    refused = [line for line in lines if line["event"] == "store.refused"]
    assert [line["status"] for line in refused] == [status.hex]
    assert refused[0]["calling_aet"] == "CR1"
    assert (association.n_stored, association.n_refused) == (0, 1)
    assert not partials(process)


def test_only_the_first_refusals_of_an_association_get_a_line_each(
    process: Process, association: OpenAssociation
) -> None:
    incoming = Failing(process, "keep-first")
    with capture_logs() as lines:
        for _ in range(MAX_TOLD + 5):
            store(incoming, *request_for(), association)
    assert [line["event"] for line in lines] == ["store.refused"] * MAX_TOLD
    assert association.n_refused == MAX_TOLD + 5


def test_an_instance_stored_when_its_association_has_ended_leaves_no_mark(
    process: Process, association: OpenAssociation
) -> None:
    request, data_set = request_for()
    association.close()
    assert store(Incoming(process, "keep-first"), request, data_set, association).status == 0
    assert not list(process.spool.root.glob("associations/*/*"))


def test_success_is_zero(process: Process, association: OpenAssociation) -> None:
    request, data_set = request_for()
    answer = store(Incoming(process, "keep-first"), request, data_set, association)
    assert answer.status == 0
    assert association.n_stored == 1
    (path,) = process.spool.root.glob("incoming/*/*.dcm")
    assert path.stem == request.sop_instance_uid
    assert path.read_bytes().endswith(data_set)
    assert not partials(process)


@pytest.mark.parametrize("n_bytes", [1, 7, 100, 10_000])
def test_pieces_of_any_size_make_the_same_file(
    process: Process, association: OpenAssociation, n_bytes: int
) -> None:
    request, data_set = request_for()
    arrival = Arrival(Incoming(process, "keep-first"), request, association)
    *pieces, last = pieces_of(data_set, n_bytes)
    for piece in pieces:
        arrival.write([piece])
    assert arrival.finish([last]).status == 0
    (path,) = process.spool.root.glob("incoming/*/*.dcm")
    assert path.read_bytes().endswith(data_set)
    assert data_set_offset(path) == (EXPLICIT_LE, path.stat().st_size - len(data_set))
    assert not partials(process)


@pytest.mark.parametrize(
    ("n_left", "status"),
    [(0, StoreStatus.SUCCESS), (1, StoreStatus.NOT_A_DATA_SET), (511, StoreStatus.NOT_A_DATA_SET)],
)
def test_the_end_is_looked_for_in_the_file_too(
    process: Process, association: OpenAssociation, n_left: int, status: StoreStatus
) -> None:
    request, data_set = request_for()
    arrival = Arrival(Incoming(process, "keep-first"), request, association)
    arrival.write(pieces_of(data_set[: len(data_set) - n_left], 100))
    assert arrival.finish().status is status
    assert not partials(process)


def test_a_full_disk_is_told_when_everything_was_sent(
    process: Process, association: OpenAssociation
) -> None:
    request, data_set = request_for()
    arrival = Arrival(Filling(process, "keep-first"), request, association)
    for piece in pieces_of(data_set, 100):
        arrival.write([piece])
        assert not partials(process), "what was written takes no room any longer"
    assert arrival.finish().status is StoreStatus.OUT_OF_RESOURCES


def test_above_the_watermark_an_instance_that_arrives_goes_no_further(
    process: Process, association: OpenAssociation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.incoming.ROOM_S", 0)
    looks: list[None] = []

    def is_disk_full() -> bool:
        looks.append(None)
        return len(looks) > 1

    request, data_set = request_for()
    arrival = Arrival(Incoming(process, "keep-first", is_disk_full), request, association)
    for _ in range(WRITES_PER_LOOK * 3):
        arrival.write([memoryview(data_set)])
    assert len(looks) == 2
    assert not partials(process)
    assert arrival.finish().status is StoreStatus.OUT_OF_RESOURCES


def test_an_instance_that_is_given_up_leaves_nothing(
    process: Process, association: OpenAssociation
) -> None:
    request, data_set = request_for()
    arrival = Arrival(Incoming(process, "keep-first"), request, association)
    arrival.write([memoryview(data_set)])
    assert len(partials(process)) == 1
    arrival.abandon()
    arrival.abandon()
    assert not partials(process)


@pytest.mark.parametrize("status", StoreStatus)
def test_a_meaning_fits_an_error_comment(status: StoreStatus) -> None:
    assert 0 < len(status.meaning) <= 64


@pytest.mark.parametrize("status", StoreStatus)
def test_a_status_is_in_a_range_the_standard_gives_to_c_store(status: StoreStatus) -> None:
    # PS3.4 §B.2.3 and PS3.7 Annex C
    assert status in {0x0000, 0x0110} or status >> 8 in {0xA7, 0xA9} or status >> 12 == 0xC

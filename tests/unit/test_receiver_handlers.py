"""The answer to a C-STORE, without a network."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.dicom.elements import EXPLICIT_LE, Buffer
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Spool
from receiver.associations import OpenAssociation
from receiver.handlers import Answer, StoreRequest, check, store
from receiver.incoming import Incoming, Outcome
from receiver.processes import Process
from receiver.status import StoreStatus
from tests.support.instances import CR, CT, encode, make_dataset


def request_for(**attributes: Any) -> StoreRequest:
    dataset = make_dataset()
    uid = dataset.SOPInstanceUID
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return StoreRequest(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        abstract_syntax_uid=CR,
        transfer_syntax_uid=EXPLICIT_LE,
        data_set=encode(dataset),
    )


@dataclass
class FakeIncoming:
    """Takes everything, or fails as told."""

    error: Exception | None = None
    stored: list[InstanceHeader] = field(default_factory=list)

    def store(self, header: InstanceHeader, _: Buffer, __: OpenAssociation) -> Outcome:
        if self.error is not None:
            raise self.error
        self.stored.append(header)
        return Outcome.STORED


@pytest.fixture
def association(tmp_path: Path) -> OpenAssociation:
    """Somebody who sends."""
    return OpenAssociation(Process(Spool(tmp_path), "1-a"), "CR1", "10.0.0.1:4711")


def test_a_sound_instance_is_taken_by_its_own_uids() -> None:
    request = request_for(StudyInstanceUID="1.2.3")
    header = check(request)
    assert isinstance(header, InstanceHeader)
    assert header.study_uid == "1.2.3"
    assert header.sop_instance_uid == request.sop_instance_uid
    assert header.transfer_syntax_uid == EXPLICIT_LE


@pytest.mark.parametrize(
    ("changes", "status"),
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
def test_what_does_not_fit_is_refused(changes: dict[str, Any], status: StoreStatus) -> None:
    answer = check(replace(request_for(), **changes))
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
    association: OpenAssociation, error: Exception, status: StoreStatus
) -> None:
    with capture_logs() as lines:
        answer = store(cast(Incoming, FakeIncoming(error)), request_for(), association)
    assert answer.status is status
    refused = [line for line in lines if line["event"] == "store.refused"]
    assert [line["status"] for line in refused] == [status.hex]
    assert refused[0]["calling_aet"] == "CR1"
    assert (association.n_stored, association.n_refused) == (0, 1)


def test_success_is_zero(association: OpenAssociation) -> None:
    incoming = FakeIncoming()
    answer = store(cast(Incoming, incoming), request_for(), association)
    assert answer.status == 0
    assert len(incoming.stored) == association.n_stored == 1


@pytest.mark.parametrize("status", StoreStatus)
def test_a_meaning_fits_an_error_comment(status: StoreStatus) -> None:
    assert 0 < len(status.meaning) <= 64


@pytest.mark.parametrize("status", StoreStatus)
def test_a_status_is_in_a_range_the_standard_gives_to_c_store(status: StoreStatus) -> None:
    # PS3.4 §B.2.3 and PS3.7 Annex C
    assert status in {0x0000, 0x0110} or status >> 8 in {0xA7, 0xA9} or status >> 12 == 0xC

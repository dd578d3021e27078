"""C-STORE: an instance's bytes, as sent, into the spool, and the status that says how it went.

Knows no pynetdicom: `scp` brings the request here and takes the answer back.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from pacsor_tasks.dicom.elements import Buffer
from pacsor_tasks.dicom.headers import Peek, has_leading_zero, is_uid, peek
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.models import InstanceHeader
from receiver.associations import OpenAssociation
from receiver.incoming import Incoming, Outcome
from receiver.status import StoreStatus

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A C-STORE request as it came."""

    #: of the command: Affected SOP Class and Instance UID
    sop_class_uid: str
    sop_instance_uid: str
    #: of the presentation context it came in
    abstract_syntax_uid: str
    transfer_syntax_uid: str
    data_set: Buffer


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    status: StoreStatus
    #: for the log; no patient data
    reason: str = ""


SUCCESS = Answer(StoreStatus.SUCCESS)


def store(incoming: Incoming, request: StoreRequest, association: OpenAssociation) -> Answer:
    """Serve one C-STORE. Never raises, never decodes the data set.

    Source: DICOM PS3.4 §B.2.3.
    """
    try:
        header = check(request)
        if isinstance(header, InstanceHeader):
            outcome = incoming.store(header, request.data_set, association)
            _tell(header, outcome, association)
            association.n_stored += 1
            return SUCCESS
        answer = header
    except OSError as exc:
        # Full disk, quota, too many open files, a broken disk: ours to mend, the sender's to retry.
        answer = Answer(StoreStatus.OUT_OF_RESOURCES, exc.strerror or type(exc).__name__)
    except Exception as exc:
        log.exception("store.failed")
        answer = Answer(StoreStatus.PROCESSING_FAILURE, type(exc).__name__)
    association.n_refused += 1
    log.warning(
        "store.refused",
        status=answer.status.hex,
        meaning=answer.status.meaning,
        reason=answer.reason,
        calling_aet=association.calling_aet,
        peer=association.peer,
        instance_uid=request.sop_instance_uid if is_uid(request.sop_instance_uid) else None,
    )
    return answer


def check(request: StoreRequest) -> InstanceHeader | Answer:
    """Whether the gateway can take an instance: its header, or the refusal."""
    if not len(request.data_set):
        return Answer(StoreStatus.EMPTY_DATA_SET, "no bytes")
    try:
        found = peek(request.data_set, request.transfer_syntax_uid, to_end=True)
    except BadResponse as exc:
        return Answer(StoreStatus.NOT_A_DATA_SET, str(exc))
    return _uids_refused(found) or _mismatch(request, found) or _header(request, found)


def _uids_refused(found: Peek) -> Answer | None:
    for keyword, uid in (
        ("SOPClassUID", found.sop_class_uid),
        ("SOPInstanceUID", found.sop_instance_uid),
        ("StudyInstanceUID", found.study_uid),
        ("SeriesInstanceUID", found.series_uid),
    ):
        if not uid:
            return Answer(StoreStatus.UID_MISSING, f"no {keyword}")
        if not is_uid(uid):
            return Answer(StoreStatus.UID_INVALID, f"{keyword} is not a UID")
    return None


def _mismatch(request: StoreRequest, found: Peek) -> Answer | None:
    if found.sop_instance_uid != request.sop_instance_uid:
        return Answer(StoreStatus.OTHER_SOP_INSTANCE, "SOPInstanceUID is not the command's")
    if not found.sop_class_uid == request.sop_class_uid == request.abstract_syntax_uid:
        return Answer(
            StoreStatus.OTHER_SOP_CLASS, "SOPClassUID is not the command's or the context's"
        )
    return None


def _header(request: StoreRequest, found: Peek) -> InstanceHeader:
    return InstanceHeader(
        sop_instance_uid=found.sop_instance_uid or "",
        sop_class_uid=found.sop_class_uid or "",
        study_uid=found.study_uid or "",
        series_uid=found.series_uid or "",
        transfer_syntax_uid=request.transfer_syntax_uid,
    )


def _tell(header: InstanceHeader, outcome: Outcome, association: OpenAssociation) -> None:
    uids = (header.study_uid, header.series_uid, header.sop_instance_uid)
    if any(has_leading_zero(uid) for uid in uids) and association.warn_once(header.study_uid):
        log.warning(
            "store.leading_zero_in_uid",
            study_uid=header.study_uid,
            calling_aet=association.calling_aet,
            peer=association.peer,
        )
    if outcome is not Outcome.STORED:
        log.info(
            "store.duplicate",
            outcome=outcome.value,
            study_uid=header.study_uid,
            instance_uid=header.sop_instance_uid,
        )

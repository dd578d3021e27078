"""C-STORE: an instance's bytes, as sent, into the spool, and the status that says how it went.

Knows no pynetdicom: `transport` and `scp` bring the request here and take the answer back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from pacsor_tasks.dicom.elements import Buffer
from pacsor_tasks.dicom.headers import Glance, Peek, glance, has_leading_zero, is_uid, peek
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.native import native
from receiver.associations import OpenAssociation
from receiver.incoming import Incoming, Outcome, Partial
from receiver.lane import Lane
from receiver.pouring import Channel, Stop
from receiver.status import StoreStatus

log = structlog.get_logger(__name__)

#: A data set that never ends must not fill the disk: how often to look, in writes of up to 640 kB.
WRITES_PER_LOOK = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A C-STORE request, without its data set."""

    #: of the command: Affected SOP Class and Instance UID
    sop_class_uid: str
    sop_instance_uid: str
    #: of the presentation context it came in
    abstract_syntax_uid: str
    transfer_syntax_uid: str
    context_id: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    status: StoreStatus
    #: for the log; no patient data
    reason: str = ""


SUCCESS = Answer(StoreStatus.SUCCESS)


def store(
    incoming: Incoming, request: StoreRequest, data_set: Buffer, association: OpenAssociation
) -> Answer:
    """Serve one C-STORE whose data set is there as a whole. Never raises."""
    arrival = Arrival(incoming, request, association)
    with memoryview(data_set) as view:
        return arrival.finish([view] if len(view) else [])


class Arrival:
    """One C-STORE, from its command to its answer. Never raises, never decodes the data set.

    Used by one thread. After `finish` or `abandon` it is of no use.

    Args:
        incoming: Where instances go.
        request: What the command says.
        association: Who sends.

    Source: DICOM PS3.4 §B.2.3.
    """

    def __init__(
        self, incoming: Incoming, request: StoreRequest, association: OpenAssociation
    ) -> None:
        self._incoming = incoming
        self._request = request
        self._association = association
        self._partial: Partial | None = None
        self._refusal: Answer | None = None
        self._n_writes = 0
        #: at what came first of the data set
        self._glance: Glance | None = None
        #: what was stored, if it was new
        self._stored: InstanceHeader | None = None

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Take the next pieces of the data set: at most `incoming.MAX_PIECES`.

        After a failure they go nowhere: the sender listens only when it has sent everything.
        """
        if self._refusal is None:
            self._refusal = self._attempt(self._write, pieces)
            if self._refusal is not None:
                self._discard()

    @property
    def may_pour(self) -> bool:
        """Whether the data may go into the file by themselves."""
        return self._partial is not None and self._refusal is None

    def pour(self, channel: Channel) -> Stop:
        """Let them, as far as they go. As after a failed `write` if that fails.

        Raises:
            OSError: The connection is broken.
        """
        partial = self._partial
        assert partial is not None  # noqa: S101 - for mypy: it may pour
        self._refusal = self._attempt(lambda _: self._incoming.check_room(), ())
        if self._refusal is None:
            poured = partial.pour(channel)
            if not poured.errno:
                return poured.stop
            self._refusal = Answer(StoreStatus.OUT_OF_RESOURCES, os.strerror(poured.errno))
        self._discard()
        return Stop.FILE_FAILED

    def finish(self, pieces: Sequence[memoryview] = ()) -> Answer:
        """Take the last pieces: what the sender is told."""
        answer = self._refusal
        if answer is None:
            answer = self._attempt(self._finish, pieces)
        self._discard()
        if answer.status:
            self._association.n_refused += 1
            self._log_refusal(answer)
        else:
            self._association.n_stored += 1
        return answer

    def lane(self, before: Lane | None) -> Lane | None:
        """After `finish`: what takes further instances like this one; None if nothing does.

        Args:
            before: The association's lane until now.
        """
        if self._stored is None or native is None:
            return None
        try:
            return self._incoming.lane(
                self._association, self._stored, self._request.context_id, before
            )
        except OSError:
            return None

    def abandon(self) -> None:
        """The rest never comes: nothing stays. Safe to repeat."""
        self._discard()

    def _attempt(
        self, step: Callable[[Sequence[memoryview]], T], pieces: Sequence[memoryview]
    ) -> T | Answer:
        try:
            return step(pieces)
        except OSError as exc:
            # Full disk, quota, too many open files, a broken disk: ours to mend, the sender's to
            # retry.
            return Answer(StoreStatus.OUT_OF_RESOURCES, exc.strerror or type(exc).__name__)
        except Exception as exc:
            log.exception("store.failed")
            return Answer(StoreStatus.PROCESSING_FAILURE, type(exc).__name__)

    def _write(self, pieces: Sequence[memoryview]) -> None:
        if self._partial is None:
            self._partial = self._begin()
            self._glance = glance(pieces[0], self._request.transfer_syntax_uid)
        self._n_writes += 1
        if self._n_writes % WRITES_PER_LOOK == 0:
            self._incoming.check_room()
        self._partial.write(pieces)

    def _begin(self) -> Partial:
        request = self._request
        return self._incoming.begin(
            self._association,
            sop_class_uid=_uid_or_none(request.sop_class_uid),
            sop_instance_uid=_uid_or_none(request.sop_instance_uid),
            transfer_syntax_uid=request.transfer_syntax_uid,
        )

    def _finish(self, pieces: Sequence[memoryview]) -> Answer:
        if self._partial is None:
            # It all came at once: looked at before anything is written.
            header = _check_pieces(self._request, pieces)
            if isinstance(header, Answer):
                return header
            self._partial = self._incoming.write_whole(self._association, header, pieces)
        else:
            if pieces:
                self._partial.write(pieces)
            header = self._check_written(self._partial)
            if isinstance(header, Answer):
                return header
        return self._keep(self._partial, header)

    def _check_written(self, partial: Partial) -> InstanceHeader | Answer:
        seen = self._glance
        if seen is not None and seen.n_bytes == partial.n_data_set:
            return _checked(self._request, seen.found)
        with partial.data_set() as data_set:
            return check(self._request, data_set)

    def _keep(self, partial: Partial, header: InstanceHeader) -> Answer:
        outcome = self._incoming.keep(partial, header, self._association)
        if outcome is Outcome.STORED:
            self._stored = header
        _tell(header, outcome, self._association)
        return SUCCESS

    def _discard(self) -> None:
        if self._partial is not None:
            try:
                self._partial.discard()
            except OSError as exc:
                # The next start removes it.
                log.warning("store.partial_left", reason=exc.strerror)
            self._partial = None
            self._association.tidy()

    def _log_refusal(self, answer: Answer) -> None:
        if not self._association.may_tell("store.refused"):
            return
        uid = self._request.sop_instance_uid
        log.warning(
            "store.refused",
            status=answer.status.hex,
            meaning=answer.status.meaning,
            reason=answer.reason,
            calling_aet=self._association.calling_aet,
            peer=self._association.peer,
            instance_uid=uid if is_uid(uid) else None,
        )


def _uid_or_none(uid: str) -> str:
    """The UID, or "" where it is none: that instance is refused at its end, and by its own UIDs."""
    return uid if is_uid(uid) else ""


def _check_pieces(request: StoreRequest, pieces: Sequence[memoryview]) -> InstanceHeader | Answer:
    if len(pieces) == 1:
        return check(request, pieces[0])
    return check(request, b"".join(pieces))


def check(request: StoreRequest, data_set: Buffer) -> InstanceHeader | Answer:
    """Whether the gateway can take an instance: its header, or the refusal."""
    if not len(data_set):
        return Answer(StoreStatus.EMPTY_DATA_SET, "no bytes")
    try:
        found = peek(data_set, request.transfer_syntax_uid, to_end=True)
    except BadResponse as exc:
        return Answer(StoreStatus.NOT_A_DATA_SET, str(exc))
    return _checked(request, found)


def _checked(request: StoreRequest, found: Peek) -> InstanceHeader | Answer:
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
    if outcome is not Outcome.STORED and association.may_tell("store.duplicate"):
        log.info(
            "store.duplicate",
            outcome=outcome.value,
            study_uid=header.study_uid,
            instance_uid=header.sop_instance_uid,
        )

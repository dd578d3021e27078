"""An association as its requestor: negotiate, C-STORE, C-ECHO, release. One socket and no thread.

The negotiation PDUs are pynetdicom's; the conversation is not. Its Association runs two polling
threads, queues a whole instance in memory before it is sent, and waits without end for the rest of
a PDU: this one streams from the file, answers for every wait, and leaves nothing behind.

Source: DICOM PS3.8 §7, §9; PS3.7 Annex D.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import structlog
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks.dicom import dimse
from pacsor_tasks.dicom.dimse import Buffer
from pacsor_tasks.dicom.negotiation import (
    MAX_PDU_BYTES,
    Pair,
    associate_rq,
    read_acceptance,
    rejection,
)
from pacsor_tasks.dicom.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    Pacs,
    Wire,
    connect,
)
from pacsor_tasks.errors import BadResponse, PacsorError, PeerUnavailable, Permanent

log = structlog.get_logger(__name__)

#: Read from disk and handed to the kernel at once (bytes).
BATCH_BYTES = 1 << 20
#: … but no more PDUs than this, for a peer that takes tiny ones.
BATCH_PDUS = 500


@contextmanager
def associate(pacs: Pacs, pairs: Sequence[Pair]) -> Iterator[Association]:
    """An established association: released on the way out, aborted when an error passes through.

    Args:
        pacs: Whom to associate with.
        pairs: At most 128; each is proposed in a presentation context of its own.

    Raises:
        PeerUnavailable: No connection, no answer, aborted, or rejected for the time being.
        Rejected: The PACS will not talk to us.
        BadResponse: What answers does not speak DICOM.
    """
    with connect(pacs) as wire:
        association = Association(pacs, wire, pairs)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()


class Association:
    """The established association. Use `associate`, which ends it.

    Args:
        pacs: The peer.
        wire: The open connection; negotiated on here.
        pairs: The presentation contexts to propose.
    """

    def __init__(self, pacs: Pacs, wire: Wire, pairs: Sequence[Pair]) -> None:
        self._pacs = pacs
        self._wire = wire
        self._message_id = 0
        accepted, peer_max_pdu = self._negotiate(pairs)
        #: context id of every pair the PACS accepted
        self.contexts: dict[Pair, int] = accepted
        # Zero means no limit. Fragments are even: a data set is made of 16-bit words.
        self._fragment_bytes = (min(peer_max_pdu or MAX_PDU_BYTES, MAX_PDU_BYTES) - 6) & ~1
        if self._fragment_bytes < 2:
            self.abort()
            raise BadResponse(f"{pacs} takes PDUs of {peer_max_pdu} bytes only")
        self._buffer = memoryview(
            bytearray(
                self._fragment_bytes * min(BATCH_PDUS, max(1, BATCH_BYTES // self._fragment_bytes))
            )
        )

    def store(self, pair: Pair, sop_instance_uid: str, data: BinaryIO, size: int) -> int:
        """Send one instance and wait for its answer.

        Args:
            pair: An accepted one.
            sop_instance_uid: As in the data set.
            data: At the start of the data set, encoded in the pair's transfer syntax.
            size: Bytes of the data set.

        Returns:
            The status of the C-STORE response.

        Raises:
            PeerUnavailable: No answer in time, aborted, or the connection is lost.
            BadResponse: The answer is not one to this request.
            Permanent: The data ended before `size`.
        """
        command = dimse.c_store_rq(self._next_id(), pair.sop_class_uid, sop_instance_uid)
        context_id = self.contexts[pair]
        self._send(context_id, command, data, size)
        return self._answer(context_id, dimse.C_STORE_RQ)

    def echo(self) -> int:
        """Send a C-ECHO and return its status. Raises as `store`."""
        context_id = next(iter(self.contexts.values()))
        self._send(context_id, dimse.c_echo_rq(self._next_id(), Verification), None, 0)
        return self._answer(context_id, dimse.C_ECHO_RQ)

    def release(self) -> None:
        """End the association in order. A peer that does not play along is only left."""
        try:
            self._wire.send([_pdu(RELEASE_RQ)], self._pacs.connect_timeout_s)
            while True:
                kind, _ = self._wire.receive(self._pacs.connect_timeout_s)
                if kind == RELEASE_RP:
                    return
                if kind == RELEASE_RQ:  # both at once: as the requestor we answer first
                    self._wire.send([_pdu(RELEASE_RP)], self._pacs.connect_timeout_s)
        except PacsorError as exc:
            log.info("association.not_released", destination=self._pacs.name, error=str(exc))

    def abort(self) -> None:
        """End the association at once."""
        self._wire.farewell(_pdu(ABORT))

    def _negotiate(self, pairs: Sequence[Pair]) -> tuple[dict[Pair, int], int]:
        by_id = {2 * i + 1: pair for i, pair in enumerate(pairs)}
        self._wire.send([associate_rq(self._pacs, by_id)], self._pacs.connect_timeout_s)
        kind, pdu = self._wire.receive(self._pacs.connect_timeout_s)
        if kind == ASSOCIATE_RJ:
            raise rejection(self._pacs, pdu)
        if kind != ASSOCIATE_AC:
            raise BadResponse(f"{self._pacs} answered the association request with PDU {kind}")
        try:
            return read_acceptance(pdu, by_id)
        except BadResponse as exc:
            self.abort()
            raise BadResponse(f"{self._pacs}: {exc}") from exc

    def _send(self, context_id: int, command: bytes, data: BinaryIO | None, size: int) -> None:
        """The data path: fragments of the command, then of the data, straight from the file."""
        parts = self._fragments(context_id, dimse.IS_COMMAND, memoryview(command), is_last=True)
        while data is not None and size:
            filled = min(size, len(self._buffer))
            _read_into(data, self._buffer[:filled])
            size -= filled
            if filled % 2:
                # Fragments are even: the end of a deflated stream may not be (PS3.5 Annex A.5).
                self._buffer[filled] = 0
                filled += 1
            parts += self._fragments(context_id, 0, self._buffer[:filled], is_last=not size)
            self._wire.send(parts, self._pacs.timeout_s)
            parts = []
        if parts:
            self._wire.send(parts, self._pacs.timeout_s)

    def _fragments(
        self, context_id: int, control: int, view: memoryview, *, is_last: bool
    ) -> list[Buffer]:
        parts: list[Buffer] = []
        for at in range(0, len(view), self._fragment_bytes):
            piece = view[at : at + self._fragment_bytes]
            is_end = is_last and at + len(piece) == len(view)
            bits = control | (dimse.IS_LAST if is_end else 0)
            parts += (dimse.p_data_head(context_id, bits, len(piece)), piece)
        return parts

    def _answer(self, context_id: int, request: int) -> int:
        command = dimse.parse_command(self._command_of_answer(context_id))
        field = dimse.number(command, dimse.COMMAND_FIELD)
        responded = dimse.number(command, dimse.MESSAGE_ID_RESPONDED)
        if field != request | dimse.RESPONSE or responded != self._message_id:
            raise BadResponse(
                f"{self._pacs} answered message {self._message_id} with command 0x{field:04X}"
                f" for message {responded}"
            )
        return dimse.number(command, dimse.STATUS)

    def _command_of_answer(self, context_id: int) -> bytearray:
        command = bytearray()
        is_complete = has_data = False
        while not is_complete or has_data:
            for pdv in self._receive_pdvs():
                if pdv.context_id != context_id:
                    raise BadResponse(f"{self._pacs} answered on context {pdv.context_id}")
                if not pdv.is_command:
                    # No response of ours has a data set; one that comes is read and dropped.
                    has_data = has_data and not pdv.is_last
                    continue
                command += pdv.value
                if pdv.is_last:
                    is_complete = True
                    data_set_type = dimse.parse_command(command).get(dimse.DATA_SET_TYPE)
                    has_data = data_set_type not in {None, b"\x01\x01"}
        return command

    def _receive_pdvs(self) -> list[dimse.Pdv]:
        kind, pdu = self._wire.receive(self._pacs.timeout_s)
        if kind == RELEASE_RQ:
            self._wire.send([_pdu(RELEASE_RP)], self._pacs.timeout_s)
            raise PeerUnavailable(f"{self._pacs} released the association instead of answering")
        if kind != P_DATA:
            raise BadResponse(f"{self._pacs} answered a message with PDU {kind}")
        return list(dimse.pdvs(memoryview(pdu)[6:]))

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id


def _read_into(data: BinaryIO, view: memoryview) -> None:
    while view:
        # An unbuffered file may give less than it has.
        count = data.readinto(view)  # type: ignore[attr-defined]  # files have it, BinaryIO not
        if not count:
            raise Permanent("the file ends inside its data set")
        view = view[count:]


def _pdu(kind: int) -> bytes:
    """A PDU of four zero bytes: release, or an abort by the service user."""
    return struct.pack(">BBL", kind, 0, 4) + bytes(4)

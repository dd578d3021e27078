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
from dataclasses import dataclass, field
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

#: Read from disk and handed to the kernel at once (bytes). Measured best: what stays in a core's
#: cache between the two copies.
BATCH_BYTES = 1 << 18
#: … but no more PDUs than this, for a peer that takes tiny ones.
BATCH_PDUS = 500


@dataclass(slots=True)
class Packed:
    """A message ready to be sent: all of it, or as far as it was read."""

    context_id: int
    message_id: int
    #: the command field of the request
    request: int
    #: the next to go out
    parts: list[Buffer] = field(default_factory=list)
    #: what follows, so many bytes
    data: BinaryIO | None = None
    left: int = 0


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
        """Send one instance and wait for its answer: `pack`, `send` and `answer` in one."""
        self.send(self.pack(pair, sop_instance_uid, data, size))
        return self.answer()

    def pack(self, pair: Pair, sop_instance_uid: str, data: BinaryIO, size: int) -> Packed:
        """Make ready to send one instance: its command and the beginning of its data set.

        It can be done while the answer to the instance before is awaited.

        Args:
            pair: An accepted one.
            sop_instance_uid: As in the data set.
            data: At the start of the data set, encoded in the pair's transfer syntax;
                open until it is sent.
            size: Bytes of the data set.

        Raises:
            Permanent: The data ended before `size`.
        """
        message_id = self._message_id % 0xFFFF + 1
        command = dimse.c_store_rq(message_id, pair.sop_class_uid, sop_instance_uid)
        packed = Packed(self.contexts[pair], message_id, dimse.C_STORE_RQ, data=data, left=size)
        self._fragment(packed, dimse.IS_COMMAND, memoryview(command), is_last=True)
        self._read_on(packed)
        return packed

    def send(self, packed: Packed) -> None:
        """Send what was packed. Everything sent before must have been answered.

        Raises:
            PeerUnavailable: The peer takes nothing for too long, or the connection is lost.
            Permanent: The data ended before its size.
        """
        self._sent, self._message_id = packed, packed.message_id
        while packed.parts:
            self._wire.send(packed.parts, self._pacs.timeout_s)
            packed.parts.clear()
            self._read_on(packed)

    def answer(self) -> int:
        """Wait for the answer to what was sent last; its status.

        Raises:
            PeerUnavailable: No answer in time, aborted, or the connection is lost.
            BadResponse: The answer is not one to this request.
        """
        command = self._command_of_answer(self._sent.context_id)
        field = dimse.number(command, dimse.COMMAND_FIELD)
        responded = dimse.number(command, dimse.MESSAGE_ID_RESPONDED)
        if field != self._sent.request | dimse.RESPONSE or responded != self._message_id:
            raise BadResponse(
                f"{self._pacs} answered message {self._message_id} with command 0x{field:04X}"
                f" for message {responded}"
            )
        return dimse.number(command, dimse.STATUS)

    def echo(self) -> int:
        """Send a C-ECHO and return its status. Raises as `send` and `answer`."""
        message_id = self._message_id % 0xFFFF + 1
        packed = Packed(next(iter(self.contexts.values())), message_id, dimse.C_ECHO_RQ)
        command = dimse.c_echo_rq(message_id, Verification)
        self._fragment(packed, dimse.IS_COMMAND, memoryview(command), is_last=True)
        self.send(packed)
        return self.answer()

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

    def cut(self) -> None:
        """End the connection from another thread: whoever waits on it gets PeerUnavailable."""
        self._wire.cut()

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

    def _read_on(self, packed: Packed) -> None:
        """Read and frame the next of the data, straight from the file."""
        if packed.data is None or not packed.left:
            return
        filled = min(packed.left, len(self._buffer))
        _read_into(packed.data, self._buffer[:filled])
        packed.left -= filled
        if filled % 2:
            # Fragments are even: the end of a deflated stream may not be (PS3.5 Annex A.5).
            self._buffer[filled] = 0
            filled += 1
        self._fragment(packed, 0, self._buffer[:filled], is_last=not packed.left)

    def _fragment(self, packed: Packed, control: int, view: memoryview, *, is_last: bool) -> None:
        for at in range(0, len(view), self._fragment_bytes):
            piece = view[at : at + self._fragment_bytes]
            is_end = is_last and at + len(piece) == len(view)
            bits = control | (dimse.IS_LAST if is_end else 0)
            packed.parts += (dimse.p_data_head(packed.context_id, bits, len(piece)), piece)

    def _command_of_answer(self, context_id: int) -> dict[int, bytes]:
        whole, received = bytearray(), None
        has_data = False
        while received is None or has_data:
            for pdv in self._receive_pdvs():
                if pdv.context_id != context_id:
                    raise BadResponse(f"{self._pacs} answered on context {pdv.context_id}")
                if not pdv.is_command:
                    # No response of ours has a data set; one that comes is read and dropped.
                    has_data = has_data and not pdv.is_last
                    continue
                whole += pdv.value
                if pdv.is_last:
                    received = dimse.parse_command(whole)
                    has_data = received.get(dimse.DATA_SET_TYPE) not in {None, b"\x01\x01"}
        return received

    def _receive_pdvs(self) -> list[dimse.Pdv]:
        kind, pdu = self._wire.receive(self._pacs.timeout_s)
        if kind == RELEASE_RQ:
            self._wire.send([_pdu(RELEASE_RP)], self._pacs.timeout_s)
            raise PeerUnavailable(f"{self._pacs} released the association instead of answering")
        if kind != P_DATA:
            raise BadResponse(f"{self._pacs} answered a message with PDU {kind}")
        return list(dimse.pdvs(memoryview(pdu)[6:]))


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

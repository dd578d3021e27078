"""P-DATA-TF, bytes in → fragments out. Knows no socket, no file, no DIMSE and no pynetdicom.

    ┌─PDU──────────────────────────────────────────────────────────┐
    │ 04 00 length │ length, context id, control │ data │ length, … │
    └──────────────┴─PDV─────────────────────────┴──────┴─PDV──────┘

Source: DICOM PS3.8 §9.3.5 (P-DATA-TF), Annex E (message control header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

P_DATA_TF = 0x04
HEAD_BYTES = 6
#: Bits of the message control header; the others mean nothing (PS3.8 §E.2).
COMMAND, LAST = 0x01, 0x02

_PDU_HEAD = struct.Struct(">BxL")
_PDV_HEAD = struct.Struct(">LBB")
_EMPTY = memoryview(b"")


class Malformed(Exception):
    """The bytes are not P-DATA-TF PDUs: the association cannot go on."""


class Fragment(NamedTuple):
    """A part of one PDV: all of it, or what came of it so far."""

    context_id: int
    is_command: bool
    #: whether the message's command set, or data set, ends with this part
    is_last: bool
    #: a slice of what was fed in, not a copy: use it before the buffer is used again
    data: memoryview


class Position(NamedTuple):
    """Where a parser stands, between two heads or inside a PDV."""

    #: bytes of the PDU that follow this PDV, and of the PDV; 0 and 0: a PDU begins
    pdu_left: int
    pdv_left: int
    #: message control header of the PDV
    control: int


class PdataParser:
    """Takes P-DATA-TF PDUs apart, wherever the stream happens to be cut.

    Feed it what arrived, in order. It keeps at most five bytes between two calls, so the caller's
    buffer is free again after each, however long a PDU or PDV is. It stops in front of a PDU of
    another type, at a PDU's beginning only.

        for fragment in parser.feed(data):
            ...
        rest = data[parser.n_taken:]    # empty, or a PDU that is not P-DATA-TF

    Lengths are taken as they come: a PDU larger than was negotiated is let pass, since nothing is
    kept of it. What contradicts itself raises `Malformed`; after that the parser is of no use.
    """

    def __init__(self) -> None:
        #: bytes of the last `feed` that were consumed; right at each fragment and at the end
        self.n_taken = 0
        self._head = b""
        self._pdu_left = 0
        self._pdv_left = 0
        self._context_id = 0
        self._control = 0

    @property
    def is_between_pdus(self) -> bool:
        """Whether the next byte begins a PDU."""
        return not (self._pdu_left or self._pdv_left or self._head)

    @property
    def position(self) -> Position | None:
        """Where it stands; None while it keeps a part of a head."""
        if self._head:
            return None
        return Position(self._pdu_left, self._pdv_left, self._control)

    def is_data_of(self, context_id: int | None) -> bool:
        """Whether it stands in no PDV, or in one of a data set in that context."""
        is_data = self._context_id == context_id and not self._control & COMMAND
        return is_data or not self._pdv_left

    def go_on_at(self, position: Position) -> None:
        """Somebody else has read on for it, up to there."""
        self._pdu_left, self._pdv_left, self._control = position

    def feed(self, data: memoryview) -> Iterator[Fragment]:
        """The fragments in the next bytes of the stream.

        Raises:
            Malformed: A PDV has no header, or does not fit into its PDU.
        """
        at, size = 0, len(data)
        self.n_taken = 0
        while at < size:
            if self._pdv_left:
                end = min(at + self._pdv_left, size)
                self._pdv_left -= end - at
                self.n_taken = end
                yield self._fragment(data[at:end])
                at = end
                continue
            if data[at] != P_DATA_TF and self.is_between_pdus:
                break
            end = min(at + HEAD_BYTES - len(self._head), size)
            if end - at == HEAD_BYTES:
                is_empty = self._begin(data, at)
            else:
                self._head += bytes(data[at:end])
                is_empty = len(self._head) == HEAD_BYTES and self._begin_kept()
            self.n_taken = at = end
            if is_empty:
                yield self._fragment(_EMPTY)

    def _begin_kept(self) -> bool:
        head, self._head = self._head, b""
        return self._begin(head, 0)

    def _begin(self, data: bytes | memoryview, at: int) -> bool:
        """Take the header that is there; whether it is an empty PDV's."""
        if not self._pdu_left:
            _, self._pdu_left = _PDU_HEAD.unpack_from(data, at)
            self._check_room()
            return False
        length, self._context_id, self._control = _PDV_HEAD.unpack_from(data, at)
        if length < 2:
            raise Malformed(f"a PDV of {length} bytes has no header")
        self._pdu_left -= length + 4
        self._pdv_left = length - 2
        if self._pdu_left < 0:
            raise Malformed("a PDV is longer than its PDU")
        self._check_room()
        return not self._pdv_left

    def _check_room(self) -> None:
        if 0 < self._pdu_left < HEAD_BYTES:
            raise Malformed("a PDU ends inside the header of a PDV")

    def _fragment(self, data: memoryview) -> Fragment:
        return Fragment(
            self._context_id,
            bool(self._control & COMMAND),
            bool(self._control & LAST) and not self._pdv_left,
            data,
        )

"""The command sets of C-STORE, as bytes: the request taken apart, the response put together.

Source: DICOM PS3.7 §6.3.1 (encoding), §9.3.1 (C-STORE), Annex E (elements).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pacsor_tasks.native import native
from receiver.pdata import COMMAND, LAST, P_DATA_TF
from receiver.status import StoreStatus

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101

AFFECTED_CLASS, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
DATA_SET_TYPE, STATUS, ERROR_COMMENT, AFFECTED_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000

_ELEMENT = struct.Struct("<HHL")
_PDU = struct.Struct(">BxLLBB")
#: Four elements of two bytes each.
_FIXED = struct.Struct("<HHLHHHLHHHLHHHLH")
_WANTED = (AFFECTED_CLASS, COMMAND_FIELD, MESSAGE_ID, DATA_SET_TYPE, AFFECTED_INSTANCE)
#: Bytes of a PDV beside its data, as the peer's maximum length counts them (PS3.8 §D.1).
_PDV_OVERHEAD = 6
#: The smallest piece worth sending to a peer whose maximum length makes no sense.
_SMALLEST_PIECE = 64


@dataclass(frozen=True, slots=True)
class Command:
    """A command set. Elements that are missing are None; unknown ones are left out."""

    field: int | None
    message_id: int | None
    has_data_set: bool | None
    #: as sent, padding and all
    sop_class_uid: bytes | None
    sop_instance_uid: bytes | None

    @property
    def is_store(self) -> bool:
        """Whether it is a C-STORE-RQ that can be answered."""
        return (
            self.field == C_STORE_RQ
            and self.message_id is not None
            and self.has_data_set is not None
        )


def parse_command(encoded: bytes) -> Command | None:
    """A command set's elements; None if it is not implicit VR little endian to its end."""
    found = _in_order(encoded)
    if found is None:
        found = _as_it_comes(encoded)
    if found is None:
        return None
    data_set_type = _us(found.get(DATA_SET_TYPE))
    return Command(
        field=_us(found.get(COMMAND_FIELD)),
        message_id=_us(found.get(MESSAGE_ID)),
        has_data_set=None if data_set_type is None else data_set_type != NO_DATA_SET,
        sop_class_uid=found.get(AFFECTED_CLASS),
        sop_instance_uid=found.get(AFFECTED_INSTANCE),
    )


def _in_order(encoded: bytes) -> dict[int, bytes] | None:
    """What is wanted of elements in ascending order, as they have to be; else None."""
    if native is None:
        return None
    found: dict[int, bytes] = {}
    size = len(encoded)
    at, _, _ = native.stride(encoded, 0, -1, 0xFFFF, _WANTED, 0, size, size, found)
    return found if at == size else None


def _as_it_comes(encoded: bytes) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    at, size = 0, len(encoded)
    while at < size:
        if at + 8 > size:
            return None
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += 8 + length
        if group or at > size:
            return None
        found[element] = encoded[at - length : at]
    return found


def uid_text(value: bytes | None) -> str:
    """A UID of a command without its padding; "" where it is missing."""
    return (value or b"").decode("ascii", "replace").rstrip("\0 ")


def store_response(
    context_id: int, command: Command, status: StoreStatus, peer_maximum: int
) -> bytes:
    """A C-STORE-RSP as it goes over the wire.

    Args:
        context_id: The presentation context of the request.
        command: The request.
        status: How it ended.
        peer_maximum: Longest PDU the peer takes, bytes; 0: any.
    """
    body = b"".join(
        (
            _uid(AFFECTED_CLASS, command.sop_class_uid),
            _FIXED.pack(
                *(0, COMMAND_FIELD, 2, C_STORE_RSP),
                *(0, RESPONDED_TO, 2, command.message_id or 0),
                *(0, DATA_SET_TYPE, 2, NO_DATA_SET),
                *(0, STATUS, 2, status),
            ),
            _comment(status) if status else b"",
            _uid(AFFECTED_INSTANCE, command.sop_instance_uid),
        )
    )
    encoded = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    if not peer_maximum or len(encoded) + _PDV_OVERHEAD <= peer_maximum:
        return _pdu(context_id, encoded, is_last=True)
    room = max(peer_maximum - _PDV_OVERHEAD, _SMALLEST_PIECE)
    return b"".join(
        _pdu(context_id, encoded[at : at + room], is_last=at + room >= len(encoded))
        for at in range(0, len(encoded), room)
    )


def _pdu(context_id: int, piece: bytes, *, is_last: bool) -> bytes:
    size = len(piece)
    control = COMMAND | LAST if is_last else COMMAND
    return _PDU.pack(P_DATA_TF, size + 6, size + 2, context_id, control) + piece


def _uid(element: int, value: bytes | None) -> bytes:
    if value is None:
        return b""
    if len(value) % 2:
        value += b"\0"
    return _ELEMENT.pack(0, element, len(value)) + value


def _comment(status: StoreStatus) -> bytes:
    text = status.meaning.encode("ascii")
    text += b" " * (len(text) % 2)
    return _ELEMENT.pack(0, ERROR_COMMENT, len(text)) + text


def _us(value: bytes | None) -> int | None:
    return int.from_bytes(value, "little") if value is not None and len(value) == 2 else None

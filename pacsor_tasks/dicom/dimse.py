"""DIMSE command sets and PDVs as bytes: pure building and parsing, no socket.

A command set is always implicit VR little endian, whatever the context's transfer syntax.

Source: DICOM PS3.7 §6.3, §9.3.1 (C-STORE), §9.3.5 (C-ECHO), Annex E; PS3.8 §9.3.5, Annex E.2 (PDV).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from pacsor_tasks.errors import BadResponse

Buffer: TypeAlias = bytes | bytearray | memoryview

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

AFFECTED_SOP_CLASS = 0x0002
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED = 0x0120
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
AFFECTED_SOP_INSTANCE = 0x1000

#: Bits of a PDV's control header.
IS_COMMAND, IS_LAST = 1, 2
PDATA_HEAD_BYTES = 12


class Pdv(NamedTuple):
    """One presentation data value as it came."""

    context_id: int
    is_command: bool
    is_last: bool
    value: memoryview


def c_store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE request, medium priority."""
    return _command_set(
        {
            AFFECTED_SOP_CLASS: _uid(sop_class_uid),
            COMMAND_FIELD: _us(C_STORE_RQ),
            MESSAGE_ID: _us(message_id),
            PRIORITY: _us(0),
            DATA_SET_TYPE: _us(0),
            AFFECTED_SOP_INSTANCE: _uid(sop_instance_uid),
        }
    )


def c_echo_rq(message_id: int, sop_class_uid: str) -> bytes:
    """The command set of a C-ECHO request."""
    return _command_set(
        {
            AFFECTED_SOP_CLASS: _uid(sop_class_uid),
            COMMAND_FIELD: _us(C_ECHO_RQ),
            MESSAGE_ID: _us(message_id),
            DATA_SET_TYPE: _us(NO_DATA_SET),
        }
    )


def parse_command(data: Buffer) -> dict[int, bytes]:
    """The elements of a command set by element number.

    Raises:
        BadResponse: An element is not of group 0000 or ends past the set.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise BadResponse("a command set that ends inside an element")
        group, element, length = struct.unpack_from("<HHL", data, at)
        at += 8 + length
        if group or at > len(data):
            raise BadResponse("a command set with a malformed element")
        found[element] = bytes(data[at - length : at])
    return found


def number(command: Mapping[int, bytes], element: int) -> int:
    """A US value of a command set.

    Raises:
        BadResponse: It is missing or not two bytes long.
    """
    value = command.get(element, b"")
    if len(value) != 2:
        raise BadResponse(f"a command set without a readable (0000,{element:04X})")
    return int(struct.unpack("<H", value)[0])


def p_data_head(context_id: int, control: int, size: int) -> bytes:
    """The head of a P-DATA-TF PDU that carries one PDV of `size` bytes."""
    return struct.pack(">BBLLBB", 4, 0, size + 6, size + 2, context_id, control)


def pdvs(body: Buffer) -> Iterator[Pdv]:
    """The PDVs in the body of a P-DATA-TF PDU.

    Raises:
        BadResponse: An item ends past the PDU.
    """
    view = memoryview(body)
    at = 0
    while at < len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 4 + length
        if length < 2 or end > len(view):
            raise BadResponse("a P-DATA PDU with a malformed item")
        control = view[at + 5]
        yield Pdv(view[at + 4], bool(control & 1), bool(control & 2), view[at + 6 : end])
        at = end


def meaning(status: int) -> str:
    """What a C-STORE status says, in the words of PS3.4 Annex B.2.3 and PS3.7 Annex C."""
    if status == 0:
        return "Success"
    return STORAGE_SERVICE_CLASS_STATUS.get(status, ("", "Unknown status"))[1] or "Cancelled"


def _command_set(elements: Mapping[int, bytes]) -> bytes:
    body = b"".join(
        struct.pack("<HHL", 0, element, len(value)) + value for element, value in elements.items()
    )
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _uid(value: str) -> bytes:
    raw = value.encode("ascii")
    return raw + b"\0" * (len(raw) % 2)

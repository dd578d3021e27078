"""A message for people: its fields by name, unescaped, what is in base64 decoded. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from pacsor_tasks.hl7.ack import decoded, delimiters_of
from pacsor_tasks.hl7.escape import Delimiters, unescape

NAMES = {
    "MSH-3": "sending application", "MSH-4": "sending facility", "MSH-5": "receiving application",
    "MSH-6": "receiving facility", "MSH-7": "time", "MSH-9": "message type",
    "MSH-10": "control id", "MSH-11": "processing id", "MSH-12": "version",
    "MSH-15": "accept acknowledgement", "MSH-16": "application acknowledgement",
    "MSH-18": "character set", "MSH-19": "language",
    "PID-3": "patient id", "PID-5": "patient name", "PID-7": "birth date", "PID-8": "sex",
    "PV1-2": "patient class",
    "ORC-1": "order control", "ORC-3": "filler order", "ORC-7": "quantity and timing",
    "ORC-9": "time of transaction",
    "OBR-1": "set id", "OBR-3": "accession number", "OBR-4": "service", "OBR-7": "time",
    "OBR-25": "status", "ZDS-1": "study",
    "MSA-1": "acknowledgement", "MSA-2": "of the message", "MSA-3": "text",
    "ERR-1": "where", "ERR-2": "where", "ERR-3": "error", "ERR-4": "severity", "ERR-8": "text",
}  # fmt: skip
_LINE_END = re.compile(r"\r\n|\r|\n")
_BASE64 = "Base64"


# No repr: it is a patient's.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Row:
    """One field that is not empty."""

    #: e.g. `PID-5`; of the third OBX `OBX[3]-5`
    where: str
    name: str
    text: str
    #: it is HTML that stood there in base64
    is_html: bool = False


def read(message: bytes) -> list[Row]:
    """The fields that are not empty, in their order. What is no HL7 is one row of text."""
    text = decoded(message)
    segments = [line for line in _LINE_END.split(text) if line.strip()]
    header = segments[0] if segments else ""
    if not header.startswith("MSH") or len(header) < 4:
        return [Row(where="", name="not an HL7 message", text=text)] if text else []
    delimiters = delimiters_of(header)
    rows: list[Row] = []
    count: dict[str, int] = {}
    for segment in segments:
        name = segment.split(delimiters.field, 1)[0]
        count[name] = count.get(name, 0) + 1
        rows += _rows(segment, name, count[name], delimiters)
    return rows


def _rows(segment: str, name: str, number: int, delimiters: Delimiters) -> list[Row]:
    fields = segment.split(delimiters.field)
    if name == "OBX":
        return _observation(fields, number, delimiters)
    # MSH-1 is the delimiter itself; MSH-2 is not worth a line.
    offset, first = (1, 2) if name == "MSH" else (0, 1)
    return [
        _row(f"{name}-{index + offset}", "", value, delimiters)
        for index, value in enumerate(fields)
        if index >= first and value.strip(delimiters.component)
    ]


def _observation(fields: list[str], number: int, delimiters: Delimiters) -> list[Row]:
    """One row: what was observed (OBX-3) and its value (OBX-5)."""
    fields += [""] * (12 - len(fields))
    parts = [unescape(part, delimiters) for part in fields[3].split(delimiters.component)]
    what = next((part for part in (*parts[1:2], parts[0], *parts) if part), "observation")
    return [_row(f"OBX[{number}]-5", what, fields[5], delimiters)] if fields[5] else []


def _row(where: str, name: str, value: str, delimiters: Delimiters) -> Row:
    parts = value.split(delimiters.component)
    if _BASE64 in parts[:-1]:
        found = _decoded_base64(parts[-1])
        if found is not None:
            return Row(where=where, name=name, text=found, is_html=_is_html(parts, found))
    text = delimiters.component.join(unescape(part, delimiters) for part in parts)
    return Row(where=where, name=name or NAMES.get(where, ""), text=text)


def _is_html(parts: list[str], text: str) -> bool:
    return any(part.lower() == "html" for part in parts[:-1]) or bool(
        re.match(r"\s*<(!doctype|html|h[1-6]|p|div|table|b|ul)\b", text, re.IGNORECASE)
    )


def _decoded_base64(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return None

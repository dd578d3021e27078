"""The few attributes of an instance the gateway routes by, without decoding the instance.

Reads touch the header only, so they cost the same for a 10 kB and a 2 GB instance.

Source: DICOM PS3.5 §9.1 (UIDs), §6.1 (character sets), PS3.10 §7.1 (file meta information).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

from pacsor_tasks.dicom.elements import (
    DEFLATED_LE,
    EXPLICIT,
    UNDEFINED,
    Buffer,
    find,
    find_ordinary,
    read_element,
    value_of,
)
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.models import InstanceHeader

CHARACTER_SET = 0x00080005
SOP_CLASS = 0x00080016
SOP_INSTANCE = 0x00080018
ACCESSION_NUMBER = 0x00080050
PATIENT_ID = 0x00100020
STUDY_UID = 0x0020000D
SERIES_UID = 0x0020000E
META_SYNTAX = 0x00020010
#: What an instance is routed by.
WANTED = frozenset({SOP_CLASS, SOP_INSTANCE, STUDY_UID, SERIES_UID})
PREAMBLE_BYTES = 128
#: File meta information is a few hundred bytes.
META_BYTES = 2048
#: Character sets that stand alone: no code extensions beside them (PS3.3 §C.12.1.1.2).
WHOLE_SETS = ("ISO_IR 192", "GB18030", "GBK")

MAX_UID = 64
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LEADING_ZERO = re.compile(r"(^|\.)0[0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """The UIDs of a data set as it states them; None where it does not."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_uid: str | None
    series_uid: str | None


@dataclass(frozen=True, slots=True)
class Glance:
    """What the beginning of a data set says of all of it."""

    found: Peek
    #: how long it is if nothing is missing
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose study it is: decoded, padding stripped, "" where absent. Patient data: never log it."""

    study_uid: str
    patient_id: str
    accession_number: str


def is_uid(value: str) -> bool:
    """Whether a UID has the characters and length of PS3.5 §9.1. Leading zeros are let pass."""
    return len(value) <= MAX_UID and _matches_uid(value)


@lru_cache(maxsize=4096)
def has_leading_zero(uid: str) -> bool:
    """Whether a component of the UID has a forbidden leading zero: tolerated on what we receive."""
    return _LEADING_ZERO.search(uid) is not None


# Of the UIDs of an instance, most are those of the one before.
@lru_cache(maxsize=4096)
def _matches_uid(value: str) -> bool:
    return _UID.fullmatch(value) is not None


def peek(data: Buffer, transfer_syntax_uid: str, *, to_end: bool = False) -> Peek:
    """Read the UIDs of an encoded data set (no preamble, no file meta).

    Args:
        data: The data set as on the wire; not copied.
        transfer_syntax_uid: How it is encoded.
        to_end: Also follow the top-level elements to the end of the data, to notice that a part
            is missing. Lengths only; what looks odd but complete passes. Not for deflated data.

    Raises:
        BadResponse: The bytes are not a data set in that transfer syntax, or end too early.
    """
    return _peek(find(data, 0, transfer_syntax_uid, WANTED, to_end=to_end))


def glance(data: Buffer, transfer_syntax_uid: str) -> Glance | None:
    """Read the UIDs at the beginning of a data set whose end is not there.

    Args:
        data: What is there.
        transfer_syntax_uid: How it is encoded.

    Returns:
        None if it is not enough, or anything is unusual: then `peek` at the whole. Nearly always
        all before the pixels is ordinary, and the last element says where the data set ends.
    """
    if transfer_syntax_uid == DEFLATED_LE:
        return None
    seen = find_ordinary(data, transfer_syntax_uid, WANTED)
    if seen is None or seen.found.keys() != WANTED:
        return None
    return Glance(_peek(seen.found), seen.end)


def _peek(found: Mapping[int, bytes]) -> Peek:
    return Peek(
        sop_class_uid=_text(found.get(SOP_CLASS)),
        sop_instance_uid=_text(found.get(SOP_INSTANCE)),
        study_uid=_text(found.get(STUDY_UID)),
        series_uid=_text(found.get(SERIES_UID)),
    )


def read_header(path: Path) -> InstanceHeader:
    """Read the UIDs of a DICOM file.

    Raises:
        BadResponse: Not a readable DICOM file, or a UID is missing or malformed (it is named).
    """
    with _mapped(path) as data:
        syntax, start = _file_meta(data)
        found = find(data, start, syntax, WANTED)
    return InstanceHeader(
        sop_instance_uid=_required_uid(found, SOP_INSTANCE, "SOPInstanceUID"),
        sop_class_uid=_required_uid(found, SOP_CLASS, "SOPClassUID"),
        study_uid=_required_uid(found, STUDY_UID, "StudyInstanceUID"),
        series_uid=_required_uid(found, SERIES_UID, "SeriesInstanceUID"),
        transfer_syntax_uid=syntax,
    )


def read_identity(path: Path) -> Identity:
    """Read whose study a DICOM file belongs to, decoded by its SpecificCharacterSet.

    Raises:
        BadResponse: Not a readable DICOM file, or without a StudyInstanceUID.
    """
    with _mapped(path) as data:
        syntax, start = _file_meta(data)
        wanted = frozenset({CHARACTER_SET, ACCESSION_NUMBER, PATIENT_ID, STUDY_UID})
        found = find(data, start, syntax, wanted)
    character_set = (_text(found.get(CHARACTER_SET)) or "").split("\\")
    return Identity(
        study_uid=_required_uid(found, STUDY_UID, "StudyInstanceUID"),
        patient_id=_decode(found.get(PATIENT_ID, b""), character_set),
        accession_number=_decode(found.get(ACCESSION_NUMBER, b""), character_set),
    )


def data_set_offset(path: Path) -> tuple[str, int]:
    """The transfer syntax of a DICOM file and the byte at which its data set begins.

    Raises:
        BadResponse: Not a readable DICOM file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return data_set_start(file)
    except OSError as exc:
        raise BadResponse(f"the file cannot be read: {exc.strerror}") from exc


def data_set_start(file: BinaryIO) -> tuple[str, int]:
    """As `data_set_offset`, of an open file, which is left at some position.

    Raises:
        BadResponse: Not a DICOM file.
        OSError: It cannot be read.
    """
    file.seek(0)
    head = file.read(META_BYTES)
    if not head:
        raise BadResponse("the file is empty")
    try:
        syntax, start = _file_meta(head)
        is_whole = start + 8 <= len(head)
    except BadResponse:
        is_whole = False
    if is_whole:
        return syntax, start
    # Nearly all are shorter; the rest, and what is no DICOM file, is looked at whole.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _file_meta(data)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except ValueError as exc:  # mmap of an empty file
        raise BadResponse("the file is empty") from exc
    except OSError as exc:
        raise BadResponse(f"the file cannot be read: {exc.strerror}") from exc


def _file_meta(data: Buffer) -> tuple[str, int]:
    start = PREAMBLE_BYTES + 4
    if data[PREAMBLE_BYTES:start] != b"DICM":
        raise BadResponse("not a DICOM file: no DICM prefix")
    found: dict[int, bytes] = {}
    size = len(data)
    while start + 8 <= size and data[start : start + 2] == b"\x02\x00":
        element = read_element(data, start, size, EXPLICIT)
        if element.length == UNDEFINED:
            raise BadResponse("the file meta information is malformed")
        if element.tag == META_SYNTAX:
            found[META_SYNTAX] = value_of(data, element, size)
        start = element.at + element.length
    syntax = _text(found.get(META_SYNTAX))
    if not syntax or not is_uid(syntax):
        raise BadResponse("the file meta information has no TransferSyntaxUID")
    return syntax, start


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii", "replace").strip("\0 ")


def _required_uid(found: dict[int, bytes], tag: int, keyword: str) -> str:
    value = _text(found.get(tag))
    if not value:
        raise BadResponse(f"no {keyword}")
    if not is_uid(value):
        raise BadResponse(f"{keyword} is not a UID")
    return value


def _decode(value: bytes, character_set: list[str]) -> str:
    names = [name.strip() for name in character_set]
    names = next(([name] for name in names if name in WHOLE_SETS), names)
    try:
        # An unknown name would only make pydicom warn and guess.
        encodings = convert_encodings([n if n in python_encoding else "" for n in names])
        text = decode_bytes(value, encodings, set())
    except (LookupError, UnicodeError):
        text = value.decode("latin-1")
    return text.strip("\0 ")

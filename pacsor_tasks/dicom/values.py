"""What a filter rule sees of an element: its values as strings, read from a bounded header.

Decided once (docs/filters.md has it as a table):

- Absent is None. Present but empty is the value "".
- DICOM padding (spaces, NULs) is stripped from both ends of every value.
- Several values are several strings; none at all is one "".
- A person name is its whole string, component groups joined by `=`. Text is decoded by
  SpecificCharacterSet, as Latin-1 without one; what does not decode becomes U+FFFD.
- Numbers and tags are their usual writing; a 32-bit float the shortest one that means the same.
- A value that breaks its own VR is taken as the text that stands there, and so is one of VR UN
  that holds text: a private element is the same whether its VR was sent along or not.
- Sequences and binary elements have no string value: they are present with "".
- Group 0002 is the file meta information. Pixel data and what follows it is not read: absent.
- Of a text longer than MAX_VALUE_BYTES the rest is not looked at.
- Elements are in ascending order, as the standard has it; one out of its place is absent.

Source: DICOM PS3.5 §6.1 (character sets), §6.2 (value representations), §7.1 (data elements).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.errors import BadResponse, Permanent

Tag: TypeAlias = tuple[int, int]

#: Of a deflated data set only so much is looked at; a header is far shorter.
MAX_INFLATED_BYTES = 1 << 24
#: Of one value so much is looked at.
MAX_VALUE_BYTES = 1 << 16
META_GROUP = 0x0002
FIRST_PIXEL_TAG = 0x7FE00000
PIXEL_REPRESENTATION = 0x00280103
#: VRs without a string value (PS3.5 Table 6.2-1).
BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "SQ"})
#: What pydicom raises on values that break their VR.
BAD_VALUE = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    NotImplementedError, BytesLengthException, struct.error,
)  # fmt: skip


def read_values(path: Path, tags: Collection[Tag]) -> dict[Tag, list[str] | None]:
    """The values of these elements of a DICOM file; None for an absent one.

    Reads no more than the header up to the last of them.

    Raises:
        Permanent: The file cannot be read as DICOM, or ends inside an element.
    """
    try:
        # pydicom warns about sloppy values; here they only have to be read as they stand.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path, tags)
    except (BadResponse, OSError, EOFError, RecursionError, *BAD_VALUE) as exc:
        # The cause's own words only where they are ours: others may quote a value.
        what = str(exc) if isinstance(exc, BadResponse) else type(exc).__name__
        raise Permanent(f"the header cannot be read: {what}") from exc


def _read(path: Path, tags: Collection[Tag]) -> dict[Tag, list[str] | None]:
    wanted = {number for tag in tags for number in _with_what_it_needs(*tag)}
    syntax, start = data_set_offset(path)
    with path.open("rb") as opened:
        opened.seek(start)
        file = _inflated(opened) if syntax == DeflatedExplicitVRLittleEndian else opened
        header = read_dataset(
            file,
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
            stop_when=_end_of_header(file, max(wanted)),
            defer_size=MAX_VALUE_BYTES,
            specific_tags=list(wanted),
        )
        meta = read_file_meta_info(path) if any(g == META_GROUP for g, _ in tags) else Dataset()
        sets: Mapping[bool, Dataset] = {True: meta, False: header}
        return {tag: _values(sets[tag[0] == META_GROUP], tag, file) for tag in tags}


def _end_of_header(file: BinaryIO, last: int) -> Callable[[int, str | None, int], bool]:
    """Where to stop: behind the last element wanted. pydicom would take a cut value as it is."""
    at = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(at)

    def stop_when(tag: int, _vr: str | None, length: int) -> bool:
        if tag > last or tag >= FIRST_PIXEL_TAG:
            return True
        if length != 0xFFFFFFFF and file.tell() + length > size:
            raise BadResponse("the data set ends inside an element")
        return False

    return stop_when


def _inflated(file: BinaryIO) -> BinaryIO:
    """The first part of a deflated data set. dcmread would inflate all of it, pixels included."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    out = io.BytesIO()
    try:
        while out.tell() < MAX_INFLATED_BYTES and (piece := file.read(1 << 16)):
            out.write(inflater.decompress(piece, MAX_INFLATED_BYTES - out.tell()))
    except zlib.error as exc:
        raise BadResponse("the deflated data set cannot be inflated") from exc
    out.seek(0)
    return out


def _with_what_it_needs(group: int, element: int) -> tuple[int, ...]:
    """The tag and those that tell its VR: a private creator, or whether pixels are signed."""
    tag = group << 16 | element
    if group % 2:
        # pydicom knows the elements of many creators.
        return (tag, group << 16 | element >> 8) if element > 0xFF else (tag,)
    return (tag, PIXEL_REPRESENTATION) if "US or SS" in vr_of(tag) else (tag,)


def vr_of(tag: int) -> str:
    """The VR that the standard's dictionary gives; "" where it has none."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def _values(dataset: Dataset, tag: Tag, file: BinaryIO) -> list[str] | None:
    if tag not in dataset:
        return None
    raw: Any = dataset.get_item(tag, keep_deferred=True)
    if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
        if (raw.VR or vr_of(raw.tag)) in BINARY_VRS:
            return [""]
        _load(dataset, raw, file)
    return [text.strip(" \0") for text in _texts(dataset, tag)] or [""]


def _load(dataset: Dataset, raw: RawDataElement, file: BinaryIO) -> None:
    """Put the beginning of a value in place of one that was left unread for its length."""
    file.seek(raw.value_tell)
    value = file.read(min(raw.length, MAX_VALUE_BYTES))
    dataset[raw.tag] = raw._replace(value=value, length=len(value))


def _texts(dataset: Dataset, tag: Tag) -> list[str]:
    raw: Any = dataset.get_item(tag)
    try:
        element = dataset[tag]
        vr, value = element.VR, element.value
    except BAD_VALUE:
        vr, value = "UN", getattr(raw, "value", b"")
    if vr == "AT" and not value:  # what pydicom makes of one that is cut, too
        value = getattr(raw, "value", b"")
    if vr in BINARY_VRS:
        return [""]
    if isinstance(value, bytes | bytearray):
        return _texts_of_unknown(bytes(value), dataset)
    parts = value if isinstance(value, MultiValue | list) else [value]
    return [_text(part, vr) for part in parts]


def _texts_of_unknown(value: bytes, dataset: Dataset) -> list[str]:
    """Bytes without a VR: the texts they are, or each byte a character."""
    stripped = value.strip(b" \0")
    if any(byte < 0x20 and byte not in b"\t\n\f\r\x1b" for byte in stripped):
        return [value.decode("latin-1")]
    names = dataset.get("SpecificCharacterSet") or ""
    encodings = convert_encodings(names if isinstance(names, str) else list(names))
    return decode_bytes(value, encodings, {0x5C}).split("\\")


def _text(value: Any, vr: str) -> str:
    if value is None:
        return ""
    if vr == "FL" and isinstance(value, float):
        return _shortest(value)
    if vr == "IS":  # of more digits than pydicom's integers have it makes a float: 1e+40
        value = getattr(value, "original_string", value)
    return value.decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)


def _shortest(value: float) -> str:
    """The shortest writing that is the same number in 32 bits: 0.1 and not 0.10000000149."""
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return str(next((c for c in candidates if _as_32_bits(c) == value), value))


def _as_32_bits(value: float) -> float:
    try:
        narrowed: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:  # rounded beyond the largest
        return float("inf")
    return narrowed

"""DICOM_FILTERS: which instances go to the AI. Pure rules over a bounded header read.

What a rule sees of an element, decided once:

- Absent: the rule says nothing. Present but empty: the value "".
- DICOM padding (spaces, NULs) is stripped from every value before matching.
- Several values: the pattern matches if it matches any one of them; none at all counts as "".
- A person name is its whole string, component groups joined by `=`. Text is decoded by
  SpecificCharacterSet. Numbers and tags are their usual writing (`str`); a value that breaks its
  own VR is taken as the text that stands there.
- A sequence has no string value: it is present with "".
- Group 0002 is matched in the file meta information. Pixel data and what follows it is not read:
  rules on such tags see them as absent.

Patterns are unanchored searches as in RE2, run by Python's `re`. What RE2 writes differently
(`\\z`, `\\pL`, `[[:alpha:]]`) is refused when the settings are read. Unlike RE2, `re` backtracks:
a pattern with nested repeats may be slow on long values.

Source: contract §2.4.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.errors import BadResponse, Permanent

#: Of a deflated data set only so much is looked at; a header is far shorter.
MAX_INFLATED_BYTES = 1 << 24
META_GROUP = 0x0002
FIRST_PIXEL_TAG = 0x7FE00000
#: What pydicom raises on values that break their VR.
_BAD_VALUE = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    NotImplementedError, BytesLengthException, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an instance goes to the AI."""

    keep: bool
    #: which rule skipped it (tag and pattern, never the value); None when it is kept
    reason: str | None = None


KEEP = Decision(keep=True)


def decide(rules: Sequence[FilterRule], path: Path) -> Decision:
    """Apply the rules to one instance; the first rule that skips it decides.

    Reads no more than the header up to the pixel data, and nothing at all without rules.

    Raises:
        Permanent: The file cannot be read as DICOM.
    """
    if not rules:
        return KEEP
    # pydicom warns about sloppy values; a filter only has to read what stands there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _read(path, rules)
        for rule in rules:
            if rule.skips(_values(header, rule.tag)):
                return Decision(keep=False, reason=str(rule))
    return KEEP


def _read(path: Path, rules: Sequence[FilterRule]) -> Dataset:
    wanted = {number for rule in rules for number in _with_private_creator(*rule.tag)}
    last = max(wanted)
    try:
        syntax, start = data_set_offset(path)
        with path.open("rb") as file:
            file.seek(start)
            header = read_dataset(
                _inflated(file) if syntax == DeflatedExplicitVRLittleEndian else file,
                is_implicit_VR=syntax == ImplicitVRLittleEndian,
                is_little_endian=syntax != ExplicitVRBigEndian,
                stop_when=lambda tag, _vr, _length: tag > last or tag >= FIRST_PIXEL_TAG,
                specific_tags=list(wanted),
            )
        if any(rule.tag[0] == META_GROUP for rule in rules):
            header.file_meta = read_file_meta_info(path)
    except (BadResponse, OSError, EOFError, RecursionError, *_BAD_VALUE) as exc:
        # The cause's own words only where they are ours: others may quote a value.
        what = str(exc) if isinstance(exc, BadResponse) else type(exc).__name__
        raise Permanent(f"the header cannot be read: {what}") from exc
    return header


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


def _with_private_creator(group: int, element: int) -> tuple[int, ...]:
    """The tag, and for a private one its creator: pydicom then knows the VR of known creators."""
    tag = group << 16 | element
    return (tag, group << 16 | element >> 8) if group % 2 and element > 0xFF else (tag,)


def _values(header: Dataset, tag: tuple[int, int]) -> list[str] | None:
    """The element's values as strings without padding; None when it is absent."""
    dataset = header.file_meta if tag[0] == META_GROUP else header
    if tag not in dataset:
        return None
    try:
        element = dataset[tag]
        value = "" if element.VR == "SQ" else element.value
    except _BAD_VALUE:
        value = getattr(dataset.get_item(tag), "value", b"")
    parts = value if isinstance(value, MultiValue | list) else [value]
    return [_text(part).strip(" \0") for part in parts]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)

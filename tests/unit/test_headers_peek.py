"""The bounded peek over an encoded data set."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence

from pacsor_tasks.dicom import elements
from pacsor_tasks.dicom.elements import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from pacsor_tasks.dicom.headers import has_leading_zero, is_uid, peek
from pacsor_tasks.errors import BadResponse
from tests.support.instances import encode, make_dataset

JPEG = "1.2.840.10008.1.2.4.50"
#: a sequence of undefined length, implicit VR
UNDEFINED = struct.pack("<HHI", 8, 0x1140, 0xFFFFFFFF)
SYNTAXES = [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE]


def encoded_in(syntax: str, dataset: Dataset) -> bytes:
    if syntax == DEFLATED_LE:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(encode(dataset)) + packer.flush()
    return encode(dataset, implicit=syntax == IMPLICIT_LE, little=syntax != EXPLICIT_BE)


def nested(*, is_undefined_length: bool, depth: int = 3) -> Sequence:
    """A sequence whose items hold the very tags that are looked for."""
    item = Dataset()
    item.SOPInstanceUID, item.StudyInstanceUID, item.SeriesInstanceUID = "9.1", "9.2", "9.3"
    if depth:
        item.ReferencedSeriesSequence = nested(
            is_undefined_length=is_undefined_length, depth=depth - 1
        )
        item["ReferencedSeriesSequence"].is_undefined_length = is_undefined_length
    item.is_undefined_length_sequence_item = is_undefined_length
    return Sequence([item, item])


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, JPEG])
@pytest.mark.parametrize("is_undefined_length", [False, True])
def test_the_uids_are_those_of_the_data_set_and_not_of_a_nested_one(
    syntax: str, is_undefined_length: bool
) -> None:
    dataset = make_dataset()
    sequence = nested(is_undefined_length=is_undefined_length)
    dataset.ReferencedStudySequence = sequence
    dataset["ReferencedStudySequence"].is_undefined_length = is_undefined_length
    dataset.RequestAttributesSequence = nested(is_undefined_length=is_undefined_length)
    found = peek(encoded_in(syntax, dataset), syntax, to_end=True)
    assert found.sop_class_uid == dataset.SOPClassUID
    assert found.sop_instance_uid == dataset.SOPInstanceUID
    assert found.study_uid == dataset.StudyInstanceUID
    assert found.series_uid == dataset.SeriesInstanceUID


def test_an_unknown_element_of_undefined_length_holds_implicit_elements() -> None:
    dataset = make_dataset()
    inner = encode(nested(is_undefined_length=False, depth=0)[0], implicit=True)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    unknown += struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    unknown += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    unknown += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    whole = encode(dataset)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    assert (
        peek(whole[:at] + unknown + whole[at:], EXPLICIT_LE).study_uid == dataset.StudyInstanceUID
    )


def test_what_is_missing_is_none_and_what_is_empty_is_empty() -> None:
    found = peek(encode(make_dataset(StudyInstanceUID=None, SeriesInstanceUID="")), EXPLICIT_LE)
    assert found.study_uid is None
    assert found.series_uid == ""


# Not big endian: its tags begin with a zero, and cut there it looks padded.
@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
def test_every_cut_is_noticed_when_the_end_is_looked_at(syntax: str) -> None:
    whole = encoded_in(syntax, make_dataset())
    boundaries = 0
    for length in range(1, len(whole)):
        try:
            found = peek(whole[:length], syntax, to_end=True)
        except BadResponse:
            continue
        # Cut between two elements: whole as far as it goes.
        boundaries += 1
        assert peek(whole[:length], syntax) == found
    assert boundaries == sum(1 for _ in make_dataset()) - 1


def test_a_cut_in_the_pixels_is_not_noticed_by_a_mere_peek() -> None:
    whole = encode(make_dataset())
    assert peek(whole[:-9], EXPLICIT_LE).study_uid
    with pytest.raises(BadResponse, match="ends inside an element"):
        peek(whole[:-9], EXPLICIT_LE, to_end=True)


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"\0" * 7, b"\0" * 64, b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0\0\0", b"\1\0" + b"\0" * 10],
    ids=["one byte", "seven", "a block", "trailing padding element", "a lower tag"],
)
def test_padding_after_the_end_is_let_pass(tail: bytes) -> None:
    dataset = make_dataset()
    found = peek(encode(dataset) + tail, EXPLICIT_LE, to_end=True)
    assert found.study_uid == dataset.StudyInstanceUID


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", EXPLICIT_LE),
        (b"GET / HTTP/1.1\r\n\r\n", IMPLICIT_LE),
        (b"not deflated at all", DEFLATED_LE),
        (b"\x08\x00\x05", EXPLICIT_LE),
        # a UID of a megabyte
        (struct.pack("<HHI", 8, 0x16, 1 << 20) + bytes(1 << 20), IMPLICIT_LE),
        # a sequence that never ends
        (UNDEFINED + struct.pack("<HHI", 0xFFFE, 0xE000, 0), IMPLICIT_LE),
        # … and one without items
        (UNDEFINED + struct.pack("<HHI", 8, 0x16, 0), IMPLICIT_LE),
    ],
)
def test_what_is_no_data_set_is_said_to_be_none(data: bytes, syntax: str) -> None:
    with pytest.raises(BadResponse):
        peek(data, syntax, to_end=True)


def test_the_walk_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 50)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 100
    data = struct.pack("<HHI", 8, 0x1140, 0xFFFFFFFF) + items
    with pytest.raises(BadResponse, match="more than 50 elements"):
        peek(data, IMPLICIT_LE)


def test_inflating_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "FIRST_INFLATE_BYTES", 1 << 10)
    monkeypatch.setattr(elements, "MAX_INFLATE_BYTES", 1 << 14)
    # A private element of 4 MB in front of the UIDs: never inflated whole.
    dataset = make_dataset()
    whole = encode(dataset)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    big = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 1 << 22) + bytes(1 << 22)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(whole[:at] + big + whole[at:]) + packer.flush()
    with pytest.raises(BadResponse, match="ends inside"):
        peek(packed, DEFLATED_LE)


WHOLE = {syntax: encoded_in(syntax, make_dataset()) for syntax in SYNTAXES}


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_no_bytes_raise_anything_else(data: bytes, syntax: str) -> None:
    with suppress(BadResponse):
        peek(data, syntax, to_end=True)


@given(st.sampled_from(SYNTAXES), st.integers(0, 200), st.integers(0, 255))
def test_a_flipped_byte_raises_nothing_else(syntax: str, at: int, value: int) -> None:
    damaged = bytearray(WHOLE[syntax])
    damaged[at] = value
    with suppress(BadResponse):
        peek(damaged, syntax, to_end=True)


@pytest.mark.parametrize(
    ("value", "valid", "leading_zero"),
    [
        ("1.2.840.10008.1.1", True, False),
        ("2.25.0", True, False),  # a component may be 0
        ("1.02.3", True, True),  # forbidden, and met in the field
        ("01.2", True, True),
        ("1" * 64, True, False),
        ("1" * 65, False, False),
        ("", False, False),
        ("1..2", False, False),
        (".1", False, False),
        ("1.", False, False),
        ("1.2a", False, False),
        ("../1", False, False),
        ("1.2\n", False, False),
        ("\u0661.\u0662", False, False),  # digits, but not ASCII's
    ],
)
def test_uids(value: str, valid: bool, leading_zero: bool) -> None:
    assert is_uid(value) is valid
    assert has_leading_zero(value) is leading_zero

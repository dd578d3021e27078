"""What a rule sees of strange elements: the table of docs/filters.md, row by row."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pacsor_tasks.dicom.values import MAX_VALUE_BYTES, read_values
from pacsor_tasks.errors import Permanent

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DESCRIPTION = (0x0008, 0x103E)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """An explicit little endian element, padded by nobody."""
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR"}:
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def implicit(group: int, number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def file_of(path: Path, data_set: bytes, syntax: str = EXPLICIT) -> Path:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element(2, 0x10, b"UI", uid)
    head = bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta)))
    path.write_bytes(head + meta + data_set)
    return path


def seen(path: Path, tag: tuple[int, int]) -> list[str] | None:
    return read_values(path, {tag})[tag]


ITEM = bytes.fromhex("feff00e000000000")


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        # empty
        (b"LO", b"", [""]),
        (b"LO", b"  ", [""]),  # nothing but padding
        (b"UI", b"\0", [""]),
        (b"PN", b"", [""]),
        (b"IS", b"", [""]),
        (b"DS", b"  ", [""]),
        (b"US", b"", [""]),
        (b"SQ", b"", [""]),
        # padding
        (b"LO", b" a b \0\0", ["a b"]),
        (b"UI", b"1.2.3\0", ["1.2.3"]),
        (b"IS", b" 12 ", ["12"]),
        # several values
        (b"CS", b"A\\B \\C", ["A", "B", "C"]),
        (b"LO", b"A\\\\C", ["A", "", "C"]),  # one of them empty
        (b"LO", b"\\", ["", ""]),
        (b"LO", b"A\\", ["A", ""]),
        (b"PN", b"A^B\\C^D", ["A^B", "C^D"]),
        (b"DS", b"0.50\\1e-1 ", ["0.50", "1e-1"]),
        (b"US", struct.pack("<2H", 1, 2), ["1", "2"]),
        # a backslash is no separator in texts
        (b"LT", b"A\\B", ["A\\B"]),
        (b"ST", b"A\\B", ["A\\B"]),
        (b"UT", b"A\\B", ["A\\B"]),
        # names
        (b"PN", b"Doe^Jane^^^", ["Doe^Jane^^^"]),  # as it stands, trailing delimiters too
        (b"PN", b"Doe^Jane=X^Y=Z^W", ["Doe^Jane=X^Y=Z^W"]),
        # what is no string
        (b"SL", struct.pack("<l", -7), ["-7"]),
        (b"FL", struct.pack("<f", 0.1), ["0.1"]),
        (b"FL", struct.pack("<f", 3.4028234e38), ["3.4028235e+38"]),  # the largest
        (b"FL", struct.pack("<f", float("nan")), ["nan"]),
        (b"FL", struct.pack("<f", 2.0), ["2.0"]),
        (b"FD", struct.pack("<d", 0.1), ["0.1"]),
        (b"AT", struct.pack("<2H", 0x18, 0xABCD), ["(0018,ABCD)"]),
        (b"SQ", ITEM, [""]),
        (b"OB", b"bytes!", [""]),
        (b"OW", b"", [""]),
        # of unknown VR: text if it is text
        (b"UN", b"for\\the AI ", ["for", "the AI"]),
        (b"UN", b"\x01\x02AB", ["\x01\x02AB"]),
        (b"UN", b"", [""]),
        # breaks its own VR: as it stands
        (b"IS", b"12.5", ["12.5"]),
        (b"IS", b"twelve", ["twelve"]),
        (b"IS", b"12345678901234567 ", ["12345678901234567"]),  # more than its 12 characters
        (b"IS", b"1" + b"0" * 40 + b"\\+07", ["1" + "0" * 40, "+07"]),
        (b"DS", b"1,5 ", ["1,5"]),
        (b"DA", b"yesterday ", ["yesterday"]),
        (b"CS", b"not a code string, and too long", ["not a code string, and too long"]),
        (b"US", b"odd", ["odd"]),
        (b"FD", b"1234", ["1234"]),
        (b"AT", b"ab", ["ab"]),
    ],
)
def test_the_values_of_an_element(
    tmp_path: Path, vr: bytes, value: bytes, expected: list[str]
) -> None:
    data = element(0x0009, 0x10, b"LO", b"A TEST") + element(0x0009, 0x1001, vr, value)
    assert seen(file_of(tmp_path / "a.dcm", data), (0x0009, 0x1001)) == expected


@pytest.mark.parametrize(
    ("character_set", "value", "expected"),
    [
        (None, "Hôpital".encode("latin-1"), "Hôpital"),  # none: Latin-1
        (b"ISO_IR 192", "北京".encode(), "北京"),
        (b"GB18030 ", "北京".encode("gb18030"), "北京"),
        (b"ISO_IR 100", "Hôpital".encode("latin-1"), "Hôpital"),
        (b"\\ISO 2022 IR 87", b"Aoki^\x1b$B@DLZ\x1b(B", "Aoki^青木"),  # code extensions
        (b"ISO_IR 192", "Hôpital".encode("latin-1"), "H\ufffdpital"),  # says so, and is not
        (b"KLINGON ", b"Clinic", "Clinic"),  # unknown
    ],
)
@pytest.mark.parametrize("vr", [b"LO", b"UN"])
def test_the_character_set_of_texts(
    tmp_path: Path, character_set: bytes | None, value: bytes, expected: str, vr: bytes
) -> None:
    data = b"" if character_set is None else element(8, 5, b"CS", character_set)
    data += element(*DESCRIPTION, b"LO", value) + element(0x0009, 0x1001, vr, value)
    path = file_of(tmp_path / "a.dcm", data)
    assert seen(path, DESCRIPTION) == [expected]
    assert seen(path, (0x0009, 0x1001)) == [expected]


@pytest.mark.parametrize(
    ("tag", "value", "expected"),
    [
        ((0x0008, 0x0060), b"SR", ["SR"]),
        ((0x0028, 0x0010), struct.pack("<H", 512), ["512"]),
        ((0x0009, 0x1001), b"of a\\private", ["of a", "private"]),  # its VR is not sent along
        ((0x0008, 0x1140), ITEM, [""]),
        ((0x0028, 0x0106), struct.pack("<h", -5), ["-5"]),  # signed says another element
        ((0x0008, 0xFFF0), b"unheard of", ["unheard of"]),
    ],
)
def test_values_without_their_vr(
    tmp_path: Path, tag: tuple[int, int], value: bytes, expected: list[str]
) -> None:
    elements = {tag: value, (0x0028, 0x0103): struct.pack("<H", 1)}
    data = b"".join(implicit(*key, elements[key]) for key in sorted(elements))
    assert seen(file_of(tmp_path / "a.dcm", data, IMPLICIT), tag) == expected


def test_big_endian_numbers(tmp_path: Path) -> None:
    data = struct.pack(">HH2sHH", 0x28, 0x10, b"US", 2, 512)
    assert seen(file_of(tmp_path / "a.dcm", data, BIG), (0x28, 0x10)) == ["512"]


def test_what_is_missing_is_none(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.dcm", element(8, 0x60, b"CS", b"SR"))
    assert seen(path, DESCRIPTION) is None
    assert seen(path, (2, 3)) is None
    assert seen(path, (0x7FE0, 0x0010)) is None


def test_of_a_long_text_only_the_beginning_is_looked_at(tmp_path: Path) -> None:
    data = element(0x0009, 0x1001, b"UT", b"a" * (MAX_VALUE_BYTES + 1000) + b"z")
    (text,) = seen(file_of(tmp_path / "a.dcm", data), (0x0009, 0x1001)) or []
    assert text == "a" * MAX_VALUE_BYTES


def test_of_long_binary_data_nothing_is_looked_at(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.dcm", element(0x0009, 0x1001, b"OB", b"")[:-4])
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(struct.pack("<I", 1 << 31))
        file.truncate(file.tell() + (1 << 31))  # sparse: two gigabytes of nothing
    assert seen(path, (0x0009, 0x1001)) == [""]


@pytest.mark.parametrize("group", [0x0008, 0x0010])
def test_a_file_that_ends_inside_an_element_is_not_judged(tmp_path: Path, group: int) -> None:
    data = element(8, 0x103E, b"LO", b"whole") + element(group, 0x2000, b"LO", b"cut off")[:-3]
    path = file_of(tmp_path / "a.dcm", data)
    with pytest.raises(Permanent, match="the data set ends inside an element"):
        seen(path, (0x0010, 0x4000))


def test_one_look_tells_of_all_elements(tmp_path: Path) -> None:
    data = element(8, 0x60, b"CS", b"SR") + element(8, 0x103E, b"LO", b"hand")
    tags = {(8, 0x60), DESCRIPTION, (2, 0x10), (0x10, 0x10)}
    assert read_values(file_of(tmp_path / "a.dcm", data), tags) == {
        (8, 0x60): ["SR"], DESCRIPTION: ["hand"], (2, 0x10): [EXPLICIT], (0x10, 0x10): None,
    }  # fmt: skip

"""What a rule sees of an element in a real file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from pacsor_tasks.dicom.filters import decide
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.errors import Permanent


def matches(path: Path, tag: int, pattern: str) -> bool:
    """Whether the element is there and the pattern matches it."""
    given = FilterRule(tag=(tag >> 16, tag & 0xFFFF), pattern=pattern, should_match=False)
    return not decide([given], path).keep


def is_present(path: Path, tag: int) -> bool:
    return matches(path, tag, "")


def write(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.save_as(path, enforce_file_format=True)
    return path


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """A short explicit little endian element, written as a sloppy sender would."""
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def raw_file(path: Path, data_set: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> Path:
    meta = element(2, 0x10, b"UI", syntax)
    path.write_bytes(
        bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + data_set
    )
    return path


def test_without_rules_the_file_is_not_even_opened(tmp_path: Path) -> None:
    assert decide([], tmp_path / "absent").keep


def test_the_reason_names_the_rule_and_never_the_value(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.PatientName = "Secret^Name"
    decision = decide(
        [FilterRule(tag=(0x10, 0x10), pattern="^Sec", should_match=False)],
        write(tmp_path / "a.dcm", dataset),
    )
    assert not decision.keep
    assert decision.reason == "rule 1: PatientName (0010,0010) matches its pattern"


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_values_are_read_in_every_native_syntax(tmp_path: Path, syntax: str) -> None:
    dataset = Dataset()
    dataset.PatientName = "Doe^Jane=山田^花子"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.AccessionNumber = ""
    dataset.Rows = 512
    dataset.PixelSpacing = ["0.50", "1e-1"]
    dataset.RecommendedDisplayFrameRateInFloat = 2.5
    dataset.FrameIncrementPointer = 0x00181063
    dataset.ReferencedImageSequence = Sequence([Dataset()])
    path = write(tmp_path / "a.dcm", dataset, syntax)

    assert matches(path, 0x00100010, "^Doe\\^Jane=山田\\^花子$")  # all groups of the name
    assert matches(path, 0x00080008, "^PRIMARY$")  # any one value
    assert not matches(path, 0x00080008, "ORIGINAL.PRIMARY")  # values are not joined
    assert matches(path, 0x00080050, "^$")  # present but empty
    assert not is_present(path, 0x00080060)  # missing
    assert matches(path, 0x00280010, "^512$")  # numbers as usually written
    assert matches(path, 0x00280030, "^0.50$")  # decimal strings as they stand
    assert matches(path, 0x00280009, "0018,?1063")  # a tag
    assert matches(path, 0x00081140, "^$")  # a sequence has no string value
    assert matches(path, 0x00020010, "^1.2.840.10008.1.2")  # file meta information


def test_padding_is_stripped_before_matching(tmp_path: Path) -> None:
    data = element(8, 0x60, b"CS", b"SR ") + element(8, 0x70, b"LO", b" A \\B\0")
    path = raw_file(tmp_path / "a.dcm", data)
    assert matches(path, 0x00080060, "^SR$")
    assert matches(path, 0x00080070, "^A$")
    assert matches(path, 0x00080070, "^B$")


@pytest.mark.parametrize(
    ("vr", "value", "pattern"),
    [
        (b"IS", b"twelve", "^twelve$"),
        (b"IS", b"12.5", "^12.5$"),
        (b"DS", b"1,5 ", "^1,5$"),
        (b"US", b"odd", "^odd$"),
        (b"UI", b"not a uid ", "^not a uid$"),
        (b"DA", b"yesterday ", "^yesterday$"),
    ],
)
def test_a_value_that_breaks_its_vr_is_taken_as_it_stands(
    tmp_path: Path, vr: bytes, value: bytes, pattern: str
) -> None:
    path = raw_file(tmp_path / "a.dcm", element(8, 0x70, vr, value))
    assert matches(path, 0x00080070, pattern)


def test_text_is_decoded_by_the_character_set(tmp_path: Path) -> None:
    data = element(8, 5, b"CS", b"ISO_IR 100") + element(
        8, 0x80, b"LO", "Hôpital ".encode("latin-1")
    )
    assert matches(raw_file(tmp_path / "a.dcm", data), 0x00080080, "^Hôpital$")


def test_an_unknown_character_set_does_not_stop_the_reading(tmp_path: Path) -> None:
    data = element(8, 5, b"CS", b"KLINGON ") + element(8, 0x80, b"LO", b"Clinic")
    assert matches(raw_file(tmp_path / "a.dcm", data), 0x00080080, "^Clinic$")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_private_elements_are_matched(tmp_path: Path, syntax: str) -> None:
    dataset = Dataset()
    block = dataset.private_block(0x0009, "A GATEWAY TEST", create=True)
    block.add_new(0x01, "LO", "for the AI")
    path = write(tmp_path / "a.dcm", dataset, syntax)
    assert matches(path, 0x00091001, "^for the AI$")
    assert not is_present(path, 0x00091002)


def test_a_nested_element_is_not_the_top_level_one(tmp_path: Path) -> None:
    item = Dataset()
    item.Modality = "SR"
    dataset = Dataset()
    dataset.ReferencedImageSequence = Sequence([item])
    path = write(tmp_path / "a.dcm", dataset, ImplicitVRLittleEndian)
    assert not is_present(path, 0x00080060)


def test_pixel_data_is_never_looked_at(tmp_path: Path) -> None:
    path = Path(str(get_testdata_file("CT_small.dcm")))
    assert not is_present(path, 0x7FE00010)
    assert matches(path, 0x00280010, "^128$")


def test_a_deflated_data_set_is_inflated_for_the_look() -> None:
    path = Path(str(get_testdata_file("image_dfl.dcm")))
    assert matches(path, 0x00080060, "^OT$")


def test_a_deflated_data_set_is_inflated_only_so_far(tmp_path: Path) -> None:
    """A gigabyte of zeros deflates to a megabyte: it must not be inflated whole."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = element(8, 0x60, b"CS", b"DX") + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 1 << 30)
    data = packer.compress(head) + packer.compress(bytes(64 << 20)) + packer.flush()
    path = raw_file(tmp_path / "a.dcm", data, b"1.2.840.10008.1.2.1.99")
    assert matches(path, 0x00080060, "^DX$")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", bytes(128) + b"DICM", bytes(200)],
    ids=["empty", "text", "no meta", "zeros"],
)
def test_what_is_not_dicom_is_a_permanent_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(Permanent, match="the header cannot be read"):
        is_present(path, 0x00100010)


def test_a_missing_file_is_a_permanent_error(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="the header cannot be read"):
        is_present(tmp_path / "absent", 0x00100010)


def test_a_bottomless_sequence_is_a_permanent_error(tmp_path: Path) -> None:
    nested = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + bytes.fromhex(
        "feff00e0ffffffff"
    )
    with pytest.raises(Permanent, match="the header cannot be read"):
        is_present(raw_file(tmp_path / "a.dcm", nested * 5000), 0x00100010)


def test_a_broken_deflated_stream_is_a_permanent_error(tmp_path: Path) -> None:
    path = raw_file(tmp_path / "a.dcm", b"\xff" * 50, b"1.2.840.10008.1.2.1.99")
    with pytest.raises(Permanent, match="cannot be inflated"):
        is_present(path, 0x00100010)

"""What is read of a study's header, in every character set, and what never is."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.hl7.message import build_message
from pacsor_tasks.hl7.metadata import StudyMetadata, read_study_metadata
from tests.support.hl7_example import AT, CONTROL_ID, OPTIONS


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2) if vr == b"UI" else b" " * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def write_raw(path: Path, values: dict[int, tuple[bytes, bytes]]) -> Path:
    """An explicit VR little endian file with exactly these bytes as values."""
    syntax = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1")
    meta = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(syntax)) + syntax
    study = {0x0020000D: (b"UI", b"1.2.3")} | values
    body = b"".join(element(tag, vr, value) for tag, (vr, value) in sorted(study.items()))
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + body)
    return path


def read_name(path: Path, character_set: bytes | None, name: bytes) -> str:
    values = {0x00100010: (b"PN", name)}
    if character_set is not None:
        values[0x00080005] = (b"CS", character_set)
    return read_study_metadata(write_raw(path, values), default_issuer="").patient_name


@pytest.mark.parametrize(
    ("character_set", "name", "decoded"),
    [
        (None, b"Buc^Jerome", "Buc^Jerome"),
        (b"ISO_IR 6", b"Buc^Jerome", "Buc^Jerome"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
        (b"ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"),
        (b"ISO_IR 138", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"),
        (b"ISO_IR 144", b"\xbb\xee\xda\x63\x65\xdc\xd1\x79\x70\xd3", "Люкceмбypг"),  # noqa: RUF001
        (b"ISO_IR 192", "Wang^XiaoDong=王^小東=".encode(), "Wang^XiaoDong"),
        (b"ISO_IR 192", "LEGRAND^Anaïs".encode(), "LEGRAND^Anaïs"),
        # Two-byte characters of which the second is a backslash or a caret.
        (b"GB18030", b"\x81\x5c^\x81\x5e", "\u4e57^\u4e5b"),
        # PS3.5 annex H and I: code extensions.
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou",
        ),
        (
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ",
        ),
        (b"\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8^\x1b$)C\xc8\xf1\xc1\xdf=x", "김^희중"),
        (b"ISO 2022 IR 100\\ISO 2022 IR 144", b"J\xe9r\xf4me^\x1b-L\xbb\xee\xda", "Jérôme^Люк"),
        # Kanji where only Latin letters should be; the bytes of 春 hold an equals sign.
        (b"\\ISO 2022 IR 87", b"\x1b$B=U\x1b(B^\x1b$BB@O:\x1b(B", "春^太郎"),
        # Misspelt, misplaced and unknown sets.
        (b"ISO-IR 100", b"J\xe9r\xf4me", "Jérôme"),
        (b"\\ISO_IR 192", "Jérôme".encode(), "Jérôme"),
        (b"NO SUCH SET", b"J\xe9r\xf4me", "Jérôme"),
        # What cannot be decoded is shown as such.
        (b"ISO_IR 192", b"J\xe9r", "J\ufffdr"),
        (b"\\ISO 2022 IR 87", b"A\x1b%Z", "A\x1b%Z"),
        # Padding, the other groups, nothing.
        (b"ISO_IR 100", b"  Buc^J \0", "Buc^J"),
        (b"ISO_IR 100", b"=Ideographic=Phonetic", ""),
        (b"ISO_IR 100", b"", ""),
    ],
)
def test_the_alphabetic_name_is_decoded_by_its_character_set(
    tmp_path: Path, character_set: bytes | None, name: bytes, decoded: str
) -> None:
    assert read_name(tmp_path / "x.dcm", character_set, name) == decoded


def data_set() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = UID("1.2.3.4.5")
    ds.AccessionNumber = "ACC|42"
    ds.Modality = "DX"
    ds.SeriesDescription = "Poignet côté droit"
    item = Dataset()
    item.PatientID = "NOT-THIS-ONE"
    ds.ReferencedStudySequence = [item]
    ds.ReferencedStudySequence.is_undefined_length = True
    ds.PatientName = "LEGRAND^Anaïs"
    ds.PatientID = "PX-4711"
    ds.IssuerOfPatientID = "HÔPITAL"
    ds.PatientBirthDate = "19610412"
    ds.PatientSex = "F"
    ds.BodyPartExamined = "WRIST"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.4"
    return ds


def write(path: Path, ds: Dataset, syntax: str) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4.5")
    ds.file_meta = meta
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEG2000Lossless,
    ],
)
def test_every_placeholder_is_read_in_every_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    metadata = read_study_metadata(
        write(tmp_path / "x.dcm", data_set(), syntax), default_issuer="MILVUE"
    )
    assert metadata == StudyMetadata(
        study_uid="1.2.3",
        patient_id="PX-4711",
        issuer_of_patient_id="HÔPITAL",
        patient_name="LEGRAND^Anaïs",
        patient_birth_date="19610412",
        patient_sex="F",
        accession_number="ACC|42",
        modality="DX",
        body_part_examined="WRIST",
        series_description="Poignet côté droit",
        series_uid="1.2.3.4",
        sop_instance_uid="1.2.3.4.5",
        sop_class_uid=str(CTImageStorage),
    )


def test_a_missing_identity_stays_missing(tmp_path: Path) -> None:
    metadata = read_study_metadata(write_raw(tmp_path / "x.dcm", {}), default_issuer="MILVUE")
    assert metadata == StudyMetadata(study_uid="1.2.3", issuer_of_patient_id="MILVUE")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"19610412", "19610412"),
        (b"20240229", "20240229"),
        (b"20230229", ""),
        (b"19611301", ""),
        (b"1961", ""),
        (b"1961.04.12", ""),
        (b"00000000", ""),
        (b"196104\xb2\xb9", ""),
        (b"", ""),
    ],
)
def test_a_birth_date_is_a_date_or_empty(tmp_path: Path, written: bytes, read: str) -> None:
    path = write_raw(tmp_path / "x.dcm", {0x00100030: (b"DA", written)})
    assert read_study_metadata(path, default_issuer="").patient_birth_date == read


@pytest.mark.parametrize(
    ("written", "read"),
    [(b"M", "M"), (b"F", "F"), (b"O", "O"), (b"f", "F"), (b"W", ""), (b"MALE", ""), (b"", "")],
)
def test_a_sex_is_one_that_hl7_knows_or_empty(tmp_path: Path, written: bytes, read: str) -> None:
    path = write_raw(tmp_path / "x.dcm", {0x00100040: (b"CS", written)})
    assert read_study_metadata(path, default_issuer="").patient_sex == read


def test_an_identity_with_delimiters_and_a_backslash_is_kept_whole(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.dcm", {0x00100020: (b"LO", b"A\\B|C^D&E~F")})
    metadata = read_study_metadata(path, default_issuer="X&Y")
    assert metadata.patient_id == "A\\B|C^D&E~F"
    message = build_message(metadata, OPTIONS, control_id=CONTROL_ID, at=AT, inference=None)
    assert b"PID|||A\\E\\B\\F\\C\\S\\D\\T\\E\\R\\F^^^X\\T\\Y^PI|" in message


@pytest.mark.parametrize(
    ("tag", "vr", "field"),
    [
        (0x00080060, b"CS", "modality"),
        (0x0008103E, b"LO", "series_description"),
        (0x00100030, b"DA", "patient_birth_date"),
        (0x00100040, b"CS", "patient_sex"),
        (0x00180015, b"CS", "body_part_examined"),
    ],
)
def test_a_text_that_is_too_long_to_be_one_is_left_out(
    tmp_path: Path, tag: int, vr: bytes, field: str
) -> None:
    others = {
        0x00080060: (b"CS", b"DX"),
        0x0008103E: (b"LO", b"Wrist"),
        0x00100020: (b"LO", b"PX-4711"),
        0x00100030: (b"DA", b"19610412"),
        0x00100040: (b"CS", b"F"),
        0x00180015: (b"CS", b"HAND"),
    }
    usual = read_study_metadata(write_raw(tmp_path / "usual.dcm", others), default_issuer="")
    path = write_raw(tmp_path / "x.dcm", others | {tag: (vr, b"d" * 1500)})
    assert read_study_metadata(path, default_issuer="") == replace(usual, **{field: ""})


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00080005, b"CS"),
        (0x00080050, b"SH"),
        (0x00100010, b"PN"),
        (0x00100020, b"LO"),
        (0x00100021, b"LO"),
        (0x0020000D, b"UI"),
    ],
)
def test_an_identity_that_is_too_long_is_an_error_that_names_its_tag(
    tmp_path: Path, tag: int, vr: bytes
) -> None:
    path = write_raw(tmp_path / "x.dcm", {tag: (vr, b"1" * 1500), 0x0008103E: (b"LO", b"d" * 1500)})
    with pytest.raises(BadResponse, match=f"{tag:08X}"):
        read_study_metadata(path, default_issuer="")


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("empty", b""),
        ("not DICOM", b"hello" * 100),
        ("only a preamble", b"\0" * 128 + b"DICM"),
    ],
)
def test_a_file_that_is_not_dicom_is_a_bad_response(
    tmp_path: Path, what: str, content: bytes
) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(BadResponse):
        read_study_metadata(path, default_issuer="")


def test_a_file_that_is_gone_is_a_bad_response(tmp_path: Path) -> None:
    with pytest.raises(BadResponse):
        read_study_metadata(tmp_path / "gone.dcm", default_issuer="")


def test_a_header_without_study_uid_is_refused_by_name(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x.dcm", {0x0020000D: (b"UI", b"")})
    with pytest.raises(BadResponse, match="no StudyInstanceUID"):
        read_study_metadata(path, default_issuer="")


def test_a_header_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.dcm", data_set(), ExplicitVRLittleEndian).read_bytes()
    path = tmp_path / "cut.dcm"
    refused: list[str] = []
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            metadata = read_study_metadata(path, default_issuer="")
        except BadResponse as exc:
            refused.append(str(exc))
        else:
            assert metadata.study_uid == "1.2.3"
    assert len(refused) > 50
    assert not any("PX-4711" in message or "LEGRAND" in message for message in refused)


def test_metadata_does_not_show_a_patient_in_a_traceback() -> None:
    assert "LEGRAND" not in repr(StudyMetadata(study_uid="1.2.3", patient_name="LEGRAND"))

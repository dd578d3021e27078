"""Reading the header of a DICOM file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsor_tasks.dicom.headers import data_set_offset, read_header, read_identity
from pacsor_tasks.errors import BadResponse
from tests.support.instances import encode, make_dataset, write_instance

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_header_of_a_file(tmp_path: Path, syntax: str) -> None:
    path = write_instance(tmp_path, "1.2.3", syntax=syntax)
    header = read_header(path)
    assert header.study_uid == "1.2.3"
    assert header.series_uid == "1.2.3.1"
    assert header.sop_instance_uid == path.stem
    assert header.transfer_syntax_uid == syntax


def test_the_data_set_begins_after_the_file_meta_information(tmp_path: Path) -> None:
    path = write_instance(tmp_path)
    syntax, offset = data_set_offset(path)
    assert syntax == ExplicitVRLittleEndian
    assert path.read_bytes()[offset : offset + 4] == b"\x08\x00\x16\x00"


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("StudyInstanceUID", None, "no StudyInstanceUID"),
        ("SeriesInstanceUID", "", "no SeriesInstanceUID"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, keyword: str, value: str | None, said: str
) -> None:
    attributes: dict[str, Any] = {keyword: value}
    path = write_instance(tmp_path, **attributes)
    with pytest.raises(BadResponse, match=said):
        read_header(path)


def test_a_uid_that_is_none_is_named(tmp_path: Path) -> None:
    path = write_instance(tmp_path, "1.2.345")
    path.write_bytes(path.read_bytes().replace(b"1.2.345\0", b"../../x\0"))
    with pytest.raises(BadResponse, match="StudyInstanceUID is not a UID"):
        read_header(path)


def test_what_is_no_dicom_file_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    with pytest.raises(BadResponse, match="cannot be read: No such file"):
        read_header(path)
    for content, said in (
        (b"", "empty"),
        (b"%PDF-1.7", "no DICM prefix"),
        (bytes(128) + b"DICM", "no TransferSyntaxUID"),
        (encode(make_dataset()), "no DICM prefix"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadResponse, match=said):
            read_header(path)
        with pytest.raises(BadResponse, match=said):
            read_identity(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whose_study_it_is(tmp_path: Path, syntax: str) -> None:
    path = write_instance(tmp_path, syntax=syntax, PatientID=" P 1 ", AccessionNumber="A-1")
    identity = read_identity(path)
    assert (identity.patient_id, identity.accession_number) == ("P 1", "A-1")


@pytest.mark.parametrize(
    "character_set",
    ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 100"]],
)
def test_the_identity_is_decoded_by_its_character_set(
    tmp_path: Path, character_set: str | list[str]
) -> None:
    path = write_instance(
        tmp_path, SpecificCharacterSet=character_set, PatientID="Zoë", AccessionNumber=""
    )
    assert read_identity(path).patient_id == "Zoë"


def test_an_unknown_character_set_is_read_as_well_as_can_be(tmp_path: Path) -> None:
    path = write_instance(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientID="P1")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"KLINGON 42"))
    assert read_identity(path).patient_id == "P1"


def test_an_absent_identity_is_empty(tmp_path: Path) -> None:
    identity = read_identity(write_instance(tmp_path, PatientID=None))
    assert (identity.patient_id, identity.accession_number) == ("", "")

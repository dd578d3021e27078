"""What a message says about the study, read from the header of one of its instances.

Nothing is made up: what the header does not say is sent empty.
Source: contract §3.1, §3.3; DICOM PS3.5 §6.1.2, PS3.3 §C.12.1.1.2.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.charset import STAND_ALONE_ENCODINGS, convert_encodings, decode_bytes
from pydicom.tag import Tag

from pacsor_tasks.dicom.elements import Buffer, find
from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.errors import BadResponse

CHARACTER_SET = int(Tag("SpecificCharacterSet"))
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "AccessionNumber", "Modality", "SeriesDescription",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "BodyPartExamined", "StudyInstanceUID", "SeriesInstanceUID",
)  # fmt: skip
TAGS = {keyword: int(Tag(keyword)) for keyword in KEYWORDS}
#: Without these a message is whole: one that is longer than any text of its kind is left empty.
DISPENSABLE = frozenset(
    TAGS[keyword]
    for keyword in (
        "Modality", "SeriesDescription", "PatientBirthDate", "PatientSex", "BodyPartExamined",
    )
)  # fmt: skip
INDISPENSABLE = frozenset({CHARACTER_SET, *TAGS.values()}) - DISPENSABLE
#: Bytes after which a person name is back in its first character set (PS3.5 §6.1.2.5.3).
NAME_DELIMITERS = {ord("^"), ord("=")}


# No repr: a traceback or a log line must not show a patient.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StudyMetadata:
    """Decoded text, not escaped; empty where the header says nothing."""

    study_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    #: alphabetic group, components parted by `^` in DICOM's order
    patient_name: str = ""
    #: YYYYMMDD or empty
    patient_birth_date: str = ""
    #: M, F, O or empty
    patient_sex: str = ""
    accession_number: str = ""
    modality: str = ""
    body_part_examined: str = ""
    series_description: str = ""
    series_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""


def read_study_metadata(path: Path, *, default_issuer: str) -> StudyMetadata:
    """Read the header of one instance: no pixel data, memory bounded whatever the file.

    Args:
        path: A DICOM file.
        default_issuer: IssuerOfPatientID where the header has none.

    Raises:
        BadResponse: The file is not there, is not readable as DICOM, has no StudyInstanceUID, or an
            identity so long that it cannot be meant; names the tag.
    """
    values = _decoded(_read(path))
    if not values["StudyInstanceUID"]:
        raise BadResponse("no StudyInstanceUID")
    return metadata_from(values, default_issuer=default_issuer)


def metadata_from(given: Mapping[str, str], *, default_issuer: str) -> StudyMetadata:
    """A study's data from decoded text.

    Args:
        given: By DICOM keyword; what is missing is empty.
        default_issuer: As above.
    """
    values = dict.fromkeys(KEYWORDS, "") | dict(given)
    return StudyMetadata(
        study_uid=values["StudyInstanceUID"],
        patient_id=values["PatientID"],
        issuer_of_patient_id=values["IssuerOfPatientID"] or default_issuer,
        patient_name=values["PatientName"].partition("=")[0].strip(),
        patient_birth_date=_date(values["PatientBirthDate"]),
        patient_sex=_sex(values["PatientSex"]),
        accession_number=values["AccessionNumber"],
        modality=values["Modality"],
        body_part_examined=values["BodyPartExamined"],
        series_description=values["SeriesDescription"],
        series_uid=values["SeriesInstanceUID"],
        sop_instance_uid=values["SOPInstanceUID"],
        sop_class_uid=values["SOPClassUID"],
    )


def _read(path: Path) -> dict[int, bytes]:
    syntax, start = data_set_offset(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _found(data, start, syntax)
    except OSError as exc:
        raise BadResponse(f"the file cannot be read: {exc.strerror}") from exc


def _found(data: Buffer, start: int, syntax: str) -> dict[int, bytes]:
    try:
        return find(data, start, syntax, INDISPENSABLE | DISPENSABLE)
    except BadResponse:
        found = find(data, start, syntax, INDISPENSABLE)
    for tag in DISPENSABLE:
        with suppress(BadResponse):
            found |= find(data, start, syntax, frozenset({tag}))
    return found


def _decoded(raw: Mapping[int, bytes]) -> dict[str, str]:
    encodings = _encodings(raw.get(CHARACTER_SET, b"").decode("ascii", "replace"))
    return {
        keyword: _text(raw.get(tag, b""), encodings, is_name=keyword == "PatientName")
        for keyword, tag in TAGS.items()
    }


def _encodings(character_set: str) -> list[str]:
    names = [name.strip(" \0") for name in character_set.split("\\")]
    # Some writers list a stand-alone set behind others; no other reading of it makes sense.
    alone = [name for name in names if name in STAND_ALONE_ENCODINGS]
    with warnings.catch_warnings():
        # pydicom corrects misspelt sets and replaces unknown ones, warning of both.
        warnings.simplefilter("ignore")
        return convert_encodings(alone[:1] or names)


def _text(raw: bytes, encodings: list[str], *, is_name: bool) -> str:
    # The whole value is decoded before it is parted at `=`, `^` or a backslash: in a multi-byte
    # character set these bytes also stand inside a character.
    with warnings.catch_warnings():
        # What cannot be decoded becomes U+FFFD, with a warning.
        warnings.simplefilter("ignore")
        return decode_bytes(raw, encodings, NAME_DELIMITERS if is_name else set()).strip(" \0")


def _date(text: str) -> str:
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        return ""
    try:
        datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007 - a birth date has no time zone
    except ValueError:
        return ""
    return text


def _sex(text: str) -> str:
    return text.upper() if text.upper() in {"M", "F", "O"} else ""

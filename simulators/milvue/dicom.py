"""The DICOM the service returns: recaps, copies and reports made from what was uploaded."""

from __future__ import annotations

import functools
import io
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from simulators.milvue.received import COPIED, DEFLATED, Received
from simulators.part10 import read_head, text

COLUMNS, ROWS = 256, 192
CHARSET, PATIENT_ID, ACCESSION_NUMBER, STUDY_UID = (
    Tag(tag) for tag in (0x00080005, 0x00100020, 0x00080050, 0x0020000D)
)
#: Numbers of the result series: a PACS sorts them behind what the modality sent.
SERIES_NUMBER = {"recap": 901, "copy": 902, "report": 903}


@dataclass(frozen=True, slots=True)
class Body:
    """A Part-10 file: bytes of its own, then the rest of an uploaded file as it is on disk."""

    head: bytes
    tail: Path | None = None
    tail_offset: int = 0


@dataclass(frozen=True, slots=True)
class Wrong:
    """What to get wrong about a result's identity, for the checks of the client."""

    study_uid: bool = False
    patient_id: bool = False
    accession_number: bool = False


def result_uid(*parts: str) -> str:
    """The same UID for the same parts, so a second download brings the same instances."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(parts)).int}"


def recap(source: Received, command: str, number: int, wrong: Wrong) -> Body:
    """A Secondary Capture that stands for one uploaded image."""
    dataset = _derived(source, command, "recap", wrong)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = result_uid(source.study_uid, command, source.sop_instance_uid, "recap")
    dataset.InstanceNumber = number
    dataset.Modality = "OT"
    dataset.Laterality = ""
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.BurnedInAnnotation = "YES"
    dataset.PatientOrientation = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.add_new(0x7FE00010, "OB", _recap_pixels(command))
    return Body(_encode(dataset))


def copy(source: Received, command: str, number: int, wrong: Wrong) -> Body:
    """A copy of an uploaded image under new UIDs, in its transfer syntax."""
    if source.transfer_syntax_uid == DEFLATED:
        dataset, tail, offset = dcmread(source.path), None, 0
    else:
        with source.path.open("rb") as file:
            dataset = read_head(file)
            tail, offset = source.path, file.tell()
    sop_instance_uid = result_uid(source.study_uid, command, source.sop_instance_uid, "copy")
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.SeriesInstanceUID = result_uid(source.study_uid, command, "copy")
    dataset.SeriesNumber = SERIES_NUMBER["copy"]
    dataset.SeriesDescription = f"{command} copy"
    dataset.InstanceNumber = number
    flavour = text(dataset, 0x00080008).split("\\")[2:]
    dataset.ImageType = ["DERIVED", "SECONDARY", *flavour]
    for tag, value in _wrong_values(source, wrong).items():
        dataset[tag] = _raw_element(tag, value, dataset.original_encoding)
    meta = _meta(source.sop_class_uid, sop_instance_uid, source.transfer_syntax_uid)
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return Body(buffer.getvalue(), tail, offset)


def report(source: Received, command: str, lines: list[str], wrong: Wrong) -> Body:
    """A Basic Text SR with one line of text per finding."""
    dataset = _derived(source, command, "report", wrong)
    dataset.SOPClassUID = BasicTextSRStorage
    dataset.SOPInstanceUID = result_uid(source.study_uid, command, "report", "1")
    dataset.InstanceNumber = 1
    dataset.Modality = "SR"
    now = datetime.now(UTC)
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.ReferencedPerformedProcedureStepSequence = Sequence()
    dataset.PerformedProcedureCodeSequence = Sequence()
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ConceptNameCodeSequence = Sequence(
        [_code("18748-4", "LN", "Diagnostic Imaging Report")]
    )
    dataset.ContentSequence = Sequence([_text_item(line) for line in lines or ["No finding"]])
    return Body(_encode(dataset))


def _derived(source: Received, command: str, kind: str, wrong: Wrong) -> Dataset:
    """A data set with the patient and study of the source, as its very bytes, and a new series."""
    dataset = Dataset()
    values = source.copied | _wrong_values(source, wrong)
    for tag in COPIED:
        value = values.get(tag, b"")
        if value or tag != CHARSET:
            dataset[tag] = _raw_element(tag, value, (False, True))
    # what is declared as read in this encoding is written as it is, not decoded and encoded again
    charset = dataset.get("SpecificCharacterSet") or "iso8859"
    dataset.set_original_encoding(False, True, convert_encodings(charset))
    dataset.SeriesInstanceUID = result_uid(source.study_uid, command, kind)
    dataset.SeriesNumber = SERIES_NUMBER[kind]
    dataset.SeriesDescription = f"{command} {kind}"
    dataset.Manufacturer = "Simulated AI"
    return dataset


def _wrong_values(source: Received, wrong: Wrong) -> dict[BaseTag, bytes]:
    values: dict[BaseTag, bytes] = {}
    if wrong.study_uid:
        values[STUDY_UID] = result_uid(source.study_uid, "wrong").encode()
    if wrong.patient_id:
        values[PATIENT_ID] = b"WRONG-PATIENT"
    if wrong.accession_number:
        values[ACCESSION_NUMBER] = b"WRONG-ACCESSION"
    return values


def _raw_element(
    tag: BaseTag, value: bytes, encoding: tuple[bool | None, bool | None]
) -> RawDataElement:
    """An element that is written as these bytes, whatever they are, padded to even length."""
    vr = dictionary_VR(tag)
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    is_implicit, is_little = encoding
    return RawDataElement(tag, vr, len(value), value, 0, bool(is_implicit), bool(is_little), True)


def _encode(dataset: Dataset) -> bytes:
    dataset.file_meta = _meta(dataset.SOPClassUID, dataset.SOPInstanceUID, ExplicitVRLittleEndian)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return meta


@functools.lru_cache(maxsize=16)
def _recap_pixels(command: str) -> bytes:
    """A grey wedge with a box drawn into it: cheap, and looks like something in a viewer."""
    wedge = np.linspace(0, 180, COLUMNS, dtype=np.uint8)
    pixels = np.tile(wedge, (ROWS, 1))
    top = 20 + sum(command.encode()) % 60
    pixels[top : top + 80, 60:190] = 255
    pixels[top + 3 : top + 77, 63:187] = 40
    return pixels.tobytes()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _text_item(line: str) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "TEXT"
    item.ConceptNameCodeSequence = Sequence([_code("121071", "DCM", "Finding")])
    item.TextValue = line
    return item

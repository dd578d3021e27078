"""Instances made for a test: small, under new UIDs, with nobody's data."""

from __future__ import annotations

import itertools
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CR = "1.2.840.10008.5.1.4.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
_numbers = itertools.count(1)


def new_uid() -> str:
    """A UID nobody has."""
    return str(generate_uid())


def make_dataset(study_uid: str | None = None, **attributes: Any) -> Dataset:
    """A small CR image; `attributes` by keyword, None leaves one out."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR, new_uid()
    dataset.StudyInstanceUID = study_uid or new_uid()
    dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID[:60]}.1"
    dataset.PatientName, dataset.PatientID = "Test^Only", "T1"
    dataset.Modality, dataset.InstanceNumber = "CR", str(next(_numbers))
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 16, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = bytes(16 * 16 * 2)
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def write_instance(
    directory: Path,
    study_uid: str | None = None,
    *,
    syntax: str = ExplicitVRLittleEndian,
    n_pixel_bytes: int = 512,
    **attributes: Any,
) -> Path:
    """A DICOM file named by its SOP Instance UID."""
    dataset = make_dataset(study_uid, PixelData=bytes(n_pixel_bytes), **attributes)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{dataset.SOPInstanceUID}.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_study(directory: Path, n_instances: int, **options: Any) -> tuple[str, list[Path]]:
    """A study's UID and its files."""
    study_uid = new_uid()
    return study_uid, [write_instance(directory, study_uid, **options) for _ in range(n_instances)]


def encode(dataset: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """The data set as it goes over the wire."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little)
    return buffer.getvalue()

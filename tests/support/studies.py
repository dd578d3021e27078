"""Made-up studies as files."""

from __future__ import annotations

import os
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def make_study(directory: Path, n: int = 2, *, side: int = 64, **attributes: str) -> list[Path]:
    """Write a study of `n` DX-like instances of side by side pixels of 16 bits.

    Args:
        directory: Made if missing.
        n: Instances.
        side: Rows and columns; an instance has 2·side² bytes of pixels.
        attributes: Any DICOM keyword over the defaults, e.g. PatientID, StudyInstanceUID.
    """
    directory.mkdir(parents=True, exist_ok=True)
    study = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), **attributes}
    return [_instance(directory / f"{i:05}.dcm", i, side, study) for i in range(1, n + 1)]


def study_uid_of(files: list[Path]) -> str:
    """StudyInstanceUID of the first file."""
    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def _instance(path: Path, number: int, side: int, study: dict[str, str]) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID, ds.SOPInstanceUID = DX, generate_uid()
    ds.StudyDate = ds.ContentDate = "20260102"
    ds.StudyTime = ds.ContentTime = "101010"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "ACC-1", "DX", "TEST"
    ds.ReferringPhysicianName = ""
    ds.PatientName, ds.PatientID = "TEST^STUDY", "PX-1"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.BodyPartExamined, ds.StudyID = "HAND", "1"
    ds.SeriesNumber, ds.InstanceNumber = 1, number
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = os.urandom(2 * side * side)
    for keyword, value in study.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path

"""Instances to send: header as modalities write it, noise for pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

#: Every profile takes it.
DX = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass(frozen=True, slots=True)
class InstanceSet:
    """One size of instance."""

    name: str
    n_instances: int
    #: of the pixels, which make nearly all of it
    n_rows: int
    n_columns: int
    n_frames: int = 1

    def files(self, directory: Path) -> list[Path]:
        """Its files, made where they are not there yet."""
        where = directory / f"{self.name}-{self.n_instances}"
        done = where / ".done"
        paths = [where / f"{n:05}.dcm" for n in range(self.n_instances)]
        if not done.exists():
            where.mkdir(parents=True, exist_ok=True)
            study_uid, series_uid = generate_uid(), generate_uid()
            for number, path in enumerate(paths, 1):
                self._write(path, number, study_uid, series_uid)
            done.touch()
        return paths

    def _write(self, path: Path, number: int, study_uid: str, series_uid: str) -> None:
        dataset = _header(number, study_uid, series_uid)
        dataset.Rows, dataset.Columns = self.n_rows, self.n_columns
        if self.n_frames > 1:
            dataset.NumberOfFrames = self.n_frames
        frame_bytes = 2 * self.n_rows * self.n_columns
        dataset.PixelData = b"\0\0"
        dataset["PixelData"].VR = "OW"
        dataset.save_as(path, enforce_file_format=True)
        with path.open("r+b") as file:
            # The pixels' length and value, so that a large one is never held in memory.
            file.seek(-6, os.SEEK_END)
            file.write((frame_bytes * self.n_frames).to_bytes(4, "little"))
            for _ in range(self.n_frames):
                file.write(os.urandom(frame_bytes))


SETS = (
    InstanceSet("small", 2000, 70, 64),
    InstanceSet("CT", 300, 512, 512),
    InstanceSet("DX", 24, 3000, 2500),
)
#: 2 GB in one multi-frame instance: for the memory only.
HUGE = InstanceSet("2 GB", 1, 1024, 1024, 1000)


def _header(number: int, study_uid: str, series_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet, dataset.ImageType = "ISO_IR 192", ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, generate_uid()
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260102"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101010.000"
    dataset.AccessionNumber, dataset.Modality, dataset.Manufacturer = "ACC-1", "DX", "TEST"
    dataset.InstitutionName, dataset.StationName = "General Hospital", "STN01"
    dataset.ReferringPhysicianName, dataset.StudyDescription = "REF^DOC", "CHEST PA/LAT"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1234", "L", "Exam"
    dataset.ProcedureCodeSequence = Sequence([code])
    dataset.PatientName, dataset.PatientID = "TEST^STUDY", "PX-1"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "19700101", "O", "055Y"
    dataset.BodyPartExamined, dataset.KVP, dataset.SoftwareVersions = "CHEST", "120", ["1", "B2"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, number
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.PixelSpacing = 0, [0.7, 0.7]
    block = dataset.private_block(0x0029, "TEST PRIVATE", create=True)
    block.add_new(0x10, "LO", "private value")
    block.add_new(0x20, "OB", b"\1" * 600)
    return dataset

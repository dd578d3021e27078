"""What the service reads of an uploaded file: its identity, and where the pixels are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom.dataset import FileDataset
from pydicom.tag import BaseTag, Tag

from pacsor_tasks.errors import BadResponse
from simulators.part10 import raw, read_head, text

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
DEFLATED = "1.2.840.10008.1.2.1.99"

#: Copied from an upload into its results, as the bytes they came in: patient, study, charset.
COPIED: tuple[BaseTag, ...] = tuple(
    Tag(tag)
    for tag in (
        0x00080005,  # SpecificCharacterSet
        0x00080020,  # StudyDate
        0x00080030,  # StudyTime
        0x00080050,  # AccessionNumber
        0x00080090,  # ReferringPhysicianName
        0x00081030,  # StudyDescription
        0x00100010,  # PatientName
        0x00100020,  # PatientID
        0x00100021,  # IssuerOfPatientID
        0x00100030,  # PatientBirthDate
        0x00100040,  # PatientSex
        0x0020000D,  # StudyInstanceUID
        0x00200010,  # StudyID
    )
)


@dataclass(frozen=True, slots=True)
class Received:
    """One uploaded Part-10 file."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    modality: str
    #: offset of the Pixel Data element; None without one
    pixel_offset: int | None
    #: length of the Pixel Data; UNDEFINED_LENGTH when encapsulated, 0 when pruned, None without
    pixel_length: int | None
    #: patient and study attributes as raw bytes, by tag
    copied: dict[BaseTag, bytes] = field(repr=False)
    #: the file is still at `path`
    is_kept: bool = True

    @property
    def is_image(self) -> bool:
        """It has pixels that are not empty (of a deflated file: taken on trust)."""
        return bool(self.pixel_length) or self.transfer_syntax_uid == DEFLATED

    @property
    def is_compressed(self) -> bool:
        """Its pixels are encapsulated."""
        return self.pixel_length == UNDEFINED_LENGTH


def read_received(path: Path) -> Received:
    """Read the header of an uploaded file.

    Raises:
        BadResponse: It is no Part-10 DICOM file, or lacks one of its UIDs.
    """
    with path.open("rb") as file:
        dataset = read_head(file)
        offset, length = (None, None) if _is_deflated(dataset) else _pixels(file, dataset)
    uids = {
        "SOPInstanceUID": text(dataset, 0x00080018),
        "SOPClassUID": text(dataset, 0x00080016),
        "StudyInstanceUID": text(dataset, 0x0020000D),
        "SeriesInstanceUID": text(dataset, 0x0020000E),
    }
    missing = sorted(name for name, uid in uids.items() if not uid)
    if missing:
        raise BadResponse(f"DICOM without {', '.join(missing)}")
    return Received(
        path=path,
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=text(dataset.file_meta, 0x00020010),
        modality=text(dataset, 0x00080060),
        pixel_offset=offset,
        pixel_length=length,
        copied={tag: raw(dataset, tag) for tag in COPIED if tag in dataset},
    )


def _is_deflated(dataset: FileDataset) -> bool:
    return text(dataset.file_meta, 0x00020010) == DEFLATED


def _pixels(file: BinaryIO, dataset: FileDataset) -> tuple[int | None, int | None]:
    """Offset and length of a Pixel Data element where the reading stopped."""
    offset = file.tell()
    head = file.read(12)
    is_implicit, is_little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if is_little else "big"
    if len(head) < 8:
        return None, None
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag != PIXEL_DATA:
        return None, None
    at = 4 if is_implicit else 8
    return offset, int.from_bytes(head[at : at + 4], order)

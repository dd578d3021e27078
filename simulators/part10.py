"""Reading DICOM files as a peer does: only the head, values as the bytes that came."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError

from pacsor_tasks.errors import BadResponse

UID_TEXT = re.compile(r"[0-9]+(\.[0-9]+)*")


def read_head(file: BinaryIO) -> FileDataset:
    """The data set up to the pixels, its values still raw bytes; the file is left where they begin.

    Raises:
        BadResponse: It is no Part-10 DICOM file.
    """
    try:
        return dcmread(file, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError) as exc:
        raise BadResponse(f"not a DICOM file: {type(exc).__name__}") from exc


def raw(dataset: Dataset, tag: int) -> bytes:
    """An element's value as the bytes that came, without decoding (pydicom warns on odd values)."""
    if tag not in dataset:
        return b""
    item = dataset.get_item(tag)
    if isinstance(item, RawDataElement):
        return item.value or b""
    value = item.value
    values = [value] if isinstance(value, str) or value is None else value
    return "\\".join(str(one or "") for one in values).encode()


def text(dataset: Dataset, tag: int) -> str:
    """A UID or code as text, without padding."""
    return raw(dataset, tag).decode("ascii", "replace").strip("\0 ")


def file_name(uid: str) -> str:
    """A file name from a UID, which came from outside."""
    if len(uid) <= 64 and UID_TEXT.fullmatch(uid):
        return uid
    return sha256(uid.encode()).hexdigest()[:32]

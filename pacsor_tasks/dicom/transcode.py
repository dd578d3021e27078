"""Re-encoding to an uncompressed transfer syntax, for a PACS that refuses the one we have.

Bounded: one frame in memory, whatever the instance. The SOP Instance UID is kept: decompressing
loses nothing that was there. LossyImageCompression stays as it is, or is set where the old syntax
alone said it. Colour comes out as RGB, with its PhotometricInterpretation.

Source: DICOM PS3.5 §8.2, Annex A; PS3.3 §C.7.6.1.1.5, §C.7.6.3.
"""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomFileLike
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.errors import Permanent, Retryable

NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
#: Syntaxes that can only hold lossy images.
LOSSY = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
#: FloatPixelData, DoubleFloatPixelData, PixelData.
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
EXTENDED_OFFSETS = (0x7FE00001, 0x7FE00002)
TRAILING_PADDING = 0xFFFCFFFC
UNDEFINED = 0xFFFFFFFF
MAX_VALUE_BYTES = 0xFFFFFFFE
#: As one little endian number each.
ITEM, SEQUENCE_END = 0xE000FFFE, 0xE0DDFFFE
CHUNK_BYTES = 1 << 20
#: Words of the binary VRs that depend on byte order (bytes).
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
#: What pydicom, numpy and GDCM raise on data sets and codestreams that are not right.
_NOT_RIGHT = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, NotImplementedError,
    RuntimeError, EOFError, BytesLengthException, struct.error, zlib.error, MemoryError,
)  # fmt: skip


def is_native(transfer_syntax_uid: str) -> bool:
    """Whether pixels are uncompressed and the data set is not deflated."""
    return transfer_syntax_uid in NATIVE


def can_transcode(transfer_syntax_uid: str) -> bool:
    """Whether instances of this syntax can be made uncompressed here."""
    if is_native(transfer_syntax_uid) or transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return True
    try:
        return bool(get_decoder(transfer_syntax_uid).is_available)
    except NotImplementedError:
        return False


def transcode(path: Path, target: str, out: BinaryIO) -> None:
    """Write a file's data set, re-encoded.

    Args:
        path: A DICOM file.
        target: Implicit or Explicit VR Little Endian.
        out: Receives the data set alone, from its present position; read, write and seek.

    Raises:
        Permanent: The data set cannot be decoded; says why, without patient data.
        Retryable: Disk trouble here.
        BadResponse: It is not a DICOM file.
    """
    syntax, start = data_set_offset(path)
    try:
        # pydicom warns about sloppy values; what is wrong in the original stays as wrong.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(start)
            if syntax == DeflatedExplicitVRLittleEndian:
                with tempfile.TemporaryFile(dir=path.parent) as inflated:
                    _inflate(file, inflated)
                    inflated.seek(0)
                    _encode(_Job(inflated, ExplicitVRLittleEndian, target, out))
            else:
                _encode(_Job(file, syntax, target, out))
    except OSError as exc:
        raise Retryable(f"re-encoding failed: {exc.strerror}") from exc
    except _NOT_RIGHT as exc:
        # Not the cause's own words: they may quote a value.
        name = UID(syntax).name
        raise Permanent(f"{name} cannot be made uncompressed: {type(exc).__name__}") from exc


class _Job(NamedTuple):
    """A data set to re-encode: from where, from what, to what, to where."""

    file: BinaryIO
    syntax: str
    target: str
    out: BinaryIO

    @property
    def is_implicit(self) -> bool:
        return self.syntax == ImplicitVRLittleEndian

    @property
    def is_little(self) -> bool:
        return self.syntax != ExplicitVRBigEndian


def _encode(job: _Job) -> None:
    """Re-encode the data set that begins at the file's position."""
    if job.syntax == job.target:
        shutil.copyfileobj(job.file, job.out, CHUNK_BYTES)
        return
    head = read_dataset(
        job.file, job.is_implicit, job.is_little, stop_when=lambda tag, *_: tag in PIXEL_TAGS
    )
    pixels = _read_pixel_head(job)
    if pixels is None:
        _write(job, head)
        return
    if pixels.length == UNDEFINED:
        _write_decompressed(job, head, pixels)
        _skip_items(job.file, pixels.at)
    else:
        _write(job, head)
        pixels.write(job)
        _copy_words(job, pixels)
    tail = read_dataset(job.file, job.is_implicit, job.is_little)
    tail.pop(TRAILING_PADDING, None)
    _write(job, tail)


class _PixelHead(NamedTuple):
    """The head of a pixel data element."""

    tag: int
    vr: str
    length: int
    #: where the value begins
    at: int

    def write(self, job: _Job) -> None:
        group, element = self.tag >> 16, self.tag & 0xFFFF
        if job.target == ImplicitVRLittleEndian:
            job.out.write(struct.pack("<HHL", group, element, self.length))
        else:
            job.out.write(struct.pack("<HH2sHL", group, element, self.vr.encode(), 0, self.length))


def _read_pixel_head(job: _Job) -> _PixelHead | None:
    """The pixel data element at the file's position; None at the end of the data set."""
    order = "<" if job.is_little else ">"
    head = job.file.read(8)
    if len(head) < 8:
        return None
    if job.is_implicit:
        group, element, length = struct.unpack(f"{order}HHL", head)
        vr = "OW"
    else:
        group, element, vr_bytes = struct.unpack(f"{order}HH2s2x", head)
        vr, (length,) = vr_bytes.decode(), struct.unpack(f"{order}L", job.file.read(4))
    return _PixelHead(group << 16 | element, vr, length, job.file.tell())


def _write_decompressed(job: _Job, head: Dataset, pixels: _PixelHead) -> None:
    frames = _frames(job, head, pixels)
    first, properties = next(frames)
    n_frames = int(head.get("NumberOfFrames") or 1)
    size = n_frames * first.nbytes
    if size > MAX_VALUE_BYTES:
        raise ValueError("decompressed it is longer than an element can be")
    _describe(head, properties, job.syntax)
    _write(job, head)
    vr = "OB" if head.BitsAllocated <= 8 else "OW"
    pixels._replace(vr=vr, length=size + size % 2).write(job)
    written = 0
    for frame, _ in itertools.chain([(first, properties)], frames):
        job.out.write(frame.data.cast("B"))
        written += frame.nbytes
    if written != size:
        raise ValueError("it does not hold as many frames as it says")
    job.out.write(bytes(size % 2))


def _frames(
    job: _Job, head: Dataset, pixels: _PixelHead
) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    options = as_pixel_options(head)
    options |= {
        "transfer_syntax_uid": UID(job.syntax),
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.vr,
    }
    job.file.seek(pixels.at)
    decoder = get_decoder(job.syntax)
    # iter_array (pydicom 3.0.2) fails on samples whose sign differs from the header; as_array
    # corrects them, but for the last of many frames it would look through all the others.
    if options["number_of_frames"] == 1:
        decoded = iter([decoder.as_array(job.file, index=0, **options)])
    else:
        decoded = decoder.iter_array(job.file, **options)
    for frame, properties in decoded:
        # A codec gives the narrowest type that holds the samples; the header says how wide.
        if frame.itemsize * 8 > head.BitsAllocated:
            raise ValueError("its samples are wider than it says")
        kind = "i" if frame.dtype.kind == "i" else "u"
        wide = frame.astype(f"<{kind}{head.BitsAllocated // 8}", copy=False)
        yield np.ascontiguousarray(wide), dict(properties)


def _describe(head: Dataset, properties: dict[str, Any], syntax: str) -> None:
    """Make the header say what the pixels now are."""
    head.PhotometricInterpretation = properties["photometric_interpretation"]
    if head.SamplesPerPixel > 1:
        head.PlanarConfiguration = properties["planar_configuration"]
    if syntax in LOSSY:
        head.LossyImageCompression = "01"
    for tag in EXTENDED_OFFSETS:
        head.pop(tag, None)
    # An icon may be compressed like the image; it is optional, and in a native syntax illegal.
    icons = head.get("IconImageSequence") or []
    if any("PixelData" in icon and icon["PixelData"].is_undefined_length for icon in icons):
        del head.IconImageSequence


def _write(job: _Job, dataset: Dataset) -> None:
    if not job.is_little:
        # pydicom converts numbers between byte orders, but not strings of words.
        for element in dataset.iterall():
            if element.VR in _WORDS and element.value:
                element.value = _swapped(element.value, _WORDS[element.VR])
    fp = DicomFileLike(job.out)
    fp.is_implicit_VR = job.target == ImplicitVRLittleEndian
    fp.is_little_endian = True
    write_dataset(fp, dataset)


def _copy_words(job: _Job, pixels: _PixelHead) -> None:
    """Copy a native pixel value, its words turned to little endian."""
    left = pixels.length
    while left:
        chunk = job.file.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise EOFError
        left -= len(chunk)
        job.out.write(chunk if job.is_little else _swapped(chunk, _WORDS.get(pixels.vr, 1)))


def _swapped(value: bytes, size: int) -> bytes:
    return np.frombuffer(value, f"u{size}").byteswap().tobytes()


def _skip_items(file: BinaryIO, at: int) -> None:
    """Go to the end of an encapsulated value."""
    file.seek(at)
    while True:
        tag, length = struct.unpack("<LL", file.read(8))
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise ValueError("an encapsulated value holds something that is not an item")
        file.seek(length, io.SEEK_CUR)


def _inflate(file: BinaryIO, out: BinaryIO) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    piece = b""
    while not inflater.eof and (piece := inflater.unconsumed_tail or file.read(CHUNK_BYTES)):
        out.write(inflater.decompress(piece, CHUNK_BYTES))
    out.write(inflater.flush())

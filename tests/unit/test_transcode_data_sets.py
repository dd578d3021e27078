"""Re-encoding to native syntaxes, on the files packaged with pydicom and pydicom-data."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from pacsor_tasks.dicom.transcode import can_transcode, transcode
from pacsor_tasks.errors import BadResponse, Permanent

TARGETS = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def packaged(name: str) -> Path:
    """A file of pydicom's own or of pydicom-data."""
    own = Path(pydicom.__file__).parent / "data" / "test_files" / name
    return own if own.exists() else Path(data_store.__file__).parent / "data" / name


def transcoded(path: Path, target: str = ExplicitVRLittleEndian) -> Dataset:
    out = io.BytesIO()
    transcode(path, target, out)
    out.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_dataset(out, target == ImplicitVRLittleEndian, True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(target)
    return dataset


def pixels(dataset: Dataset) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dataset.pixel_array


def read(name: str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(packaged(name))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("RG1_J2KR.dcm", "RG1_UNCR.dcm"),  # JPEG 2000 lossless radiographs
        ("RG3_J2KR.dcm", "RG3_UNCR.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),  # several frames
        ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm"),
        ("SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_16bit_2frame.dcm"),  # colour by plane
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),  # one bit per pixel
        ("rtdose_rle.dcm", "rtdose.dcm"),  # 32 bits
    ],
)
def test_lossless_pixels_are_those_of_the_uncompressed_original(
    name: str, truth: str, target: str
) -> None:
    result = transcoded(packaged(name), target)
    assert np.array_equal(pixels(result), pixels(read(truth)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name",
    [
        "RG1_J2KI.dcm",  # lossy JPEG 2000
        "SC_rgb_dcmtk_+eb+cy+np.dcm",  # JPEG baseline, subsampled YCbCr
        "SC_rgb_gdcm_KY.dcm",
        "examples_ybr_color.dcm",  # many frames
        "JPEGLSNearLossless_16.dcm",
        "SC_rgb_small_odd_jpeg.dcm",  # an odd number of bytes
        "J2K_pixelrep_mismatch.dcm",  # samples whose sign differs from the header
        "GDCMJ2K_TextGBR.dcm",
        "JPEG-LL.dcm",
        "image_dfl.dcm",
    ],
)
def test_pixels_are_what_a_viewer_would_show(name: str, target: str) -> None:
    result = transcoded(packaged(name), target)
    assert np.array_equal(pixels(result), pixels(read(name)))
    assert len(result.PixelData) % 2 == 0


@pytest.mark.parametrize(
    "name", ["RG1_J2KR.dcm", "emri_small_jpeg_2k_lossless.dcm", "MR_small_RLE.dcm"]
)
def test_every_other_element_is_kept(name: str) -> None:
    before, after = read(name), transcoded(packaged(name))
    kept = {e.tag for e in before if e.tag.group < 0x7FE0 and e.tag.element != 0}
    assert kept == {e.tag for e in after if e.tag.group < 0x7FE0}
    assert all(before[t].value == after[t].value for t in kept)
    assert before.SOPInstanceUID == after.SOPInstanceUID


def test_colour_is_described_as_it_now_is() -> None:
    result = transcoded(packaged("SC_rgb_dcmtk_+eb+cy+np.dcm"))
    assert (result.PhotometricInterpretation, result.PlanarConfiguration) == ("RGB", 0)


def test_lossy_stays_lossy() -> None:
    assert transcoded(packaged("RG1_J2KI.dcm")).LossyImageCompression == "01"
    assert "LossyImageCompression" not in read("JPEGLSNearLossless_16.dcm")
    assert transcoded(packaged("JPEGLSNearLossless_16.dcm")).LossyImageCompression == "01"


def test_words_of_big_endian_tables_are_turned() -> None:
    before, after = (
        read("gdcm-US-ALOKA-16_big.dcm"),
        transcoded(packaged("gdcm-US-ALOKA-16_big.dcm")),
    )
    words = np.frombuffer(before.SegmentedRedPaletteColorLookupTableData, ">u2")
    turned = np.frombuffer(after.SegmentedRedPaletteColorLookupTableData, "<u2")
    assert np.array_equal(turned, words)


def test_a_data_set_without_pixels_is_re_encoded() -> None:
    before, after = read("test-SR.dcm"), transcoded(packaged("test-SR.dcm"), ImplicitVRLittleEndian)
    assert before.to_json_dict() == after.to_json_dict()


def rle_file(tmp_path: Path) -> Path:
    """An RLE image with all that may surround pixels: icon, offsets, signature, padding."""
    dataset = read("MR_small_RLE.dcm")
    icon = Dataset()
    icon.add_new(0x7FE00010, "OB", encapsulate([b"\0" * 64]))
    icon["PixelData"].is_undefined_length = True
    dataset.IconImageSequence = Sequence([icon])
    dataset.ExtendedOffsetTable = struct.pack("<Q", 0)
    dataset.ExtendedOffsetTableLengths = struct.pack(
        "<Q", len(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    )
    signature = Dataset()
    signature.MACIDNumber = 1
    dataset.DigitalSignaturesSequence = Sequence([signature])
    dataset.add_new(0xFFFCFFFC, "OB", b"\0" * 64)
    path = tmp_path / "a.dcm"
    dataset.save_as(path)
    return path


def test_what_cannot_stay_goes_and_the_rest_stays(tmp_path: Path) -> None:
    result = transcoded(rle_file(tmp_path))
    assert "IconImageSequence" not in result
    assert "ExtendedOffsetTable" not in result
    assert 0xFFFCFFFC not in result
    assert result.DigitalSignaturesSequence[0].MACIDNumber == 1


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: setattr(d, "NumberOfFrames", 3), "MR_small_RLE.dcm"),  # more than there are
        (lambda d: setattr(d, "Rows", 100), "MR_small_RLE.dcm"),
        (lambda d: setattr(d, "Rows", 0), "MR_small_RLE.dcm"),
        (lambda d: d.__delitem__("BitsAllocated"), "MR_small_RLE.dcm"),
        (lambda d: setattr(d, "PixelData", encapsulate([b"rubbish!"])), "RG1_J2KR.dcm"),
    ],
)
def test_what_cannot_be_decoded_is_a_permanent_error(
    tmp_path: Path, change: Callable[[Dataset], None], name: str
) -> None:
    dataset = read(name)
    dataset.decode()
    change(dataset)
    dataset["PixelData"].is_undefined_length = True
    path = tmp_path / "a.dcm"
    dataset.save_as(path)
    with pytest.raises(Permanent, match=r"cannot be made uncompressed: \w+$"):
        transcode(path, ExplicitVRLittleEndian, io.BytesIO())


@pytest.mark.parametrize("cut", [10, 1000])
@pytest.mark.parametrize("name", ["RG1_J2KR.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"])
def test_a_file_cut_short_is_a_permanent_error(tmp_path: Path, name: str, cut: int) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(packaged(name).read_bytes()[:-cut])
    with pytest.raises(Permanent):
        transcode(path, ImplicitVRLittleEndian, io.BytesIO())


def test_what_is_not_dicom_is_a_bad_response(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(500))
    with pytest.raises(BadResponse):
        transcode(path, ExplicitVRLittleEndian, io.BytesIO())


@pytest.mark.parametrize(
    ("syntax", "is_possible"),
    [
        (JPEG2000Lossless, True),
        (RLELossless, True),
        (ExplicitVRLittleEndian, True),
        ("1.2.840.10008.1.2.1.99", True),
        ("1.2.840.10008.1.2.4.102", False),  # MPEG-4
        ("1.2.840.10008.1.2.4.201", False),  # HTJ2K: no decoder installed
        ("1.2.3", False),
    ],
)
def test_which_syntaxes_can_be_made_native(syntax: str, is_possible: bool) -> None:
    assert can_transcode(syntax) is is_possible

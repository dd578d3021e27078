"""Pruned copies against pydicom as the independent reader, over every file it ships."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from pacsor_tasks.milvue import pruning
from pacsor_tasks.milvue.outcomes import UnreadableInstance, UploadItem
from pacsor_tasks.milvue.pruning import PIXEL_GROUP_LENGTH, PIXEL_TAGS, pruned

UID = "1.2.826.0.1.3680043.8.498.1"
WITHOUT_META = {
    "no_meta",
    "rtstruct",
    "ExplVR_BigEndNoMeta",
    "ExplVR_LitEndNoMeta",
    "meta_missing_tsyntax",
}
SHIPPED = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
NAMES = sorted(p.stem for p in SHIPPED.glob("*.dcm") if p.stem not in WITHOUT_META)


def sent(path: Path) -> bytes:
    body = pruned(UploadItem(path, UID))
    data = b"".join(body)
    assert len(body) == len(data), "Content-Length would be wrong"
    return data


def parsed(data: bytes | Path) -> pydicom.FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = BytesIO(data) if isinstance(data, bytes) else data
        dataset = pydicom.dcmread(source)
        dataset.walk(lambda _ds, _element: None)  # decodes everything
    return dataset


def comparable(dataset: Dataset) -> dict[int, object]:
    return {
        int(tag): element.value
        for tag, element in ((e.tag, e) for e in dataset)
        if int(tag) not in {*PIXEL_TAGS, PIXEL_GROUP_LENGTH}
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_copy_differs_from_its_original_in_the_pixels_only(name: str) -> None:
    path = Path(str(get_testdata_file(f"{name}.dcm", download=False)))
    original, copy = parsed(path), parsed(sent(path))
    assert copy.file_meta == original.file_meta
    assert comparable(copy) == comparable(original)
    for tag in PIXEL_TAGS:
        assert (tag in copy) == (tag in original)
        if tag in copy:
            assert len(copy[tag].value or b"") == 0
            assert not copy[tag].is_undefined_length


@pytest.mark.parametrize("name", sorted(WITHOUT_META))
def test_a_file_without_usable_file_meta_is_refused_by_its_uid(name: str) -> None:
    path = Path(str(get_testdata_file(f"{name}.dcm", download=False)))
    with pytest.raises(UnreadableInstance, match=UID) as caught:
        sent(path)
    assert caught.value.sop_instance_uid == UID


def made(tmp_path: Path, syntax: str, **elements: object) -> Path:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = pydicom.uid.UID(UID)
    dataset.StudyInstanceUID = "1.2.3"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(UID)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if syntax == JPEGBaseline8Bit else "OW"
    path = tmp_path / "made.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def icon(pixels: bytes) -> Dataset:
    item = Dataset()
    item.Rows, item.Columns = 2, 2
    item.add_new(0x7FE00010, "OW", pixels)
    return item


SYNTAXES = [
    pytest.param(ImplicitVRLittleEndian, id="implicit little endian"),
    pytest.param(ExplicitVRLittleEndian, id="explicit little endian"),
    pytest.param(ExplicitVRBigEndian, id="explicit big endian"),
    pytest.param(DeflatedExplicitVRLittleEndian, id="deflated"),
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nested_pixels_and_what_follows_the_pixels_stay(tmp_path: Path, syntax: str) -> None:
    sequence = pydicom.Sequence([icon(b"\1\2\3\4")])
    path = made(
        tmp_path,
        syntax,
        IconImageSequence=sequence,
        PixelData=b"\xab\xcd" * 500,
        DataSetTrailingPadding=b"\0\0\0\0",
    )
    copy = parsed(sent(path))
    assert copy.IconImageSequence[0].PixelData == b"\1\2\3\4"
    assert copy.PixelData in {b"", None}
    assert copy.DataSetTrailingPadding == b"\0\0\0\0"
    assert b"\xab\xcd\xab\xcd" not in sent(path)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_are_emptied_too(tmp_path: Path, syntax: str, keyword: str) -> None:
    path = made(tmp_path, syntax, **{keyword: struct.pack("<64d", *range(64))})
    copy = parsed(sent(path))
    assert keyword in copy
    assert not copy[keyword].value


def test_encapsulated_pixels_become_a_native_element_of_length_zero(tmp_path: Path) -> None:
    # A fragment that holds the bytes of a sequence delimiter: searching would stop there.
    fragment = b"\xff\xd8" + b"\xfe\xff\xdd\xe0\0\0\0\0" + b"pixels" * 10
    path = made(
        tmp_path,
        JPEGBaseline8Bit,
        PixelData=encapsulate([fragment]),
        DataSetTrailingPadding=b"tail",
    )
    data = sent(path)
    assert b"\xe0\x7f\x10\x00OB\0\0\0\0\0\0" in data
    assert b"pixels" not in data
    assert data.endswith(b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0tail")


def test_a_retired_group_length_of_the_pixel_group_is_dropped(tmp_path: Path) -> None:
    path = made(tmp_path, ExplicitVRLittleEndian, PixelData=b"\xab\xcd")
    pixels = b"\xe0\x7f\x10\x00OW"
    raw = path.read_bytes()
    group_length = b"\xe0\x7f\x00\x00UL\4\0\x0e\0\0\0"
    path.write_bytes(raw.replace(pixels, group_length + pixels))
    data = sent(path)
    assert group_length not in data
    assert data.endswith(pixels + bytes(6))


def test_an_instance_without_pixels_goes_as_it_is() -> None:
    path = Path(str(get_testdata_file("reportsi.dcm", download=False)))
    assert sent(path) == path.read_bytes()


def test_a_file_cut_off_inside_its_pixels_is_still_pruned(tmp_path: Path) -> None:
    whole = made(tmp_path, ExplicitVRLittleEndian, PixelData=b"\xab\xcd" * 500).read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(whole[:-300])
    assert sent(path).endswith(b"\xe0\x7f\x10\x00OW" + bytes(6))


def test_fragments_cut_off_are_still_pruned(tmp_path: Path) -> None:
    path = made(tmp_path, JPEGBaseline8Bit, PixelData=encapsulate([b"\xab\xcd" * 500]))
    path.write_bytes(path.read_bytes()[:-8])  # the sequence delimiter
    assert sent(path).endswith(b"\xe0\x7f\x10\x00OB" + bytes(6))


def meta_and(dataset: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    element = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(128) + b"DICM" + element + dataset


def nested(depth: int) -> bytes:
    sequence, item = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return (sequence + item) * depth


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "no DICM", id="empty file"),
        pytest.param(b"not a dicom file" * 20, "no DICM", id="another format"),
        pytest.param(bytes(128) + b"DICM", "no transfer syntax", id="nothing after the prefix"),
        pytest.param(meta_and(b"\x08\0\x05\0", b"x" * 200), "no transfer syntax", id="no UID"),
        pytest.param(
            meta_and(b"\x08\0\x05\0CS\0\0\x08\0\x06\0\2\0\0\0"), "no VR", id="VRs only at first"
        ),
        pytest.param(meta_and(b"\x08\0\x05\0OB\0\0"), "ends in its header", id="cut in a head"),
        pytest.param(meta_and(nested(3)), "ends in its header", id="cut in a sequence"),
        pytest.param(meta_and(nested(40)), "nested", id="nested without end"),
        pytest.param(
            meta_and(b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\x08\0\x05\0CS\0\0"),
            "not an item",
            id="sequence of no items",
        ),
        pytest.param(
            meta_and(b"no deflate stream", b"1.2.840.10008.1.2.1.99"),
            "not well-formed",
            id="deflated in name only",
        ),
    ],
)
def test_a_file_that_is_no_dicom_says_so_without_repeating_it(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "bad.dcm"
    path.write_bytes(data)
    with pytest.raises(UnreadableInstance, match=reason):
        sent(path)


def test_a_missing_file_is_unreadable_and_its_path_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInstance, match="No such file") as caught:
        sent(tmp_path / "DOE^JOHN.dcm")
    assert "DOE" not in str(caught.value)


def test_un_of_undefined_length_is_read_as_implicit(tmp_path: Path) -> None:
    inner = b"\x08\x00\x05\x00\x02\x00\x00\x00AB"  # implicit VR inside explicit
    unknown = (
        b"\x09\x00\x01\x10UN\0\0\xff\xff\xff\xff"
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
        b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    path = tmp_path / "un.dcm"
    path.write_bytes(meta_and(unknown + b"\xe0\x7f\x10\x00OW\0\0\4\0\0\0\1\2\3\4"))
    assert sent(path) == meta_and(unknown + b"\xe0\x7f\x10\x00OW" + bytes(6))


def test_a_deflated_instance_with_much_beside_its_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "MAX_DEFLATED_BYTES", 1000)
    path = made(tmp_path, DeflatedExplicitVRLittleEndian, EncapsulatedDocument=bytes(5000))
    with pytest.raises(UnreadableInstance, match="deflated, with more than"):
        sent(path)


def test_pruning_a_large_instance_takes_no_memory_for_its_pixels(tmp_path: Path) -> None:
    path = made(tmp_path, ExplicitVRLittleEndian, PixelData=b"\0\0")
    raw = path.read_bytes()[:-2]
    size = 300_000_000
    with path.open("wb") as file:
        file.write(raw[:-4] + struct.pack("<I", size))
        file.truncate(len(raw) + size)  # sparse
    deflated = tmp_path / "deflated.dcm"
    squeeze = zlib.compressobj(wbits=-15)
    with deflated.open("wb") as file:
        file.write(meta_and(b"", b"1.2.840.10008.1.2.1.99"))
        file.write(squeeze.compress(b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", size // 10)))
        for _ in range(10):
            file.write(squeeze.compress(bytes(size // 100)))
        file.write(squeeze.flush())
    tracemalloc.start()
    try:
        assert len(sent(path)) < 2000
        assert len(sent(deflated)) < 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000

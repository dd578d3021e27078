"""PACSs that refuse a compressed syntax get an uncompressed copy that other programs find right."""

from __future__ import annotations

import subprocess
from pathlib import Path

import data_store
import pydicom
import pytest
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.dicom.scu import StoreItem, store
from pacsor_tasks.errors import Rejected
from tests.support.pacs_peers import (
    Answers,
    data_set_bytes,
    item_of,
    orthanc,
    received,
    scripted,
    storescp,
    write_instance,
)
from tests.support.peers import require_program


def packaged(name: str, key: int = 0) -> StoreItem:
    """A file of pydicom's own or of pydicom-data."""
    own = Path(pydicom.__file__).parent / "data" / "test_files" / name
    return item_of(own if own.exists() else Path(data_store.__file__).parent / "data" / name, key)


def run(program: str, *arguments: str | Path) -> str:
    command = [str(require_program(program)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def complaints(path: Path) -> set[str]:
    """What dciodvfy finds wrong."""
    lines = run("dciodvfy", path).splitlines()
    return {line for line in lines if line.startswith("Error")}


def dumped(path: Path) -> list[str]:
    """dcmdump's lines for everything before the pixel data, without retired group lengths."""
    lines = run("dcmdump", "-q", "+L", path).splitlines()
    kept = (line.split("#")[0].rstrip() for line in lines if line.lstrip().startswith("("))
    return [
        line
        for line in kept
        if line.lstrip() < "(7fe0" and not line.startswith("(0002") and ",0000)" not in line[:11]
    ]


DEFLATED = "image_dfl.dcm"
COMPRESSED = [
    "RG1_J2KR.dcm",  # JPEG 2000 lossless radiographs
    "RG3_J2KR.dcm",
    "RG1_J2KI.dcm",  # JPEG 2000 lossy
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",  # JPEG baseline
    "JPEG-LL.dcm",  # JPEG lossless
    DEFLATED,
]


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_accepted_compressed_instance_goes_as_it_is(tmp_path: Path, name: str) -> None:
    item, answers = packaged(name), Answers()
    with storescp(tmp_path / "in", "+xa") as pacs:
        store(pacs, [item], answers)
    arrived = received(tmp_path / "in")[item.sop_instance_uid]
    assert answers.statuses == [0]
    assert read_header(arrived) == read_header(item.path)
    sent = data_set_bytes(item.path)
    # The deflated one is odd: it is padded on the wire.
    assert data_set_bytes(arrived) == sent + b"\0" * (len(sent) % 2)


@pytest.mark.parametrize(
    ("option", "syntax"), [("+x=", ExplicitVRLittleEndian), ("+xi", ImplicitVRLittleEndian)]
)
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_refused_one_goes_uncompressed_and_other_programs_find_it_right(
    tmp_path: Path, name: str, option: str, syntax: str
) -> None:
    item, answers = packaged(name), Answers()
    with storescp(tmp_path / "in", option) as pacs:
        store(pacs, [item], answers)
    arrived = received(tmp_path / "in")[item.sop_instance_uid]
    assert answers.statuses == [0]
    assert read_header(arrived).transfer_syntax_uid == syntax
    before, after = dumped(item.path), dumped(arrived)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    # Only the colour space may have changed, and in implicit VR what private elements were.
    allowed = ("(0028,0004)", "(0013,") if syntax == ImplicitVRLittleEndian else ("(0028,0004)",)
    assert all(new.startswith(allowed) for _, new in changed), changed
    # dciodvfy does not inflate.
    assert name == DEFLATED or complaints(arrived) <= complaints(item.path)


def test_dcmtk_decompresses_to_the_same_pixels(tmp_path: Path) -> None:
    item = packaged("JPEG-LL.dcm")
    with storescp(tmp_path / "in") as pacs:
        store(pacs, [item], Answers())
    run("dcmdjpeg", item.path, tmp_path / "truth.dcm")
    arrived = received(tmp_path / "in")[item.sop_instance_uid]
    truth = pydicom.dcmread(tmp_path / "truth.dcm")
    assert pydicom.dcmread(arrived).PixelData == truth.PixelData


def test_one_association_carries_both_kinds(tmp_path: Path) -> None:
    native, compressed = item_of(write_instance(tmp_path)), packaged("RG1_J2KI.dcm", 1)
    answers = Answers()
    contexts = [
        (native.sop_class_uid, [ExplicitVRLittleEndian]),
        (compressed.sop_class_uid, [ImplicitVRLittleEndian]),
    ]
    with scripted(contexts) as pacs:
        store(pacs.pacs, [compressed, native], answers)
    assert answers.statuses == [0, 0]
    assert pacs.proposals == [
        [
            (compressed.sop_class_uid, [JPEG2000]),
            (native.sop_class_uid, [ExplicitVRLittleEndian]),
            (compressed.sop_class_uid, [ExplicitVRLittleEndian]),
            (compressed.sop_class_uid, [ImplicitVRLittleEndian]),
        ]
    ]


def test_native_syntaxes_are_turned_into_each_other(tmp_path: Path) -> None:
    items = [
        item_of(write_instance(tmp_path, transfer_syntax_uid=syntax))
        for syntax in (ExplicitVRLittleEndian, "1.2.840.10008.1.2.2")
    ]
    with storescp(tmp_path / "in", "+xi") as pacs:
        store(pacs, items, Answers())
    arrived = received(tmp_path / "in")
    for item in items:
        path = arrived[item.sop_instance_uid]
        assert read_header(path).transfer_syntax_uid == ImplicitVRLittleEndian
        assert dumped(path) == dumped(item.path)
        assert pydicom.dcmread(path).pixel_array.tolist() == (
            pydicom.dcmread(item.path).pixel_array.tolist()
        )


def test_one_that_cannot_be_decompressed_does_not_stop_the_others(tmp_path: Path) -> None:
    items = [packaged("JPGExtended.dcm"), packaged("RG1_J2KI.dcm")]
    answers = Answers()
    with (
        storescp(tmp_path / "in") as pacs,
        pytest.raises(Rejected, match="1 of 2 not stored; first 0x0117"),
    ):
        store(pacs, items, answers)
    assert answers.statuses == [0x0117, 0]
    assert answers.given[0][2].startswith("JPEG Extended (Process 2 and 4) cannot be made")


def test_nothing_is_left_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "only" / "a.dcm"
    path.parent.mkdir()
    path.write_bytes(packaged("MR_small_RLE.dcm").path.read_bytes())
    with storescp(tmp_path / "in") as pacs:
        store(pacs, [item_of(path)], Answers())
    assert list(path.parent.iterdir()) == [path]


def test_orthanc_takes_everything(tmp_path: Path) -> None:
    items = [packaged(name, key) for key, name in enumerate(COMPRESSED[:3])]
    items.append(item_of(write_instance(tmp_path), 3))
    answers = Answers()
    with orthanc(tmp_path / "orthanc") as peer:
        store(peer.pacs, items, answers)
        store(peer.pacs, items, answers)  # again: it answers success or says it has them
        stored = peer.instances()
    assert answers.statuses == [0] * 8
    assert set(stored) == {item.sop_instance_uid for item in items}


def test_orthanc_that_refuses_jpeg2000_gets_it_uncompressed(tmp_path: Path) -> None:
    item = packaged("RG1_J2KR.dcm")
    settings = {
        "Jpeg2000TransferSyntaxAccepted": False,
        "AcceptedTransferSyntaxes": ["1.2.840.10008.1.2"],
    }
    with orthanc(tmp_path / "orthanc", **settings) as peer:
        store(peer.pacs, [item], Answers())
        (content,) = peer.instances().values()
    path = tmp_path / "arrived.dcm"
    path.write_bytes(content)
    assert read_header(path).transfer_syntax_uid == ImplicitVRLittleEndian
    truth = pydicom.dcmread(packaged("RG1_UNCR.dcm").path)
    assert (pydicom.dcmread(path).pixel_array == truth.pixel_array).all()


def test_orthanc_that_does_not_know_us_is_named_with_the_setting(tmp_path: Path) -> None:
    with (
        orthanc(tmp_path / "orthanc", DicomCheckCalledAet=True, DicomAet="OTHER") as peer,
        pytest.raises(Rejected, match="'PACS' is not its AE title: set PACS_AET"),
    ):
        store(peer.pacs, [item_of(write_instance(tmp_path))], Answers())

"""What `pacsor send` and `pacsor filter` find in what they are given, and what they leave out."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path

import pytest

from pacsor_tasks.cli import dicom_files
from pacsor_tasks.cli.dicom_files import Source, Tally, batches
from tests.support.radiographs import radiographs

ONE, TWO = radiographs("RG1_UNCR", "RG1_J2KR")


def found(*paths: Path, max_items: int = 1000) -> tuple[list[Source], Tally]:
    tally = Tally()
    return [s for batch in batches(paths, tally, max_items) for s in batch], tally


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_directory_is_taken_with_all_below_and_what_is_not_dicom_counted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(ONE.read_bytes())
    (tmp_path / "a" / "y.dcm").write_bytes(TWO.read_bytes())
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "empty").touch()
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    sources, tally = found(tmp_path)
    assert [Path(s.label).name for s in sources] == ["y.dcm", "x"]
    assert (tally.not_dicom, tally.unreadable) == (3, [])


def test_a_dicom_file_without_its_uids_is_told_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(ONE.read_bytes()[:200])
    sources, tally = found(broken)
    assert sources == []
    assert tally.unreadable[0][0] == str(broken)


def test_an_archive_is_read_where_it_is_and_its_names_are_never_paths(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "cd.zip",
        {"../../evil.dcm": ONE.read_bytes(), "/abs.dcm": TWO.read_bytes(), "README": b"hello"},
    )
    tally = Tally()
    (batch,) = list(_kept(batches([archive], tally), tmp_path))
    assert batch == [ONE.read_bytes(), TWO.read_bytes()]
    assert tally.not_dicom == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cd.zip"]


def _kept(found_batches: object, _: Path) -> list[list[bytes]]:
    return [[s.item.path.read_bytes() for s in batch] for batch in found_batches]  # type: ignore[attr-defined]


def test_what_a_batch_unpacked_is_gone_when_the_next_one_is_there(tmp_path: Path) -> None:
    data = ONE.read_bytes()
    archive = zipped(tmp_path / "many.zip", {f"{n}.dcm": data for n in range(5)})
    on_disk = []
    for batch in batches([archive], Tally(), max_items=2):
        scratch = batch[0].item.path.parent
        on_disk.append(len(list(scratch.iterdir())))
    assert on_disk == [2, 2, 1]
    assert not scratch.exists()


def test_an_archive_in_a_directory_is_opened_and_one_within_an_archive_is_not(
    tmp_path: Path,
) -> None:
    inner = zipped(tmp_path / "inner.zip", {"a.dcm": ONE.read_bytes()})
    (tmp_path / "d").mkdir()
    zipped(tmp_path / "d" / "outer.ZIP", {"b.dcm": TWO.read_bytes(), "i.zip": inner.read_bytes()})
    sources, tally = found(tmp_path / "d")
    assert [s.label.rsplit(":", 1)[1] for s in sources] == ["b.dcm"]
    assert tally.not_dicom == 1


def test_a_member_that_unpacks_to_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_files, "RATIO_FROM_BYTES", 1_000_000)
    bomb = b"\0" * 128 + b"DICM" + b"\0" * 4_000_000
    sources, tally = found(zipped(tmp_path / "bomb.zip", {"x.dcm": bomb}))
    assert sources == []
    assert "times its size" in tally.unreadable[0][1]


def test_a_damaged_archive_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.zip", {"a.dcm": ONE.read_bytes()}, zipfile.ZIP_STORED)
    data = bytearray(whole.read_bytes())
    data[5000] ^= 0xFF
    (tmp_path / "crc.zip").write_bytes(data)
    (tmp_path / "cut.zip").write_bytes(data[:3000])
    sources, tally = found(tmp_path / "crc.zip", tmp_path / "cut.zip", ONE)
    assert [s.label for s in sources] == [str(ONE)]
    reasons = [reason for _, reason in tally.unreadable]
    assert "cannot be unpacked" in reasons[0]
    assert "not a readable zip archive" in reasons[1]


def test_one_file_given_twice_is_sent_twice(tmp_path: Path) -> None:
    sources, _ = found(ONE, ONE)
    assert len(sources) == 2
    assert [s.item.key for s in sources] == [0, 1]


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """For the length of its path, which stops root as well."""
    (tmp_path / "a.dcm").write_bytes(ONE.read_bytes())
    within = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=within)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=within)
        os.close(within)
        within = deeper
    os.close(within)
    sources, tally = found(tmp_path)
    assert [Path(s.label).name for s in sources] == ["a.dcm"]
    ((label, reason),) = tally.unreadable
    assert label.startswith(str(tmp_path / "ddd"))
    assert reason == "cannot be listed: File name too long"


def test_what_is_no_regular_file_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    for name in ("pipe", "pipe.zip"):
        os.mkfifo(name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    Path("gone").symlink_to("nowhere")
    Path("linked.dcm").symlink_to(ONE)
    sources, tally = found(tmp_path, Path("pipe"))
    assert [Path(s.label).name for s in sources] == ["linked.dcm"]
    assert [(Path(label).name, reason) for label, reason in tally.unreadable] == [
        ("gone", "No such file or directory"),
        ("pipe", "no regular file"),
        ("pipe.zip", "no regular file"),
        ("socket", "no regular file"),
        ("pipe", "no regular file"),  # given by its name too
    ]

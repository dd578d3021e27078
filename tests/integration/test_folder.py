"""A directory as a destination: whole files, a full disk, a share that is not mounted."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsor_tasks.dicom.scu import StoreItem
from pacsor_tasks.errors import PeerUnavailable, RateLimited, Rejected
from pacsor_tasks.folder import PARTIAL, Filing, Folder, probe, store
from tests.support.pacs_peers import Answers, item_of
from tests.support.studies import make_study

FILING = Filing(study_uid="1.2.3", core="core1", run_id="r-1", commands={0: "smarturgences"})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    (tmp_path / "share").mkdir()
    return Folder(name="folder", path=tmp_path / "share", layout="{study_uid}/{sop_uid}.dcm")


def items_in(tmp_path: Path, n: int = 2, side: int = 8) -> list[StoreItem]:
    return [item_of(f, i) for i, f in enumerate(make_study(tmp_path / "study", n, side=side))]


def files_of(folder: Folder) -> list[Path]:
    return sorted(p for p in folder.path.rglob("*") if p.is_file())


def test_each_result_is_a_file_of_its_study(tmp_path: Path, folder: Folder):
    items, answers = items_in(tmp_path), Answers()
    store(folder, FILING, items, answers)
    assert answers.statuses == [0, 0]
    for item in items:
        file = folder.path / "1.2.3" / f"{item.sop_instance_uid}.dcm"
        assert file.read_bytes() == item.path.read_bytes()
    assert list((folder.path / PARTIAL).iterdir()) == []


def test_the_layout_may_name_core_command_and_run(tmp_path: Path, folder: Folder):
    item = items_in(tmp_path, 1)[0]
    named = replace(folder, layout="{core}/{command}/{run_id}-{sop_uid}")
    store(named, FILING, [item], Answers())
    assert files_of(folder) == [
        folder.path / "core1" / "smarturgences" / f"r-1-{item.sop_instance_uid}"
    ]


def test_the_same_again_takes_its_place(tmp_path: Path, folder: Folder):
    items = items_in(tmp_path, 1)
    for _ in range(2):
        store(folder, FILING, items, Answers())
    assert len(files_of(folder)) == 1


def test_a_reader_sees_no_half_file(tmp_path: Path, folder: Folder):
    items = items_in(tmp_path, 6, side=1024)  # 2 MiB each
    sizes, done = set[int](), threading.Event()

    def watch() -> None:
        while not done.is_set():
            sizes.update(p.stat().st_size for p in folder.path.glob("1.2.3/*.dcm"))

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        store(folder, FILING, items, Answers())
    finally:
        done.set()
        reader.join()
    assert sizes <= {item.path.stat().st_size for item in items}
    assert all(dcmread(p).PixelData for p in files_of(folder))


def test_a_share_that_is_not_mounted_is_waited_for_and_never_made(tmp_path: Path):
    away = Folder(name="folder", path=tmp_path / "share", layout="{sop_uid}.dcm", suffix="_2")
    for what in (lambda: store(away, FILING, items_in(tmp_path), Answers()), lambda: probe(away)):
        with pytest.raises(PeerUnavailable, match=r"is it mounted\?.*FOLDER_PATH_2"):
            what()
    assert not away.path.exists()
    away.path.mkdir()
    probe(away)
    assert files_of(away) == []


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process may be larger: writing on fails as on a full disk."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_disk_that_takes_no_more_is_tried_again_and_nothing_half_is_left(
    tmp_path: Path, folder: Folder
):
    items, answers = items_in(tmp_path, 1, side=256), Answers()
    with small_files(4096), pytest.raises(PeerUnavailable, match="0 of 1 written"):
        store(folder, FILING, items, answers)
    assert answers.given == []
    assert files_of(folder) == []
    store(folder, FILING, items, answers)
    assert answers.statuses == [0]


FULL = """
import sys
from pathlib import Path
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.folder import Filing, Folder, store
from tests.support.pacs_peers import Answers, item_of
folder = Folder(name="folder", path=Path(sys.argv[1]), layout="{sop_uid}.dcm")
answers = Answers()
try:
    store(folder, Filing(study_uid="1.2", core="c", run_id="r"),
          [item_of(Path(p), i) for i, p in enumerate(sys.argv[2:])], answers)
except PeerUnavailable as exc:
    print(len(answers.given), exc)
"""


def test_a_full_file_system_is_tried_again(tmp_path: Path):
    files = make_study(tmp_path / "study", 2, side=640)  # 800 KiB each
    share = tmp_path / "share"
    share.mkdir()
    mounted = subprocess.run(
        ["unshare", "-rm", "sh", "-c",
         'mount -t tmpfs -o size=1500k none "$3" || exit 77; exec "$1" -c "$2" "$3" "$4" "$5"',
         "sh", sys.executable, FULL, str(share), *map(str, files)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if mounted.returncode in {1, 77} and "Traceback" not in mounted.stderr:
        pytest.skip("nothing may be mounted here; a smaller limit is tested above")
    assert "No space left on device; 1 of 2 written" in mounted.stdout, mounted


def test_a_name_that_cannot_be_is_an_operators_affair(tmp_path: Path, folder: Folder):
    long = replace(folder, layout="x" * 300 + "{sop_uid}")
    with pytest.raises(Rejected, match="File name too long"):
        store(long, FILING, items_in(tmp_path, 1), Answers())


def test_a_file_of_ours_that_is_gone_holds_up_no_other(tmp_path: Path, folder: Folder):
    items, answers = items_in(tmp_path, 3), Answers()
    items[0].path.unlink()
    bad = replace(items[1], sop_instance_uid="../../etc/passwd")
    with pytest.raises(Rejected, match="2 of 3 not stored"):
        store(folder, FILING, [items[0], bad, items[2]], answers)
    assert answers.statuses == [0x0117, 0x0117, 0]
    assert len(files_of(folder)) == 1


def test_what_a_dead_process_left_is_cleared_away(tmp_path: Path, folder: Folder):
    partial = folder.path / PARTIAL
    partial.mkdir()
    (partial / "old.dcm").write_bytes(b"x")
    (partial / "new.dcm").write_bytes(b"x")
    yesterday = time.time() - 90000
    os.utime(partial / "old.dcm", (yesterday, yesterday))
    store(folder, FILING, items_in(tmp_path, 1), Answers())
    assert [p.name for p in partial.iterdir()] == ["new.dcm"]


def test_a_share_that_cannot_sync_names_is_one_all_the_same(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    fsync = os.fsync

    def of_a_share(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", of_a_share)
    answers = Answers()
    store(folder, FILING, items_in(tmp_path), answers)
    assert answers.statuses == [0, 0]


def test_a_leftover_that_cannot_be_removed_holds_up_nothing(tmp_path: Path, folder: Folder):
    stuck = folder.path / PARTIAL / "a-directory-of-somebody"
    stuck.mkdir(parents=True)
    os.utime(stuck, (time.time() - 90000,) * 2)
    answers = Answers()
    store(folder, FILING, items_in(tmp_path, 1), answers)
    assert answers.statuses == [0]


def test_its_rate_is_kept(tmp_path: Path, folder: Folder):
    turns = iter([None, RateLimited("used up", 3)])

    def turn() -> None:
        if (error := next(turns)) is not None:
            raise error

    answers = Answers()
    with pytest.raises(RateLimited):
        store(folder, FILING, items_in(tmp_path, 3), answers, turn)
    assert len(answers.given) == 1

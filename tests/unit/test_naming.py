"""A name is given to one file only."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from receiver import naming
from receiver.naming import rename_new


@pytest.fixture(params=["in one step", "in two", "not by this file system"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    if request.param == "in two":
        monkeypatch.setattr(naming, "_renameat2", None)
    elif request.param == "not by this file system":
        monkeypatch.setattr(naming, "_renameat2", cannot)


@pytest.mark.usefixtures("_way")
def test_a_free_name_is_given(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    rename_new(old, str(new))
    assert new.read_text() == "1"
    assert not old.exists()


@pytest.mark.usefixtures("_way")
def test_a_name_that_is_taken_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    new.write_text("2")
    with pytest.raises(FileExistsError):
        rename_new(old, str(new))
    assert (old.read_text(), new.read_text()) == ("1", "2")


@pytest.mark.usefixtures("_way")
def test_what_is_not_there_gets_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "old", str(tmp_path / "new"))


def test_a_file_opened_before_is_still_the_same(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    inode = old.stat().st_ino
    rename_new(old, str(new))
    assert os.stat(new).st_ino == inode  # noqa: PTH116

"""The seal by which a whole file is known, and which file systems are trusted with a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver import durability
from receiver.durability import Durability, is_whole, keeps_names, seal

CONTENT = bytes(range(256)) * 64


def sealed(path: Path) -> Path:
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR)
    seal(fd)
    os.close(fd)
    return path


def cut(path: Path) -> None:
    os.truncate(path, len(CONTENT) - 1)


def grown(path: Path) -> None:
    os.truncate(path, len(CONTENT) + 1)


def punched(path: Path) -> None:
    """As after a crash in which a block in the middle was not written yet."""
    with path.open("r+b") as file:
        head, size = file.read(4096), len(CONTENT)
        file.truncate(0)
        file.seek(0)
        file.write(head)
        file.seek(size - 4096)
        file.write(CONTENT[-4096:])


def without_seal(path: Path) -> None:
    path.write_bytes(CONTENT)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def test_a_sealed_file_is_whole(tmp_path: Path) -> None:
    assert is_whole(sealed(tmp_path / "a"))


@pytest.mark.parametrize("spoil", [cut, grown, punched, without_seal, emptied])
def test_a_file_of_which_something_is_missing_is_not(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = sealed(tmp_path / "a")
    spoil(path)
    assert not is_whole(path)


def test_on_a_file_system_that_may_lose_names_each_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "KEEP_NAMES", frozenset())
    with capture_logs() as lines:
        assert Durability.GROUP.on(tmp_path) is Durability.INSTANCE
        assert Durability.NONE.on(tmp_path) is Durability.NONE
    assert [line["event"] for line in lines] == ["durability.instance"]
    assert not keeps_names(tmp_path / "nowhere")


@pytest.mark.parametrize("level", Durability)
def test_elsewhere_a_level_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Durability
) -> None:
    monkeypatch.setattr(durability, "keeps_names", lambda _: True)
    assert level.on(tmp_path) is level

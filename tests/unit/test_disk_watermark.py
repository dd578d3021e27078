"""Where receiving stops and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.disk import DiskGuard, Usage, Watermark, Watermarks, is_marked_full

GB = 10**9


@pytest.mark.parametrize(
    ("text", "usage", "is_passed"),
    [
        ("90%", Usage(100, 10), False),  # 90 % exactly
        ("90%", Usage(100, 9), True),
        ("90 %", Usage(100, 9), True),
        ("2GB", Usage(100 * GB, 2 * GB), False),
        ("2GB", Usage(100 * GB, 2 * GB - 1), True),
        ("2g", Usage(100 * GB, 2 * GB - 1), True),
        ("1.5TB", Usage(2000 * GB, 1499 * GB), True),
        ("500M", Usage(100 * GB, GB), False),
        ("4kB", Usage(100 * GB, 3999), True),
        ("0", Usage(100, 0), False),  # never
        ("100%", Usage(100, 0), False),
    ],
)
def test_a_watermark_is_a_share_in_use_or_room_left(
    text: str, usage: Usage, *, is_passed: bool
) -> None:
    assert Watermark.parse(text).is_passed(usage) is is_passed


@pytest.mark.parametrize("text", ["", "much", "90", "-1GB", "101%", "5 PB", "%"])
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|whole disk"):
        Watermark.parse(text)


@pytest.mark.parametrize(
    ("high", "low", "complaint"),
    [
        ("90%", "2GB", "both the same way"),
        ("90%", "95%", "go on at 95%, fuller than 90%"),
        ("2GB", "1GB", "go on at 1GB, fuller than 2GB"),
        ("90%", "90%", None),
        ("1GB", "2GB", None),
        ("95%", "90%", None),
    ],
)
def test_the_low_one_is_lower(high: str, low: str, complaint: str | None) -> None:
    pair = Watermark.parse(high), Watermark.parse(low)
    if complaint is None:
        Watermarks(*pair)
    else:
        with pytest.raises(ValueError, match=complaint):
            Watermarks(*pair)


class Disk:
    """A disk as full as the test says."""

    def __init__(self) -> None:
        self.free = 50

    def __call__(self, _: Path) -> Usage:
        return Usage(100, self.free)


def test_two_processes_stop_and_go_on_together_and_tell_once(tmp_path: Path) -> None:
    disk = Disk()
    marks = Watermarks(Watermark.parse("90%"), Watermark.parse("80%"))
    guards = [DiskGuard(tmp_path, marks, disk) for _ in range(2)]

    def answers() -> set[bool]:
        return {guard.is_full() for guard in guards}

    with capture_logs() as lines:
        assert answers() == {False}
        disk.free = 9
        assert answers() == {True}
        assert is_marked_full(tmp_path)
        for disk.free in (11, 19):
            assert answers() == {True}, "between the marks nothing changes"
        late = DiskGuard(tmp_path, marks, disk)
        assert late.is_full(), "a process that comes later agrees"
        disk.free = 20
        assert answers() == {False}
        assert not late.is_full()
        disk.free = 11
        assert answers() == {False}, "between the marks nothing changes"
    assert [line["event"] for line in lines] == ["disk.full", "disk.room_again"]
    assert lines[0]["free_bytes"] == 9
    assert not is_marked_full(tmp_path)


def test_a_mark_that_cannot_be_written_is_remembered(tmp_path: Path) -> None:
    disk = Disk()
    marks = Watermarks(Watermark.parse("90%"), Watermark.parse("80%"))
    guard = DiskGuard(tmp_path / "nowhere", marks, disk)
    disk.free = 5
    assert guard.is_full()
    disk.free = 15
    assert guard.is_full()
    disk.free = 25
    assert not guard.is_full()


def test_a_disk_that_cannot_be_asked_stops_nobody(tmp_path: Path) -> None:
    def broken(_: Path) -> Usage:
        raise OSError("gone")

    marks = Watermarks(Watermark.parse("90%"), Watermark.parse("80%"))
    assert not DiskGuard(tmp_path, marks, broken).is_full()

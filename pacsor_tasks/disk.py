"""When the disk is too full to receive: a watermark to stop at, a lower one to go on at.

The state is one file, `disk-full` in the spool, so that every receiver process and the operator's
page see the same, and a change is told once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MARK = "disk-full"
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT])B?", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


@dataclass(frozen=True, slots=True)
class Usage:
    """A file system: its size, and what we may still write to it (bytes)."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """A degree of fullness: a share that is in use (`90%`), or room that is left (`2GB`)."""

    text: str
    #: 0 to 100, or None
    used_percent: float | None = None
    free_bytes: float = 0

    @classmethod
    def parse(cls, text: str) -> Watermark:
        """Read `90%`, `500MB` or `2GB` (powers of 1000); `0` is never passed.

        Raises:
            ValueError: It is neither.
        """
        text = text.strip()
        if match := _PERCENT.fullmatch(text):
            if float(match[1]) > 100:
                raise ValueError(f"{text!r} is more than the whole disk")
            return cls(text, used_percent=float(match[1]))
        if match := _SIZE.fullmatch(text):
            return cls(text, free_bytes=float(match[1]) * UNITS[match[2].upper()])
        if text == "0":
            return cls(text)
        # A number alone could be either.
        raise ValueError(f"{text!r} is neither a share in use (90%) nor room left (2GB)")

    def is_passed(self, usage: Usage) -> bool:
        """Whether the disk is fuller than this."""
        if self.used_percent is not None:
            return usage.total - usage.free > usage.total * self.used_percent / 100
        return usage.free < self.free_bytes


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Where to stop receiving, and where to go on."""

    high: Watermark
    low: Watermark

    def __post_init__(self) -> None:
        """Refuse what would never go on, or flutter.

        Raises:
            ValueError: The two cannot be compared, or the low one is the fuller.
        """
        high, low = self.high, self.low
        if (high.used_percent is None) != (low.used_percent is None):
            raise ValueError("one is a share in use, the other room left: write both the same way")
        if high.used_percent is not None and low.used_percent is not None:
            is_lower = low.used_percent <= high.used_percent
        else:
            is_lower = low.free_bytes >= high.free_bytes
        if not is_lower:
            raise ValueError(f"receiving would go on at {low.text}, fuller than {high.text}")


def usage_of(path: Path) -> Usage:
    """The file system a path is on.

    Raises:
        OSError: It cannot be read.
    """
    found = shutil.disk_usage(path)
    return Usage(found.total, found.free)


class DiskGuard:
    """Whether the spool takes more. Cheap enough to ask for every instance (microseconds).

    Args:
        root: The spool.
        marks: Where to stop and where to go on.
        usage: How full the disk is.
    """

    def __init__(
        self, root: Path, marks: Watermarks, usage: Callable[[Path], Usage] = usage_of
    ) -> None:
        self.root = root
        self.marks = marks
        self._usage = usage
        self._mark = root / MARK
        #: for when the disk is too full for the mark itself
        self._is_full = False

    def is_full(self) -> bool:
        """Whether to refuse; the answer changes at the watermarks only."""
        try:
            usage = self._usage(self.root)
        except OSError:
            return False  # the write itself will tell
        was_full = self._is_full or self._mark.exists()
        self._is_full = (self.marks.low if was_full else self.marks.high).is_passed(usage)
        if self._is_full and not was_full:
            self._tell_full(usage)
        elif was_full and not self._is_full:
            self._tell_room(usage)
        return self._is_full

    def _tell_full(self, usage: Usage) -> None:
        with suppress(FileExistsError, OSError):
            # Whoever makes the mark tells: once, over all processes.
            self._mark.touch(exist_ok=False)
            log.error(
                "disk.full",
                free_bytes=usage.free,
                total_bytes=usage.total,
                high_watermark=self.marks.high.text,
                goes_on_at=self.marks.low.text,
            )

    def _tell_room(self, usage: Usage) -> None:
        with suppress(FileNotFoundError):
            self._mark.unlink()
            log.warning(
                "disk.room_again",
                free_bytes=usage.free,
                total_bytes=usage.total,
                low_watermark=self.marks.low.text,
            )


def is_marked_full(root: Path) -> bool:
    """Whether the receiver refuses for want of disk, as far as it said."""
    return (root / MARK).exists()

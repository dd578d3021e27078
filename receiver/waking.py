"""Threads that wait until there is something to do, where pynetdicom looks every millisecond."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pynetdicom.timer import Timer

#: Seconds after which a waiting thread looks for itself, since nobody tells it of an expired timer.
LOOK_S = 0.5


class Wake:
    """Ends the poll of the thread that owns it. Any thread may `set` it, at any time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._fd = -1

    def open(self) -> int:
        """Begin: the file descriptor to poll."""
        with self._guard:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fd

    def set(self) -> None:
        """Make the descriptor readable."""
        with self._guard:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Take note of what `set` said."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """End: `set` does nothing any longer. Safe to repeat."""
        with self._guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class SteadyTimer(Timer):
    """A timer of pynetdicom's that a step of the machine's clock neither ends nor prolongs."""

    @property
    def remaining(self) -> float:
        """Seconds; 1 if there is no limit."""
        if self.timeout is None:
            return 1
        if self._start_time is None:
            return self.timeout
        end = time.monotonic() if self._end_time is None else self._end_time
        return self.timeout - (end - self._start_time)

    def start(self) -> None:
        """Begin anew."""
        self._start_time, self._end_time = time.monotonic(), None

    def stop(self) -> None:
        """Let no more time pass."""
        self._end_time = time.monotonic()


class TellingQueue(queue.Queue[Any]):
    """A queue that says when something was put into it.

    Args:
        tell: Called after each `put`, by the thread that puts.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `queue.Queue.put`."""
        super().put(item, block, timeout)
        self._tell()


class Checkpoint:
    """In the place of the event that holds up an association's thread: waits for work, too.

    Args:
        is_due: Whether the thread has anything to do. Must not block.
    """

    def __init__(self, is_due: Callable[[], bool]) -> None:
        self._is_due = is_due
        self._is_open = True
        self._changed = threading.Condition()

    def set(self) -> None:
        """Let the thread pass when there is work."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Hold the thread up, whatever there is to do."""
        with self._changed:
            self._is_open = False

    def is_set(self) -> bool:
        """Whether the thread may pass."""
        return self._is_open

    def look(self) -> None:
        """There may be work now."""
        with self._changed:
            self._changed.notify_all()

    def wait(self) -> bool:
        """Until the thread may pass and has something to do."""
        with self._changed:
            while not (self._is_open and self._is_due()):
                self._changed.wait(LOOK_S)
        return True

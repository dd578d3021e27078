"""Connections that have not asked for an association yet. Bounded: the oldest make room.

Who is serious asks within milliseconds, so under a flood of silent connections the silent ones are
hung up on, and senders get through.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Pending:
    """The connections by their remote address and port.

    Args:
        most: How many there may be at once.
        clock: Seconds that only run forward.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._guard = threading.Lock()
        #: address → the connection, and since when
        self._waiting: dict[tuple[str, int], tuple[socket.socket, float]] = {}

    def add(self, address: Any, connection: socket.socket) -> tuple[str, int] | None:
        """A connection was accepted, or is a TLS one from now on.

        Returns:
            The address of the one that had to go for it.
        """
        key = (address[0], address[1])
        with self._guard:
            _, since = self._waiting.pop(key, (None, self._clock()))
            self._waiting[key] = (connection, since)
            if len(self._waiting) <= self._most:
                return None
            oldest = next(iter(self._waiting))
            doomed, _ = self._waiting.pop(oldest)
        # Not `doomed.shutdown`: an SSLSocket would forget its session under its reader's feet.
        with suppress(OSError):
            socket.socket.shutdown(doomed, socket.SHUT_RDWR)
        return oldest

    def done(self, address: Any) -> float | None:
        """It has asked, or is gone. The seconds it took; None if it was not waiting."""
        with self._guard:
            found = self._waiting.pop((address[0], address[1]), None)
        return None if found is None else self._clock() - found[1]

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._waiting)

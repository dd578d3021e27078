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
        _hang_up(doomed)
        return oldest

    def expire(self, age_s: float) -> list[tuple[str, int]]:
        """Hang up on those that have been waiting for longer; their addresses.

        A trickle of bytes keeps every other timeout from passing.
        """
        before = self._clock() - age_s
        with self._guard:
            late = {key: sock for key, (sock, since) in self._waiting.items() if since < before}
            for key in late:
                del self._waiting[key]
        for connection in late.values():
            _hang_up(connection)
        return list(late)

    def done(self, address: Any) -> float | None:
        """It has asked, or is gone. The seconds it took; None if it was not waiting."""
        with self._guard:
            found = self._waiting.pop((address[0], address[1]), None)
        return None if found is None else self._clock() - found[1]

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._waiting)


def _hang_up(connection: socket.socket) -> None:
    # Not `connection.shutdown`: an SSLSocket would forget its session under its reader's feet.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

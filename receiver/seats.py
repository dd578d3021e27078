"""How many associations are open, over all processes of the spool: one small file each."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pacsor_tasks.refusals import Reason
from receiver.processes import Living, Process

#: A sender that just ended an association may be back before its seat is free. Seconds.
PATIENCE_S, PAUSE_S = 0.5, 0.02


class Seat:
    """A place taken by one association."""

    def __init__(self, process: Process, name: str) -> None:
        self._path = process.spool.root / "seats" / name

    def free(self) -> None:
        """Give it back. Safe to repeat."""
        self._path.unlink(missing_ok=True)


class Seats:
    """The limits, and who counts against them.

    Args:
        process: This one.
        most: Associations at once.
        most_per_peer: … from one address; 0: as many as there are.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        process: Process,
        most: int,
        most_per_peer: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._process = process
        self._most = most
        self._most_per_peer = most_per_peer
        self._sleep = sleep
        self._directory = process.spool.root / "seats"

    def take(self, address: str) -> Seat | Reason:
        """A seat, or why there is none.

        Raises:
            OSError: The spool cannot be written.
        """
        left_s = PATIENCE_S
        while True:
            taken = self._try(address)
            if isinstance(taken, Seat) or left_s <= 0:
                return taken
            self._sleep(PAUSE_S)
            left_s -= PAUSE_S

    def _try(self, address: str) -> Seat | Reason:
        with self._locked():
            addresses = self._addresses()
            if len(addresses) >= self._most:
                return Reason.TOO_MANY
            if self._most_per_peer and addresses.count(address) >= self._most_per_peer:
                return Reason.TOO_MANY_FROM_PEER
            name = f"{self._process.new_name()}@{address}"
            (self._directory / name).touch(exist_ok=False)
            return Seat(self._process, name)

    def _addresses(self) -> list[str]:
        """Where the open associations come from; the seats of dead processes are cleared."""
        living = Living(self._process.spool)
        found = []
        for name in os.listdir(self._directory):  # noqa: PTH208 - names are all that is needed
            if name.startswith("."):
                continue
            if living.owns(name):
                found.append(name.partition("@")[2])
            else:
                (self._directory / name).unlink(missing_ok=True)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._directory / ".lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

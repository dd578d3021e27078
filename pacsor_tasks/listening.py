"""Where the subscriber of other providers' reports says that it listens, for /healthz to see."""

from __future__ import annotations

import time
from pathlib import Path

#: How often it is said, seconds.
STAMP_S = 2.0


def listening_file(data_dir: Path) -> Path:
    """The file that changes while the subscriber is connected and in every group."""
    return data_dir.absolute() / "webps" / "listening"


class Listening:
    """Says so, no more often than STAMP_S.

    Args:
        path: As `listening_file` gives it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamped = float("-inf")

    def stamp(self) -> None:
        """It listens now. A disk that does not take it does not keep it from listening."""
        now = time.monotonic()
        if now - self._stamped < STAMP_S:
            return
        self._stamped = now
        try:
            self._path.touch()
        except OSError:
            return

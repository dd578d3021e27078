"""Which receiver processes live. A process holds a file lock for life: the kernel lets go of it.

Whatever a process leaves behind carries its id in front of the first dot of its name, so after a
crash its partial files and open-association marks are told from those of the living.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from pacsor_tasks.spool import Spool

log = structlog.get_logger(__name__)

LOCK_SUFFIX = ".lock"
PARTIAL_SUFFIX = ".part"
#: A hidden file is about to be renamed; one so old never will be. Seconds.
HIDDEN_AGE_S = 3600.0


class Process:
    """This process, in the spool's eyes. Use `alive`."""

    def __init__(self, spool: Spool, process_id: str) -> None:
        self.spool = spool
        self.id = process_id
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        """A name no other process or thread uses, without a suffix."""
        return f"{self.id}.{next(self._numbers)}"


@contextmanager
def alive(spool: Spool) -> Iterator[Process]:
    """Be a living process of the spool until the block ends, or the process does."""
    process = Process(spool, f"{os.getpid()}-{secrets.token_hex(4)}")
    directory = spool.root / "processes"
    hidden, path = directory / f".{process.id}", directory / f"{process.id}{LOCK_SUFFIX}"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Only now can others see it, so they never find it unlocked while the process lives.
        hidden.rename(path)
        yield process
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def is_alive(spool: Spool, process_id: str) -> bool:
    """Whether that process still runs."""
    try:
        fd = os.open(spool.root / "processes" / f"{process_id}{LOCK_SUFFIX}", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def owner(name: str) -> str:
    """The id of the process a name belongs to."""
    return name.split(".", 1)[0]


class Living:
    """Answers `is_alive` for many names of one moment, asking the kernel once per process."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[str, bool] = {}

    def owns(self, name: str) -> bool:
        """Whether the process that made `name` is alive."""
        process_id = owner(name)
        if process_id not in self._known:
            self._known[process_id] = is_alive(self._spool, process_id)
        return self._known[process_id]


def partials(spool: Spool) -> list[Path]:
    """All partial files: each in its association's directory, or where it was left before those."""
    found: list[Path] = []
    for path in list((spool.root / "tmp").iterdir()):
        if path.name.endswith(PARTIAL_SUFFIX):
            found.append(path)
            continue
        # Directories come and go with associations and studies, which goes on meanwhile.
        with suppress(FileNotFoundError, NotADirectoryError):
            found += [p for p in path.iterdir() if p.name.endswith(PARTIAL_SUFFIX)]
    return found


def remove_remains(spool: Spool, spared: Collection[str] = ()) -> int:
    """Delete the partial files and locks of dead processes.

    Args:
        spool: Where.
        spared: Names in `tmp/` that stay.

    Returns:
        How many partial files there were. None of them was ever acknowledged to a sender.
    """
    living = Living(spool)
    n_partial = 0
    for path in list((spool.root / "tmp").iterdir()):
        if path.suffix == ".removed":
            shutil.rmtree(path, ignore_errors=True)
        elif not living.owns(path.name):
            n_partial += _remove_but(path, spared)
    for path in list((spool.root / "processes").glob(f"*{LOCK_SUFFIX}")):
        if not living.owns(path.name):
            path.unlink(missing_ok=True)
    _remove_hidden(spool)
    if n_partial:
        log.warning("spool.partials_removed", n_partial=n_partial)
    return n_partial


def _remove_hidden(spool: Spool) -> None:
    for name in ("processes", "outbox", "requests"):
        for path in list((spool.root / name).glob(".*")):
            if _age_s(path) > HIDDEN_AGE_S:
                path.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_but(path: Path, spared: Collection[str]) -> int:
    """Delete a file, or a directory and what is in it; how many partial files that was."""
    if path.name in spared:
        return 0
    if path.is_dir():
        n_partial = sum(_remove_but(inner, spared) for inner in list(path.iterdir()))
        with suppress(OSError):  # something was spared
            path.rmdir()
        return n_partial
    path.unlink(missing_ok=True)
    return path.suffix == PARTIAL_SUFFIX

"""What an answer of success promises, and the seal by which a whole file is known again.

Source: docs/receiver.md (what each level costs and gives); fsync(2); ext4, XFS and btrfs as of
Linux 6: syncing a new file also makes the name durable that it was created under.
"""

from __future__ import annotations

import ctypes
import os
import struct
from enum import StrEnum
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

#: Of statfs(2): ext2 to ext4, XFS, btrfs.
KEEP_NAMES = frozenset({0xEF53, 0x58465342, 0x9123683E})
#: At the beginning of the preamble, which is ours to use (PS3.10 §7.1): the file's size.
_SEAL = struct.Struct("<8sQ")
_MAGIC = b"PACSORTK"
_SYNC_FILE_RANGE_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Durability(StrEnum):
    """When an instance is answered with success."""

    #: its data is synced, then its name: two journal commits each
    INSTANCE = "instance"
    #: its data is synced, in a commit that is shared by all that are synced at the time; after a
    #: crash of the machine the next start gives it its name again
    GROUP = "group"
    #: it is written; a crash of the machine loses what was answered in the half minute before
    NONE = "none"

    def on(self, directory: Path) -> Durability:
        """The level as far as the directory's file system has what it needs."""
        if self is Durability.GROUP and not keeps_names(directory):
            log.warning("durability.instance", reason="the file system is not ext4, XFS or btrfs")
            return Durability.INSTANCE
        return self


def keeps_names(directory: Path) -> bool:
    """Whether syncing a new file there also makes its name durable."""
    return _file_system(directory) in KEEP_NAMES


def seal(fd: int) -> None:
    """Say of a file that is whole that it is.

    Raises:
        OSError: It cannot be written.
    """
    os.pwrite(fd, _SEAL.pack(_MAGIC, os.fstat(fd).st_size), 0)


def sealed(head: bytes, n_bytes: int) -> bytes:
    """The beginning of a file of that size, with its seal in it.

    To be written in one go with the rest: a file that is cut off is shorter than its seal says.
    """
    return _SEAL.pack(_MAGIC, n_bytes) + head[_SEAL.size :]


def sync(path: Path) -> None:
    """Make what was written to a file durable.

    Raises:
        OSError: It is not.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def begin_writing(fd: int, start: int, n_bytes: int) -> None:
    """Let the disk begin to write a part of a file, so that a later sync has less to wait for.

    Nothing is promised by it, and nothing happens where the system cannot.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, start, n_bytes, _SYNC_FILE_RANGE_WRITE)


def is_whole(path: Path) -> bool:
    """Whether a file is sealed and nothing of it was lost since, as far as a crash loses anything.

    Raises:
        OSError: It cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if os.pread(fd, _SEAL.size, 0) != _SEAL.pack(_MAGIC, size):
            return False
        # What never reached the disk is a hole, in these file systems; we write none.
        return os.lseek(fd, 0, os.SEEK_HOLE) == size
    finally:
        os.close(fd)


def _file_system(directory: Path) -> int:
    """The number of its type, as statfs(2) has it; 0 if it does not say."""
    # Large enough on every architecture; the type comes first, a long.
    answer = (ctypes.c_long * 64)()
    if _libc.statfs(os.fsencode(directory), answer) != 0:
        return 0
    return answer[0] & 0xFFFFFFFF

"""Gives a file a name that no other has: in one step, where the file system can."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
#: What file systems say that cannot: NFS, some of FUSE.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def rename_new(path: str | Path, name: str) -> None:
    """Rename a file, on its file system.

    Raises:
        FileExistsError: The name is taken; nothing was done.
        OSError: It cannot be done.
    """
    if _renameat2 is not None:
        old, new = os.fsencode(path), os.fsencode(name)
        if _renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _CANNOT:
            raise OSError(number, os.strerror(number), name)
    os.link(path, name)
    os.unlink(path)  # noqa: PTH108 - for each instance received

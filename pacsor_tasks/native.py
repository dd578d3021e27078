"""The compiled inner loops, if they are there: `_native.c`, which every install tries to build.

Without them (no compiler, not Linux, `WITHOUT_NATIVE=1`) their twins in Python do the same, slower.
So they do in a checkout whose `_native.c` is not the one it was built of: after a pull without
`make install`, calls and functions would not fit each other, and no association would be served.
"""

from __future__ import annotations

import importlib
import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, cast

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap


class Native(Protocol):
    """What `_native.c` has. Its twins say what each is for."""

    #: an answer of `store` is no longer
    REPLY_BYTES: int

    def stride(  # noqa: PLR0913, PLR0917 - of C
        self,
        data: Buffer,
        at: int,
        previous: int,
        last: int,
        wanted: tuple[int, ...],
        encoding: int,
        left: int,
        max_value: int,
        found: dict[int, bytes],
        /,
    ) -> tuple[int, int, int]:
        """`dicom.elements._Walk.stride`: where it stopped, the last tag before, elements left."""

    def pour(  # noqa: PLR0913, PLR0917 - of C
        self,
        sock: int,
        wake: int,
        file: int,
        buffer: memoryview,
        context_id: int,
        pdu_left: int,
        pdv_left: int,
        control: int,
        n_written: int,
        n_begun: int,
        early_bytes: int,
        enough: int,
        patience_ms: int,
        /,
    ) -> tuple[int, int, int, int, int, int, int, int, int]:
        """`receiver.pouring`: stop, errno, the buffer's unread part, position, written, begun."""

    def fill(  # noqa: PLR0913, PLR0917 - of C
        self, sock: int, wake: int, buffer: memoryview, end: int, much: int, patience_ms: int, /
    ) -> tuple[int, bool]:
        """`receiver.buffered_socket`: bytes read, -1 if nothing came; whether it was woken."""

    def write_new(self, path: str, pieces: Sequence[Buffer], is_synced: bool, /) -> int:
        """`receiver.incoming.write_new`: the file's descriptor."""

    def add_new(  # noqa: PLR0913, PLR0917 - of C
        self, gate: int, lock: int, directory: str, inode: int, old: str, new: str, fd: int, /
    ) -> int:
        """`receiver.associations.OpenAssociation.add_new`: 0, or the errno."""

    def store(  # noqa: PLR0913, PLR0917 - of C
        self,
        sock: int,
        wake: int,
        buffer: memoryview,
        start: int,
        end: int,
        patience_ms: int,
        until_ns: int,
        number: int,
        context_id: int,
        encoding: int,
        is_synced: bool,
        gate: int,
        lock: int,
        inode: int,
        sop_class: bytes,
        study: bytes,
        before: bytes,
        after: bytes,
        directory: str,
        partials: str,
        /,
    ) -> tuple[int, int, int, int, int, int, bytes]:
        """`receiver.lane`: stop, errno, the buffer's unread part, instances, number, unsent."""


def _load() -> Native | None:
    if os.environ.get("WITHOUT_NATIVE"):
        return None
    try:
        found = importlib.import_module("pacsor_tasks._native")
    except ImportError:
        return None
    # What knows nothing of its source is older than this.
    source_crc = getattr(found, "SOURCE_CRC", 0)
    return None if is_stale(Path(str(found.__file__)), source_crc) else cast(Native, found)


def is_stale(built: Path, source_crc: int) -> bool:
    """Whether the source beside what was built is another one. An installed package has none.

    Args:
        built: The module's file.
        source_crc: CRC-32 of its source; -1: who built it did not say.
    """
    try:
        source = built.with_name("_native.c").read_bytes()
    except OSError:
        return False
    return source_crc not in {-1, zlib.crc32(source)}


#: None: the Python code does it all
native = _load()

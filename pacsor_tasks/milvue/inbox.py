"""The directory results arrive in: whole files or none."""

from __future__ import annotations

import filecmp
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from pacsor_tasks.errors import BadResponse, Retryable
from pacsor_tasks.milvue.multipart import Truncated

PART_SUFFIX = ".part"
#: One turn of the inflater: bounds memory whatever a gzipped part unfolds to.
BLOCK_BYTES = 256 * 1024


class FileSink(Protocol):
    """Takes one result's bytes."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take the next bytes."""

    def finish(self) -> None:
        """The result is whole."""


class Inbox:
    """Collects results under temporary names and publishes all of them at once.

    Use as a context manager: entering empties the directory, so that asking again starts afresh;
    leaving it without `publish`, or by an error, leaves no file. Safe to fill from several threads.

    Args:
        into: The directory; made if it is not there. Nothing else may live in it.
    """

    def __init__(self, into: Path) -> None:
        self._into = into
        self._next = 0
        self._is_published = False
        self._open: list[_File] = []

    def __enter__(self) -> Inbox:
        with disk_errors():
            self._into.mkdir(parents=True, exist_ok=True)
            self._clear()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._open:
            file.close()
        if exc_type is not None or not self._is_published:
            with suppress(OSError):
                self._clear()

    def reserve(self) -> Path:
        """A new file's temporary path. Names are 32 hex digits and sort as they were reserved."""
        name = f"{self._next:08x}{uuid.uuid4().hex[:24]}.dcm{PART_SUFFIX}"
        self._next += 1
        return self._into / name

    def sink(self, path: Path, *, gzipped: bool) -> FileSink:
        """Open a reserved path for writing.

        Raises:
            Retryable: The disk refuses.
        """
        with disk_errors():
            file = _File(path)
        self._open.append(file)
        return _Gunzipped(file) if gzipped else file

    def publish(self) -> list[Path]:
        """Give every file its final name and return them sorted; the same bytes twice are one file.

        Raises:
            Retryable: The disk refuses.
        """
        with disk_errors():
            for part in _distinct(sorted(self._into.glob(f"*{PART_SUFFIX}"))):
                part.rename(part.with_suffix(""))
            directory = os.open(self._into, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self._is_published = True
            return sorted(self._into.glob("*.dcm"))

    def _clear(self) -> None:
        for path in self._into.iterdir():
            if path.is_file() or path.is_symlink():
                path.unlink()


def _distinct(parts: list[Path]) -> list[Path]:
    """Remove files equal to an earlier one: some answers come twice."""
    kept: dict[int, list[Path]] = {}
    for part in parts:
        same_size = kept.setdefault(part.stat().st_size, [])
        if any(filecmp.cmp(part, other, shallow=False) for other in same_size):
            part.unlink()
        else:
            same_size.append(part)
    return sorted(path for paths in kept.values() for path in paths)


class _File:
    """Writes one file through to the disk."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("xb")

    def write(self, data: bytes | memoryview, /) -> None:
        with disk_errors():
            self._file.write(data)

    def finish(self) -> None:
        if self._file.tell() == 0:
            raise Truncated("a result is empty")
        with disk_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def close(self) -> None:
        """Close without caring for what is lost: the file is about to go."""
        with suppress(OSError):
            self._file.close()


class _Gunzipped:
    """Unfolds gzip on its way to a file: several members, and zero padding after the last."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._inflate = _gzip()
        self._has_begun = False

    def write(self, data: bytes | memoryview, /) -> None:
        left = bytes(data)
        while left:
            if self._inflate.eof:
                left = left.lstrip(b"\0")
                if not left:
                    return
                self._inflate = _gzip()
            self._has_begun = True
            try:
                self._file.write(self._inflate.decompress(left, BLOCK_BYTES))
            except zlib.error as exc:
                raise BadResponse("a gzipped result is not gzip") from exc
            left = self._inflate.unused_data or self._inflate.unconsumed_tail

    def finish(self) -> None:
        while left := self._inflate.decompress(b"", BLOCK_BYTES):
            self._file.write(left)  # the last write stopped at its limit
        if self._has_begun and not self._inflate.eof:
            raise Truncated("a gzipped result ended early")
        self._file.finish()


def _gzip() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn the operating system's errors inside into ours: a full disk is worth trying again."""
    try:
        yield
    except OSError as exc:
        raise Retryable(f"results cannot be written: {exc.strerror}") from exc

"""Request bodies with a known length, read from disk only while they are sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pacsor_tasks.milvue.outcomes import UnreadableInstance, UploadItem

BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, end) of a file."""

    start: int
    end: int


class FileBody:
    """Spans of one instance's file, and bytes between them, as one body.

    `requests` takes `len()` for Content-Length and iterates. A file that cannot be read or is
    shorter than it was raises `UnreadableInstance`, not the `OSError` that would pass for a
    broken connection.
    """

    def __init__(self, item: UploadItem, pieces: Sequence[Span | bytes]) -> None:
        self._item = item
        self._pieces = tuple(pieces)
        self._length = sum(
            piece.end - piece.start if isinstance(piece, Span) else len(piece)
            for piece in self._pieces
        )

    @classmethod
    def whole(cls, item: UploadItem) -> FileBody:
        """The file as it is.

        Raises:
            UnreadableInstance: There is no such file, or it is empty.
        """
        size = file_size(item)
        if size == 0:
            raise UnreadableInstance(item.sop_instance_uid, "its file is empty")
        return cls(item, (Span(0, size),))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self._item.path.open("rb", buffering=0) as file:
                for piece in self._pieces:
                    if isinstance(piece, bytes):
                        yield piece
                    else:
                        file.seek(piece.start)
                        yield from self._blocks(file.read, piece.end - piece.start)
        except OSError as exc:
            raise unreadable(self._item, exc) from exc

    def _blocks(self, read: Callable[[int], bytes | None], left: int) -> Iterator[bytes]:
        while left:
            block = read(min(left, BLOCK_BYTES))
            if not block:
                uid = self._item.sop_instance_uid
                raise UnreadableInstance(uid, "its file became shorter while it was sent")
            left -= len(block)
            yield block


class RelatedBody:
    """A multipart/related body of DICOM parts (STOW-RS).

    Args:
        parts: One body per instance.
        before_each: Called before each part is sent.

    Source: DICOM PS3.18 §10.5, contract §1.4.
    """

    _HEAD = b"--%s\r\nContent-Type: application/dicom\r\n\r\n"

    def __init__(
        self, parts: Sequence[FileBody], before_each: Callable[[], None] | None = None
    ) -> None:
        self._parts = tuple(parts)
        self._before_each = before_each
        self._boundary = uuid.uuid4().hex
        self._part_head = self._HEAD % self._boundary.encode("ascii")
        self._closer = b"--%s--\r\n" % self._boundary.encode("ascii")

    @property
    def content_type(self) -> str:
        """The header that goes with the body."""
        return f'multipart/related; type="application/dicom"; boundary={self._boundary}'

    def __len__(self) -> int:
        frames = len(self._parts) * (len(self._part_head) + 2) + len(self._closer)
        return frames + sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if self._before_each is not None:
                self._before_each()
            yield self._part_head
            yield from part
            yield b"\r\n"
        yield self._closer


def file_size(item: UploadItem) -> int:
    """Bytes of an instance's file.

    Raises:
        UnreadableInstance: There is none.
    """
    try:
        return item.path.stat().st_size
    except OSError as exc:
        raise unreadable(item, exc) from exc


def unreadable(item: UploadItem, exc: OSError) -> UnreadableInstance:
    """The error for a file that the system does not let us read."""
    return UnreadableInstance(item.sop_instance_uid, f"its file cannot be read: {exc.strerror}")


def batches(items: Iterable[FileBody], limit_bytes: int) -> Iterator[list[FileBody]]:
    """Group bodies in order so that each group stays below the limit, or has one body only."""
    group: list[FileBody] = []
    size = 0
    for item in items:
        if group and size + len(item) > limit_bytes:
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item)
    if group:
        yield group

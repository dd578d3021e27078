"""Multipart bodies of any size: read part by part to disk, written chunk by chunk."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pacsor_tasks.errors import BadResponse


@dataclass(slots=True)
class Part:
    """One part of a request, its body on disk."""

    path: Path
    headers: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0


class PartWriter:
    """Feeds a streaming parser and puts every part's body in a file of its own.

    Lenient as the clients need: parts with or without Content-Disposition, the media type with or
    without `type`, its parameters quoted or not (contract §1.4).

    Args:
        content_type: The request's Content-Type.
        folder: Where the files go.

    Raises:
        BadResponse: Not multipart, or without a boundary.
    """

    def __init__(self, content_type: str, folder: Path) -> None:
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not media_type.startswith(b"multipart/") or not boundary:
            raise BadResponse("Content-Type must be multipart/related with a boundary")
        self.parts: list[Part] = []
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._name = b""
        self._value = b""
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as exc:
            raise BadResponse(str(exc)) from exc

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            BadResponse: The body is not what its boundary says.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise BadResponse(f"malformed multipart body: {exc}") from exc

    def close(self) -> list[Part]:
        """The parts, after the last byte.

        Raises:
            BadResponse: No part, or the closing delimiter is missing.
        """
        self.discard_open()
        if not self._is_complete:
            raise BadResponse("multipart body without its closing delimiter")
        if not self.parts:
            raise BadResponse("multipart body without parts")
        return self.parts

    def discard_open(self) -> None:
        """Close the file being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self, keep: Container[Path] = ()) -> None:
        """Delete the files of the parts, but those to keep."""
        self.discard_open()
        for part in self.parts:
            if part.path not in keep:
                part.path.unlink(missing_ok=True)

    def _begin(self) -> None:
        part = Part(self._folder / f"{secrets.token_hex(16)}.part")
        self.parts.append(part)
        self._file = part.path.open("wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].size_bytes += end - start
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self.discard_open()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name, value = self._name.decode("latin-1").lower(), self._value.decode("latin-1").strip()
        self.parts[-1].headers[name] = value
        self._name = self._value = b""

    def _finish(self) -> None:
        self._is_complete = True


def new_boundary(length: int) -> str:
    """A random boundary of so many hexadecimal digits."""
    return secrets.token_hex((length + 1) // 2)[:length]


def closer(boundary: str) -> bytes:
    """The closing delimiter; alone it is the body of "no results" (contract §1.5 d)."""
    return f"--{boundary}--\r\n".encode()


def wrap(boundary: str, media_type: str, body: bytes) -> bytes:
    """One small part as a whole multipart body."""
    return _part_head(boundary, media_type) + body + b"\r\n" + closer(boundary)


async def write_parts(
    parts: AsyncIterable[AsyncIterable[bytes]],
    boundary: str,
    *,
    gzip: bool = False,
    truncate_part: int | None = None,
) -> AsyncIterator[bytes]:
    """Bodies as a multipart stream.

    Args:
        parts: The bodies, each in chunks.
        boundary: The delimiter between them.
        gzip: Compress each body and call it application/dicom+gzip.
        truncate_part: Stop inside the body with this index, without the closing delimiter.
    """
    media_type = "application/dicom+gzip" if gzip else "application/dicom"
    index = 0
    async for body in parts:
        yield _part_head(boundary, media_type)
        async for chunk in _compressed(body) if gzip else body:
            if index == truncate_part:
                yield chunk[: len(chunk) // 2]
                return
            yield chunk
        yield b"\r\n"
        index += 1
    yield closer(boundary)


def _part_head(boundary: str, media_type: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()


async def _compressed(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    # 31: a gzip header and trailer around the deflate stream, not zlib's own
    deflate = zlib.compressobj(level=1, wbits=31)
    async for chunk in body:
        if compressed := deflate.compress(chunk):
            yield compressed
    yield deflate.flush()

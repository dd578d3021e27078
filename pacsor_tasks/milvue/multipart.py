"""Reads a multipart body as it arrives, part by part, whatever the size of its blocks.

The delimiters are found by python-multipart's low-level parser; here is what it leaves open: text
before the first delimiter, a body that stops before the closing one, and the bare closing
delimiter the API sends when there is nothing to return.

Source: RFC 2046 §5.1.1, contract §1.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from pacsor_tasks.errors import BadResponse, PeerUnavailable

#: Text before the first delimiter, or the whole of a body that has none.
PREAMBLE_LIMIT_BYTES = 64 * 1024
_NEVER = re.compile(rb"(?!)")
_CLOSER = re.compile(rb"\s*--[^\r\n]{1,200}--\s*")


class Truncated(PeerUnavailable):
    """The body ended before its closing delimiter: something cut the answer off."""


class PartSink(Protocol):
    """Takes the bytes of one part."""

    def write(self, data: memoryview, /) -> object:
        """Take the next bytes."""

    def finish(self) -> None:
        """The part is whole."""


OpenPart = Callable[[Mapping[str, str]], PartSink]


def read_parts(blocks: Iterable[bytes], boundary: str | None, open_part: OpenPart) -> int:
    """Send each part of a multipart body to the sink `open_part` returns for its headers.

    Args:
        blocks: The body, cut anywhere.
        boundary: Of the Content-Type header. Without one only a bare closing delimiter is valid.
        open_part: Gets the part's headers, names in lower case.

    Returns:
        How many parts there were.

    Raises:
        Truncated: The body has no closing delimiter.
        BadResponse: It is not a multipart body.
    """
    stream = iter(blocks)
    opening = _opening(stream, boundary)
    if boundary is None or not opening:
        return 0
    parts = _Parts(open_part)
    try:
        parser = parts.parser(boundary)
        parser.write(opening)
        for block in stream:
            parser.write(block)
    except FormParserError as exc:
        raise BadResponse("the multipart answer cannot be parsed") from exc
    if not parts.is_closed:
        raise Truncated("the multipart answer ended before its closing delimiter")
    return parts.count


def _opening(stream: Iterator[bytes], boundary: str | None) -> bytes:
    """What was read up to and behind the first delimiter, from the delimiter on.

    Returns:
        b"" when the first delimiter is the closing one, of whatever boundary if it is all there is.
    """
    first = _first_delimiter(boundary)
    body = b""
    for block in stream:
        body += block
        if found := first.search(body):
            if found[2] == b"--":
                return b""
            return found[1] + b"\r\n" + body[found.end() :]
        if len(body) > PREAMBLE_LIMIT_BYTES:
            raise BadResponse("the multipart answer does not contain its boundary")
    if _CLOSER.fullmatch(body):
        return b""
    if boundary is None:
        raise BadResponse("the multipart answer names no boundary")
    raise Truncated("the multipart answer ended before its first delimiter")


def _first_delimiter(boundary: str | None) -> re.Pattern[bytes]:
    """Matches the delimiter on a line of its own, with what the parser does not take after it."""
    if boundary is None:
        return _NEVER
    escaped = re.escape(boundary.encode("latin-1", "replace"))
    return re.compile(rb"(?:\A|\r\n)(--" + escaped + rb")(--|[ \t]*\r\n)")


class _Parts:
    """Turns the parser's callbacks into sinks."""

    def __init__(self, open_part: OpenPart) -> None:
        self.count = 0
        self.is_closed = False
        self._open_part = open_part
        self._sink: PartSink | None = None
        self._headers: dict[str, str] = {}
        self._name = bytearray()
        self._value = bytearray()

    def parser(self, boundary: str) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._field_value,
                "on_header_end": self._field_end,
                "on_headers_finished": self._opened,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._closed,
            },
        )

    def _begin(self) -> None:
        self._headers = {}

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _field_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _field_end(self) -> None:
        name = self._name.decode("latin-1").strip().lower()
        self._headers[name] = self._value.decode("latin-1").strip()
        self._name.clear()
        self._value.clear()

    def _opened(self) -> None:
        self.count += 1
        self._sink = self._open_part(self._headers)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(memoryview(data)[start:end])

    def _end(self) -> None:
        if self._sink is not None:
            self._sink.finish()
            self._sink = None

    def _closed(self) -> None:
        self.is_closed = True

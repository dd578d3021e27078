"""A data set's way from the socket into its file without Python between: `_native.pour`.

    PdataParser, Inbound ──Channel──► Arrival ──► Partial ──► BufferedSocket ──► _native.pour

Each adds what it knows: where in the stream, which file, which socket. What is not an ordinary PDV
of the data set stays unread, for the parser in Python, which also does it all where nothing is
compiled.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

from receiver.pdata import Position


class Stop(IntEnum):
    """Why it went no further. As `_native` counts them."""

    #: the data set is whole
    ENDED = 0
    #: nothing came for a while, or there is something else to do
    IDLE = 1
    #: so much that others may want to look: the disk's watermark
    ENOUGH = 2
    #: something else comes, or something wrong
    UNUSUAL = 3
    #: the peer sends no more
    HUNG_UP = 4
    SOCKET_FAILED = 5
    FILE_FAILED = 6


class Sink(NamedTuple):
    """The file, and how far it is."""

    fd: int
    n_written: int
    #: bytes from its beginning that the disk was told to write
    n_begun: int
    #: tell it each time so many more are there; 0: never
    early_bytes: int


class Poured(NamedTuple):
    """How far it went."""

    stop: Stop
    #: of the file; 0: it was none
    errno: int
    position: Position
    n_written: int
    n_begun: int


class Source(Protocol):
    """A socket that data can be poured from."""

    def pour(self, sink: Sink, context_id: int, position: Position) -> Poured:
        """Go as far as it goes.

        Raises:
            OSError: The connection is broken.
        """


class Channel:
    """A source, and where in its stream a data set's file goes on.

    Args:
        source: The socket.
        context_id: Presentation context of the message.
        position: Of the stream, between two heads or inside a PDV.
    """

    def __init__(self, source: Source, context_id: int, position: Position) -> None:
        self.position = position
        self._source = source
        self._context_id = context_id

    def pour(self, sink: Sink) -> Poured:
        """Go as far as it goes; `position` says how far that was.

        Raises:
            OSError: The connection is broken.
        """
        poured = self._source.pour(sink, self._context_id, self.position)
        self.position = poured.position
        return poured

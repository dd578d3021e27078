"""Steps over the elements of an encoded data set, reading forward only and nothing but their heads.

Source: DICOM PS3.5 §7 (data set encoding), §6.2.2 (UN of undefined length), §A.4 (fragments).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO, NamedTuple, Protocol

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
MAX_DEPTH = 64
BLOCK_BYTES = 64 * 1024


class Stream(Protocol):
    """A data set read forward only."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def skip(self, size: int, /) -> None:
        """Step over bytes, perhaps past the end."""

    def tell(self) -> int:
        """Position in bytes."""


class Encoding(NamedTuple):
    """How elements are written."""

    is_explicit: bool
    #: as in `struct`
    order: str


IMPLICIT = Encoding(is_explicit=False, order="<")
EXPLICIT = Encoding(is_explicit=True, order="<")
BIG = Encoding(is_explicit=True, order=">")


class Head(NamedTuple):
    """One element's head."""

    tag: int
    vr: bytes
    length: int
    #: its bytes, with the length set to zero
    emptied: bytes


class Ended(Exception):
    """The bytes end inside an element."""


class Malformed(Exception):
    """Not a data set of its transfer syntax."""


class Walk:
    """Steps over elements by their lengths."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def head(self, encoding: Encoding, *, at_top: bool = False) -> Head | None:
        """The next element's head; None at the end of the data, if it may end there."""
        raw = self._stream.read(8)
        if len(raw) < 8:
            if at_top:
                return None  # also the odd byte of padding some writers leave
            raise Ended
        order = encoding.order
        group, number, length = struct.unpack(f"{order}HHI", raw)
        tag = group << 16 | number
        if not encoding.is_explicit or group == 0xFFFE:
            return Head(tag, b"", length, raw[:4] + bytes(4))
        vr = raw[4:6]
        if vr in SHORT_VRS:
            return Head(tag, vr, struct.unpack(f"{order}H", raw[6:])[0], raw[:6] + bytes(2))
        if not (vr.isalpha() and vr.isupper()):
            raise Malformed("no VR where one must be")
        raw_length = self._stream.read(4)
        if len(raw_length) < 4:
            raise Ended
        return Head(tag, vr, struct.unpack(f"{order}I", raw_length)[0], raw[:8] + bytes(4))

    def skip_value(self, head: Head, encoding: Encoding) -> None:
        """Step over a value, nested items and fragments included."""
        if head.length != UNDEFINED:
            self._stream.skip(head.length)
            return
        # One entry per open level: (is it an item?, encoding). A list, since depth is the sender's.
        levels = [(False, _inner(head, encoding))]
        while levels:
            is_item, inner = levels[-1]
            child = self.head(inner)
            if child is None or len(levels) > MAX_DEPTH:
                raise Malformed(f"items nested more than {MAX_DEPTH} deep")
            if child.tag == (ITEM_END if is_item else SEQUENCE_END):
                levels.pop()
            elif not is_item and child.tag != ITEM:
                raise Malformed("a sequence holds something that is not an item")
            elif child.length == UNDEFINED:
                levels.append((not is_item, _inner(child, inner)))
            else:
                self._stream.skip(child.length)


def _inner(head: Head, encoding: Encoding) -> Encoding:
    # PS3.5 §6.2.2 note: UN of undefined length holds implicit VR little endian.
    return IMPLICIT if head.vr == b"UN" else encoding


class Plain:
    """A file as a `Stream`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.tell = file.tell

    def skip(self, size: int, /) -> None:
        self._file.seek(size, io.SEEK_CUR)


class Inflated:
    """The inflated rest of a file as a `Stream`, a block at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._ready = b""
        self._at = 0

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        while size and self._fill():
            part = self._ready[:size]
            self._ready = self._ready[size:]
            size -= len(part)
            self._at += len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, size: int, /) -> None:
        while size and (block := self.read(min(size, BLOCK_BYTES))):
            size -= len(block)

    def tell(self) -> int:
        return self._at

    def _fill(self) -> bool:
        while not self._ready and not self._inflate.eof:
            raw = self._inflate.unconsumed_tail or self._file.read(BLOCK_BYTES)
            self._ready = self._inflate.decompress(raw, BLOCK_BYTES)
            if not raw:
                break  # what it gave, if anything, was left over from the input before
        return bool(self._ready)

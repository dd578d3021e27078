"""Walks over the elements of an encoded data set without decoding it.

Elements are taken in their order, never searched for: a nested data set may hold the same tags.

Source: DICOM PS3.5 §7 (data set encoding), §6.2.2 (UN of undefined length), Annex A (syntaxes).
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from typing import NamedTuple

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.native import Buffer as Buffer
from pacsor_tasks.native import native

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
#: Explicit VRs with a 16-bit length; every other one has 32 bits (PS3.5 §7.1.2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(b" "))
#: Those with one, as far as they are known (PS3.5 Table 7.1-1).
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split(b" "))
#: A header needs a few hundred elements; nested ones before group 0020 a few thousand.
MAX_ELEMENTS = 200_000
MAX_VALUE_BYTES = 1024
FIRST_INFLATE_BYTES = 1 << 16
MAX_INFLATE_BYTES = 1 << 24


class Truncated(BadResponse):
    """The bytes end inside an element."""


class Encoding(NamedTuple):
    """How elements are written."""

    explicit: bool
    #: as in `struct`
    order: str


class Element(NamedTuple):
    """One element's head."""

    tag: int
    #: empty where implicit
    vr: bytes
    length: int
    #: byte at which the value begins
    at: int


class Ordinary(NamedTuple):
    """What the beginning of a data set holds."""

    #: the raw values that were wanted and are there
    found: dict[int, bytes]
    #: byte at which the last element that begins in it ends
    end: int


IMPLICIT = Encoding(explicit=False, order="<")
EXPLICIT = Encoding(explicit=True, order="<")
BIG = Encoding(explicit=True, order=">")
#: as `_native` counts them
_NUMBERS = {IMPLICIT: 0, EXPLICIT: 1, BIG: 2}
_HEADS = {
    IMPLICIT: (struct.Struct("<HHI"), struct.Struct("<I")),
    EXPLICIT: (struct.Struct("<HH2sH"), struct.Struct("<I")),
    BIG: (struct.Struct(">HH2sH"), struct.Struct(">I")),
}


def find(
    data: Buffer, start: int, syntax: str, wanted: frozenset[int], *, to_end: bool = False
) -> dict[int, bytes]:
    """The raw values of the `wanted` top-level elements that are there.

    Args:
        data: Holds the data set from `start` on; not copied.
        start: Byte at which the data set begins.
        syntax: Transfer syntax UID.
        wanted: Tags, as 32-bit numbers.
        to_end: Also follow the elements to the end of the data, by their lengths (not if deflated).

    Raises:
        BadResponse: Not a data set in that transfer syntax, too many elements, or cut off.
    """
    if syntax == DEFLATED_LE:
        return _find_deflated(data, start, wanted)
    return _Walk(data, _encoding(syntax)).find(start, wanted, to_end=to_end)


def find_ordinary(data: Buffer, syntax: str, wanted: frozenset[int]) -> Ordinary | None:
    """As `find`, of the beginning of a data set: as long as its elements are ordinary.

    Args:
        data: The data set's beginning; all of it or less.
        syntax: Transfer syntax UID; not the deflated one.
        wanted: Tags, as 32-bit numbers.

    Returns:
        None if anything is unusual, or it ends before the last element's head.
    """
    encoding = _encoding(syntax)
    walk, found = _Walk(data, encoding), dict[int, bytes]()
    at, previous = walk.stride(0, -1, UNDEFINED, wanted, found)
    if at == walk.size:
        return Ordinary(found, at)
    try:
        last = read_element(data, at, walk.size, encoding)
    except BadResponse:
        return None
    # An element of undefined length, or a strange one.
    if last.length == UNDEFINED or last.tag <= previous or last.tag in wanted or not walk.left:
        return None
    return Ordinary(found, last.at + last.length)


def number_of(syntax: str) -> int:
    """The encoding of a transfer syntax, as `_native` counts them. Not of the deflated one."""
    return _NUMBERS[_encoding(syntax)]


def _encoding(syntax: str) -> Encoding:
    return {IMPLICIT_LE: IMPLICIT, EXPLICIT_BE: BIG}.get(syntax, EXPLICIT)


def _find_deflated(data: Buffer, start: int, wanted: frozenset[int]) -> dict[int, bytes]:
    limit = FIRST_INFLATE_BYTES
    while True:
        head, is_whole = _inflate(data, start, limit)
        try:
            return _Walk(head, EXPLICIT).find(0, wanted)
        except Truncated:
            if is_whole or limit >= MAX_INFLATE_BYTES:
                raise
        limit *= 16


def _inflate(data: Buffer, start: int, limit: int) -> tuple[bytes, bool]:
    """The first `limit` inflated bytes, and whether there are no more."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    try:
        for at in range(start, len(data), 1 << 16):
            # Small pieces: zlib keeps a copy of the input it did not get to.
            out += stream.decompress(data[at : at + (1 << 16)], limit - len(out))
            if stream.eof or len(out) >= limit:
                break
    except zlib.error as exc:
        raise BadResponse("the deflated data set cannot be inflated") from exc
    return bytes(out), len(out) < limit


class _Walk:
    """Steps over the elements of one data set."""

    def __init__(self, data: Buffer, encoding: Encoding) -> None:
        self.data = data
        self.size = len(data)
        self.encoding = encoding
        self.left = MAX_ELEMENTS

    def find(self, at: int, wanted: frozenset[int], *, to_end: bool = False) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        last, previous = max(wanted), -1
        while at < self.size:
            at, previous = self.stride(at, previous, last, wanted, found)
            if at == self.size:
                break
            element = self._next(at, self.encoding)
            if element.tag > last:
                break
            if element.tag in wanted:
                found[element.tag] = value_of(self.data, element, self.size)
            previous, at = element.tag, self._skip(element)
        else:
            if at > self.size:
                raise Truncated("the data set ends inside an element")
        if to_end:
            self._follow(at, previous)
        return found

    def _follow(self, at: int, previous: int) -> None:
        """Raise if the rest is cut off. Whatever else is strange is not the header's business."""
        try:
            while at < self.size and self.left:
                at, previous = self.stride(at, previous, UNDEFINED, frozenset(), {})
                if self.size - at < 8 and not any(bytes(self.data[at : self.size])):
                    return  # padding
                element = self._next(at, self.encoding)
                if element.tag <= previous:
                    return  # rubbish after the last element
                previous, at = element.tag, self._skip(element)
        except Truncated:
            raise
        except BadResponse:
            return
        if at > self.size:
            raise Truncated("the data set ends inside an element")

    def stride(
        self, at: int, previous: int, last: int, wanted: frozenset[int], found: dict[int, bytes]
    ) -> tuple[int, int]:
        """Step quickly over ordinary elements, from `at` on and after the tag `previous`.

        Stops in front of whatever is not one: of undefined length, out of order, beyond `last`,
        cut off, or wrong. It never raises, so that what it is gets decided in one place.

        Returns:
            Where it stopped, and the last tag before.
        """
        if native is None:
            return self._stride(at, previous, last, wanted, found)
        at, previous, self.left = native.stride(
            self.data,
            at,
            previous,
            last,
            tuple(wanted),
            _NUMBERS[self.encoding],
            self.left,
            MAX_VALUE_BYTES,
            found,
        )
        return at, previous

    def _stride(
        self, at: int, previous: int, last: int, wanted: frozenset[int], found: dict[int, bytes]
    ) -> tuple[int, int]:
        data, size, left = self.data, self.size, self.left
        head, long = _HEADS[self.encoding]
        explicit = self.encoding.explicit
        with suppress(struct.error):  # too few bytes for a head
            while left:
                if explicit:
                    group, number, vr, length = head.unpack_from(data, at)
                    begin = at + 8
                    if vr not in SHORT_VRS:
                        if vr not in LONG_VRS:
                            break
                        (length,) = long.unpack_from(data, begin)
                        begin += 4
                else:
                    group, number, length = head.unpack_from(data, at)
                    begin = at + 8
                tag, end = group << 16 | number, begin + length
                if not previous < tag <= last or end > size or length == UNDEFINED:
                    break
                if tag in wanted:
                    if length > MAX_VALUE_BYTES:
                        break
                    found[tag] = bytes(data[begin:end])
                previous, at, left = tag, end, left - 1
        self.left = left
        return at, previous

    def _next(self, at: int, encoding: Encoding) -> Element:
        self.left -= 1
        if self.left < 0:
            raise BadResponse(f"more than {MAX_ELEMENTS} elements in the header")
        return read_element(self.data, at, self.size, encoding)

    def _skip(self, element: Element) -> int:
        """Where the next element begins; may lie past the end of the data."""
        if element.length != UNDEFINED:
            return element.at + element.length
        at = element.at
        # One entry per open level: (is it an item?, encoding). A list, since depth is the sender's.
        levels = [(False, self._inner(element, self.encoding))]
        while levels:
            is_item, encoding = levels[-1]
            inner = self._next(at, encoding)
            at = inner.at
            if inner.tag == (ITEM_END if is_item else SEQUENCE_END):
                levels.pop()
            elif not is_item and inner.tag != ITEM:
                raise BadResponse("a sequence holds something that is not an item")
            elif inner.length == UNDEFINED:
                levels.append((not is_item, self._inner(inner, encoding)))
            else:
                at += inner.length
        return at

    @staticmethod
    def _inner(element: Element, encoding: Encoding) -> Encoding:
        # PS3.5 §6.2.2 note: UN of undefined length holds implicit VR little endian.
        return IMPLICIT if element.vr == b"UN" else encoding


def read_element(data: Buffer, at: int, size: int, encoding: Encoding) -> Element:
    """The head of the element at byte `at`.

    Raises:
        BadResponse: There is none.
    """
    if at + 8 > size:
        raise Truncated("the data set ends inside an element")
    order = encoding.order
    group, number, length = struct.unpack_from(f"{order}HHI", data, at)
    tag = group << 16 | number
    if not encoding.explicit or group == 0xFFFE:
        return Element(tag, b"", length, at + 8)
    vr = bytes(data[at + 4 : at + 6])
    if vr in SHORT_VRS:
        return Element(tag, vr, struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8)
    if not (vr.isalpha() and vr.isupper()):
        raise BadResponse("not a data set of its transfer syntax: no VR where one must be")
    if at + 12 > size:
        raise Truncated("the data set ends inside an element")
    return Element(tag, vr, struct.unpack_from(f"{order}I", data, at + 8)[0], at + 12)


def value_of(data: Buffer, element: Element, size: int) -> bytes:
    """The bytes of a short value.

    Raises:
        BadResponse: It is too long, or cut off.
    """
    if element.length > MAX_VALUE_BYTES:
        raise BadResponse(f"({element.tag:08X}) is longer than {MAX_VALUE_BYTES} bytes")
    end = element.at + element.length
    if end > size:
        raise Truncated("the data set ends inside an element")
    return bytes(data[element.at : end])

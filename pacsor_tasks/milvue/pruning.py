"""Pruned copies: an instance without its pixels, for asking signed URLs.

File meta and every element stay as they are, byte for byte, those after the pixels too (padding,
digital signatures, which no longer hold: the full file follows). Pixel Data, Float and Double Float
Pixel Data keep their element, with a native value of length zero also in an encapsulated transfer
syntax. Only a group length of group 7FE0 (retired) is dropped, since it would now be wrong.

The pixels are stepped over by the lengths in the file, never read or searched through, and the copy
is made of spans of the file while it is sent. A deflated data set cannot be cut that way: it is
inflated past and deflated again, without its pixels.

Source: contract §1.4; DICOM PS3.5 §7, §A.4, §A.5; PS3.10 §7.1.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO, NamedTuple

from pacsor_tasks.milvue.bodies import FileBody, Span, unreadable
from pacsor_tasks.milvue.outcomes import UnreadableInstance, UploadItem
from pacsor_tasks.milvue.walk import (
    BIG,
    BLOCK_BYTES,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    Encoding,
    Ended,
    Inflated,
    Malformed,
    Plain,
    Stream,
    Walk,
)

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
PIXEL_GROUP_LENGTH = 0x7FE00000
LAST_TAG = max(PIXEL_TAGS)
TRANSFER_SYNTAX_TAG = 0x00020010
MAX_UID_BYTES = 64
#: Also GE's private syntax, whose data set is implicit little endian.
IMPLICIT_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.113619.5.2"})
BIG_ENDIAN_SYNTAXES = frozenset({"1.2.840.10008.1.2.2"})
#: Deflated Explicit VR LE and the JPIP variants: the data set after the file meta is one stream.
DEFLATED_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
#: What a deflated instance may hold besides its pixels: that much is in memory while it is sent.
MAX_DEFLATED_BYTES = 64 * 1024 * 1024


class Cut(NamedTuple):
    """An element of the original, and what stands in its place."""

    start: int
    end: int
    replacement: bytes


def pruned(item: UploadItem) -> FileBody:
    """The instance without its pixels, as a body to send.

    A file cut off inside its pixels is pruned all the same: the API decides what it is worth.

    Raises:
        UnreadableInstance: Not a DICOM file, or not the data set its transfer syntax says.
    """
    try:
        with item.path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            syntax = _read_meta(file)
            start = file.tell()
            if syntax in DEFLATED_SYNTAXES:
                return FileBody(item, (Span(0, start), _deflated_again(file, start)))
            return FileBody(item, list(_remaining(file, syntax, size)))
    except OSError as exc:
        raise unreadable(item, exc) from exc
    except Ended:
        raise UnreadableInstance(item.sop_instance_uid, "its file ends in its header") from None
    except (Malformed, zlib.error) as exc:
        raise UnreadableInstance(
            item.sop_instance_uid, f"its file is not well-formed DICOM: {exc}"
        ) from exc


def _remaining(file: BufferedReader, syntax: str, size: int) -> Iterator[Span | bytes]:
    at = 0
    for cut in find_pixels(Plain(file), encoding_of(syntax, file.peek(6)[4:6])):
        yield Span(at, cut.start)
        yield cut.replacement
        at = min(cut.end, size)
    yield Span(at, size)


def encoding_of(syntax: str, first_vr: bytes) -> Encoding:
    """How a data set is written.

    Args:
        syntax: Its transfer syntax; a private one is taken for little endian.
        first_vr: The two bytes where its first element has its VR, if VRs are explicit. They
            decide between explicit and implicit: writers that get that wrong exist.
    """
    if syntax in BIG_ENDIAN_SYNTAXES:
        return BIG
    if len(first_vr) < 2:
        return IMPLICIT if syntax in IMPLICIT_SYNTAXES else EXPLICIT
    return EXPLICIT if first_vr.isalpha() and first_vr.isupper() else IMPLICIT


def find_pixels(stream: Stream, encoding: Encoding) -> Iterator[Cut]:
    """The top-level elements to replace, in order; reads no further than the last of them."""
    walk = Walk(stream)
    while True:
        start = stream.tell()
        head = walk.head(encoding, at_top=True)
        if head is None or head.tag > LAST_TAG:
            return
        is_pixels = head.tag in PIXEL_TAGS
        try:
            walk.skip_value(head, encoding)
        except Ended:
            if not is_pixels:
                raise
        if is_pixels:
            yield Cut(start, stream.tell(), head.emptied)
        elif head.tag == PIXEL_GROUP_LENGTH:
            yield Cut(start, stream.tell(), b"")


def _read_meta(file: BufferedReader) -> str:
    """The transfer syntax; leaves the file at the data set.

    The group length is not trusted: some writers have it wrong.
    """
    if file.read(132)[128:] != b"DICM":
        raise Malformed("no DICM after its preamble")
    walk = Walk(Plain(file))
    syntax = ""
    while file.peek(2)[:2] == b"\x02\x00":
        head = walk.head(EXPLICIT)
        if head is None or head.length == UNDEFINED:
            raise Malformed("no file meta information")
        if head.tag == TRANSFER_SYNTAX_TAG and head.length <= MAX_UID_BYTES:
            syntax = file.read(head.length).rstrip(b"\0 ").decode("ascii", "replace")
        else:
            walk.skip_value(head, EXPLICIT)
    if not syntax:
        raise Malformed("no transfer syntax in its file meta information")
    return syntax


def _deflated_again(file: BinaryIO, start: int) -> bytes:
    cuts = list(find_pixels(Inflated(file), EXPLICIT))
    file.seek(start)
    stream = Inflated(file)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    out = bytearray()
    kept = 0
    for block in _kept(stream, cuts):
        kept += len(block)
        if kept > MAX_DEFLATED_BYTES:
            raise Malformed(f"deflated, with more than {MAX_DEFLATED_BYTES} bytes beside pixels")
        out += deflate.compress(block)
    out += deflate.flush()
    return bytes(out) + bytes(len(out) % 2)


def _kept(stream: Inflated, cuts: list[Cut]) -> Iterator[bytes]:
    for cut in cuts:
        while left := cut.start - stream.tell():
            if not (block := stream.read(min(left, BLOCK_BYTES))):
                raise Ended
            yield block
        yield cut.replacement
        stream.skip(cut.end - cut.start)
    while block := stream.read(BLOCK_BYTES):
        yield block

"""The compiled inner loops and their twins in Python: the same of everything."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import struct
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacsor_tasks.dicom.elements import (
    _NUMBERS,
    BIG,
    EXPLICIT,
    IMPLICIT,
    LONG_VRS,
    MAX_VALUE_BYTES,
    SHORT_VRS,
    Encoding,
    _Walk,
)
from pacsor_tasks.dicom.headers import SERIES_UID, WANTED
from pacsor_tasks.native import is_stale, native
from receiver.pouring import Stop

VRS = sorted(SHORT_VRS | LONG_VRS)
UNDEFINED = 0xFFFFFFFF

needs_native = pytest.mark.skipif(native is None, reason="nothing is compiled")


@pytest.mark.parametrize(
    ("source", "crc", "stale"),
    [(None, 1, False), (b"int a;", 0x5B2B1B3C, True), (b"int a;", -1, False)],
)
def test_what_was_built_of_another_source_is_not_used(
    tmp_path: Path, source: bytes | None, crc: int, stale: bool
) -> None:
    built = tmp_path / "_native.cpython-311.so"
    if source is not None:
        (tmp_path / "_native.c").write_bytes(source)
        assert not is_stale(built, zlib.crc32(source))
    assert is_stale(built, crc) is stale


def test_where_there_is_a_compiler_it_is_compiled() -> None:
    if os.environ.get("WITHOUT_NATIVE") or shutil.which("cc") is None:
        pytest.skip("nothing is to be compiled")
    assert native is not None, "make install builds it"


@st.composite
def elements(draw: st.DrawFn, encoding: Encoding) -> bytes:
    """An element, or nearly one."""
    tag = draw(st.one_of(st.sampled_from(sorted(WANTED)), st.integers(0, 0xFFFFFFFF)))
    value = draw(st.one_of(st.binary(max_size=20), st.just(bytes(MAX_VALUE_BYTES + 2))))
    length = draw(st.sampled_from([len(value)] * 8 + [len(value) + 1, 3, UNDEFINED]))
    order, head = encoding.order, struct.pack(f"{encoding.order}HH", tag >> 16, tag & 0xFFFF)
    if not encoding.explicit:
        return head + struct.pack("<I", length) + value
    vr = draw(st.one_of(st.sampled_from(VRS), st.binary(min_size=2, max_size=2)))
    if vr in SHORT_VRS:
        return head + vr + struct.pack(f"{order}H", length & 0xFFFF) + value
    return head + vr + bytes(2) + struct.pack(f"{order}I", length) + value


@st.composite
def walks(draw: st.DrawFn) -> tuple[bytes, Encoding, int, int]:
    """Bytes, how they are encoded, where it begins, how many elements at most."""
    encoding = draw(st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
    parts = draw(st.lists(elements(encoding), max_size=12))
    if draw(st.booleans()):
        parts.sort(key=lambda part: struct.unpack_from(f"{encoding.order}HH", part))
    data = b"".join(parts)
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    start = draw(st.sampled_from([0, 0, 0, min(4, len(data))]))
    return data, encoding, start, draw(st.sampled_from([200_000, 3, 0]))


@needs_native
@settings(deadline=None, max_examples=500)
@given(walks(), st.sampled_from([SERIES_UID, UNDEFINED]), st.sampled_from([-1, 0x00080018]))
def test_the_elements_are_stepped_over_alike(
    given_: tuple[bytes, Encoding, int, int], last: int, previous: int
) -> None:
    data, encoding, at, left = given_
    walk, by_hand = _Walk(data, encoding), dict[int, bytes]()
    walk.left = left
    expected = (*walk._stride(at, previous, last, WANTED, by_hand), walk.left)
    found: dict[int, bytes] = {}
    assert native is not None
    number, wanted = _NUMBERS[encoding], tuple(WANTED)
    stepped = native.stride(data, at, previous, last, wanted, number, left, MAX_VALUE_BYTES, found)
    assert (stepped, found) == (expected, by_hand)


@needs_native
def test_what_makes_no_sense_is_refused() -> None:
    assert native is not None
    with pytest.raises(ValueError, match="place"):
        native.stride(b"", -1, -1, 1, (), 0, 1, 1, {})
    with pytest.raises(ValueError, match="encoding"):
        native.stride(b"", 0, -1, 1, (), 3, 1, 1, {})
    with pytest.raises(ValueError, match="tags"):
        native.stride(b"", 0, -1, 1, tuple(range(17)), 0, 1, 1, {})
    with pytest.raises(ValueError, match="pieces"):
        native.write_new("/nowhere", [b""] * 1001, False)


@needs_native
def test_a_buffer_gets_what_is_there_and_waits_for_the_first_byte() -> None:
    assert native is not None
    ours, theirs = socket.socketpair()
    buffer, wake = memoryview(bytearray(10)), os.eventfd(0)
    try:
        fds = ours.fileno(), wake
        assert native.fill(*fds, buffer, 0, 4, 0) == (-1, False)
        later = threading.Timer(0.05, theirs.sendall, (b"abc",))
        later.start()
        assert native.fill(*fds, buffer, 2, 4, 5000) == (3, False)
        assert bytes(buffer[2:5]) == b"abc"
        theirs.sendall(b"0123456789")
        assert native.fill(*fds, buffer, 6, 4, 5000) == (4, False)
        assert native.fill(*fds, buffer, 0, 4, 5000) == (6, False)
        os.eventfd_write(wake, 1)
        assert native.fill(*fds, buffer, 0, 4, 5000) == (-1, True)
        theirs.close()
        assert native.fill(*fds, buffer, 0, 4, 5000) == (0, False)
        with pytest.raises(ValueError, match="room"):
            native.fill(*fds, buffer, 10, 4, 0)
    finally:
        ours.close()
        theirs.close()
        os.close(wake)
    with pytest.raises(OSError, match="Bad file"):
        native.fill(*fds, buffer, 0, 4, 0)


@needs_native
@pytest.mark.timeout(20)
def test_no_more_is_waited_for_than_must_come(tmp_path: Path) -> None:
    assert native is not None
    ours, theirs = socket.socketpair()
    wake, file = os.eventfd(0), os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    head = struct.pack(">LBB", 4, 1, 2)
    theirs.sendall(b"abcdefghi" + head[:3])
    # Inside a PDV; another one with two bytes follows in its PDU, and it is the last.
    buffer = memoryview(bytearray(12))
    later = threading.Timer(0.3, theirs.sendall, (head[3:] + b"jk",))
    later.start()
    try:
        said = native.pour(ours.fileno(), wake, file, buffer, 1, 8, 9, 0, 0, 0, 0, 1 << 20, 60_000)
        assert (said[0], os.pread(file, 20, 0)) == (Stop.ENDED, b"abcdefghijk")
    finally:
        later.join()
        for fd in (wake, file):
            os.close(fd)
        ours.close()
        theirs.close()


class Poured(NamedTuple):
    stop: int
    errno: int
    unread: bytes
    pdu_left: int
    pdv_left: int


def pour(stream: bytes, file: int, pdv_left: int) -> Poured:
    """A stream that goes on inside a PDV of a PDU of its own, until it is over."""
    assert native is not None
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    wake, buffer = os.eventfd(0), memoryview(bytearray(1000))
    with ours:
        with theirs:
            theirs.sendall(stream)
        said = native.pour(
            ours.fileno(), wake, file, buffer, 1, 0, pdv_left, 0, 0, 0, 0, 1 << 20, 1000
        )
        stop, errno, start, end, pdu_left, pdv_left, *_ = said
        unread = bytes(buffer[start:end]) + ours.recv(1 << 20)
    os.close(wake)
    return Poured(stop, errno, unread, pdu_left, pdv_left)


DATA = random.Random(1).randbytes(20_000)
NEXT = struct.pack(">BxLLBB", 4, 8, 4, 1, 2) + b"jk"


@needs_native
def test_data_go_into_the_file(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    poured = pour(DATA + NEXT + b"rest", file, len(DATA))
    assert poured == (Stop.ENDED, 0, b"rest", 0, 0)
    assert os.pread(file, 30_000, 0) == DATA + b"jk"
    os.close(file)


@needs_native
def test_a_full_disk_leaves_the_stream_where_it_is_known_to_be() -> None:
    file = os.open("/dev/full", os.O_WRONLY)
    poured = pour(DATA + NEXT, file, len(DATA))
    os.close(file)
    assert (poured.stop, poured.errno) == (Stop.FILE_FAILED, errno.ENOSPC)
    assert poured.pdu_left == 0
    assert poured.unread == (DATA + NEXT)[len(DATA) - poured.pdv_left :]


@needs_native
def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    assert native is not None
    path = tmp_path / "new"
    fd = native.write_new(str(path), [b"one", memoryview(b"two"), b""], True)
    os.close(fd)
    assert path.read_bytes() == b"onetwo"
    with pytest.raises(FileExistsError) as caught:
        native.write_new(str(path), [b"other"], False)
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        native.write_new(str(tmp_path / "no" / "new"), [b"other"], False)
    assert path.read_bytes() == b"onetwo"


@needs_native
def test_a_file_is_added_only_where_it_belongs(tmp_path: Path) -> None:
    assert native is not None
    study = tmp_path / "study"
    study.mkdir()
    (study / "taken").touch()
    partial = tmp_path / "partial"
    partial.write_bytes(b"data")
    gate, lock = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("gate", "lock"))
    fd = os.open(partial, os.O_RDONLY)
    inode = study.stat().st_ino

    def add(name: str, inode: int) -> int:
        assert native is not None
        new = str(study / name)
        return native.add_new(gate, lock, str(study), inode, str(partial), new, fd)

    assert add("taken", inode) == errno.EEXIST
    assert add("new", inode + 1) == errno.ESTALE
    assert os.fstat(fd).st_size == 4
    assert add("new", inode) == 0
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    assert (study / "new").read_bytes() == b"data"
    assert not partial.exists()
    for held in (gate, lock):
        os.close(held)

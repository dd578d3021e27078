"""Puts one instance into the spool: written, synced and named before the sender is told so.

    tmp/<partial>  ──sync──►  rename to incoming/<study>/<instance>.dcm  ─sync directory─►  answer

What is synced is DURABILITY's to say; a name is never given to a file that is not durable. The
file is DICOM's (preamble, file meta information) around the data set exactly as it was sent.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pacsor_tasks import __version__
from pacsor_tasks.dicom.elements import DEFLATED_LE, Buffer
from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.native import native
from pacsor_tasks.spool import INSTANCE_SUFFIX, fsync_dir
from receiver import journal
from receiver.associations import OpenAssociation
from receiver.durability import Durability, begin_writing, seal, sealed
from receiver.lane import Kind, Lane
from receiver.naming import rename_new
from receiver.pouring import Channel, Poured, Sink
from receiver.processes import Process

#: A UUID turned into a UID (PS3.5 §B.2): who wrote the file meta information.
IMPLEMENTATION_CLASS_UID = "2.25.214603879584251435457174726474464281424"
IMPLEMENTATION_VERSION = f"PACSORTASK {__version__}"[:16]
COMPARE_BYTES = 1 << 20
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
#: Pieces of one `write`: what a system call takes (IOV_MAX), less the file's head.
MAX_PIECES = 1000
#: The disk begins to write a file after so much of it.
EARLY_BYTES = 1 << 20
#: Seconds for which the disk's watermark is not asked again.
ROOM_S = 0.02

DuplicatePolicy = Literal["keep-first", "replace"]


class Outcome(StrEnum):
    """What became of an instance that was accepted."""

    STORED = "stored"
    SAME = "duplicate.same"
    KEPT_FIRST = "duplicate.kept_first"
    REPLACED = "duplicate.replaced"


class Partial:
    """An instance's file while it arrives: memory does not grow with it.

    Args:
        path: Where; it must not exist.
        head: What stands before the data set.
        is_synced: Whether it will be, so that the disk had better begin.
        fd: Of the file, if it is there already, whole and settled.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(
        self, path: str, head: bytes, *, is_synced: bool = False, fd: int | None = None
    ) -> None:
        self.path = path
        #: whether nothing is to be done but to give it its name
        self.is_settled = fd is not None
        self._is_synced = is_synced
        self._n_written = self._n_begun = 0
        self._head_bytes = len(head)
        self._unwritten: list[Buffer] = [head]
        self._fd = os.open(path, NEW_FILE, 0o666) if fd is None else fd

    @property
    def fd(self) -> int:
        """Of the file."""
        return self._fd

    @property
    def n_data_set(self) -> int:
        """Bytes of the data set that were written."""
        return self._n_written - self._head_bytes

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Add to the data set.

        Args:
            pieces: At most `MAX_PIECES`; not needed any longer afterwards.

        Raises:
            OSError: The disk is full, or broken.
        """
        parts, self._unwritten = [*self._unwritten, *pieces], []
        self._n_written += write_pieces(self._fd, parts)
        if self._is_synced and self._n_written - self._n_begun >= EARLY_BYTES:
            begin_writing(self._fd, self._n_begun, self._n_written - self._n_begun)
            self._n_begun = self._n_written

    def pour(self, channel: Channel) -> Poured:
        """Add to the data set what comes out of a channel, as far as it does.

        Only after a `write`: what stands before the data set goes with that.

        Raises:
            OSError: The connection is broken.
        """
        early_bytes = EARLY_BYTES if self._is_synced else 0
        poured = channel.pour(Sink(self._fd, self._n_written, self._n_begun, early_bytes))
        self._n_written, self._n_begun = poured.n_written, poured.n_begun
        return poured

    @contextmanager
    def data_set(self) -> Iterator[memoryview]:
        """What was written of the data set, mapped: only what is looked at is read."""
        size = os.fstat(self._fd).st_size
        with mmap.mmap(self._fd, size, access=mmap.ACCESS_READ) as mapped:
            whole = memoryview(mapped)
            with whole, whole[self._head_bytes :] as view:
                yield view

    def sync(self) -> None:
        """Make it survive a crash of the machine.

        Raises:
            OSError: It does not.
        """
        os.fdatasync(self._fd)

    def seal(self) -> None:
        """Say in the file that it is whole.

        Raises:
            OSError: It cannot be written.
        """
        seal(self._fd)

    def close(self) -> None:
        """Let go of the file, which has its name."""
        os.close(self._fd)
        self._fd = -1

    def forget(self) -> None:
        """Somebody else has closed the file, which has its name."""
        self._fd = -1

    def discard(self) -> None:
        """Close and delete the file. Safe to repeat."""
        if self._fd >= 0:
            self.close()
            with suppress(FileNotFoundError):
                os.unlink(self.path)  # noqa: PTH108 - for each instance received


@dataclass(slots=True)
class _Room:
    """How long nobody asks again whether there is room on the disk."""

    #: on the monotonic clock, seconds
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Incoming:
    """Where instances go."""

    process: Process
    policy: DuplicatePolicy
    #: asked before anything is written: the disk's watermark
    is_disk_full: Callable[[], bool] = lambda: False
    durability: Durability = Durability.INSTANCE
    _room: _Room = field(default_factory=_Room, repr=False)

    def begin(
        self,
        association: OpenAssociation,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> Partial:
        """The file of an instance that begins to arrive, still without a study.

        Raises:
            OSError: It cannot be made, or the disk is too full.
        """
        self.check_room()
        meta = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        is_synced = self.durability is not Durability.NONE
        return Partial(association.new_partial(), meta, is_synced=is_synced)

    def write_whole(
        self,
        association: OpenAssociation,
        header: InstanceHeader,
        pieces: Sequence[memoryview],
    ) -> Partial:
        """The file of an instance that is there as a whole: written, and synced if it has to be.

        Args:
            association: Who sends it.
            header: Its UIDs, checked.
            pieces: Its data set: at most `MAX_PIECES`.

        Raises:
            OSError: It cannot be done, or the disk is too full; nothing of it is left.
        """
        self.check_room()
        head = file_meta(header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid)
        if self.durability is Durability.GROUP:
            head = sealed(head, len(head) + sum(map(len, pieces)))
        path = association.new_partial()
        is_synced = self.durability is not Durability.NONE
        return Partial(path, head, fd=write_new(path, [head, *pieces], is_synced=is_synced))

    def check_room(self) -> None:
        """Refuse above the disk's watermark.

        Raises:
            OSError: The disk is too full.
        """
        now = time.monotonic()
        if now < self._room.until:
            return
        if not self.is_disk_full():
            self._room.until = now + ROOM_S
        else:
            raise OSError(errno.ENOSPC, "the disk is above its watermark")

    def keep(
        self, partial: Partial, header: InstanceHeader, association: OpenAssociation
    ) -> Outcome:
        """Make an instance part of its study. When this returns, it is as durable as it has to be.

        Args:
            partial: The instance, whole; its file is gone afterwards, whatever happens.
            header: Its UIDs, checked.
            association: Who sent it.

        Raises:
            OSError: It could not be done; nothing of it is left.
        """
        try:
            if not partial.is_settled:
                self._settle(partial)
            name = f"{header.sop_instance_uid}{INSTANCE_SUFFIX}"
            if self.durability is not Durability.INSTANCE and association.add_new(
                header.study_uid, partial.path, name, partial.fd
            ):
                partial.forget()
                return Outcome.STORED
            outcome = self.publish(partial.path, header, association)
            if outcome is Outcome.STORED:
                partial.close()
            return outcome
        finally:
            partial.discard()

    def lane(
        self,
        association: OpenAssociation,
        header: InstanceHeader,
        context_id: int,
        before: Lane | None,
    ) -> Lane | None:
        """What takes instances like one that was just kept; None if nothing does.

        Args:
            association: Who sends.
            header: The instance's UIDs.
            context_id: The presentation context it came in.
            before: The lane until now: it stays if it fits.

        Raises:
            OSError: It cannot be made.
        """
        joined = association.joined(header.study_uid)
        syntax_uid = header.transfer_syntax_uid
        if joined is None or self.durability is Durability.INSTANCE or syntax_uid == DEFLATED_LE:
            return None
        kind = Kind(context_id, header.sop_class_uid, syntax_uid, header.study_uid, joined)
        if before is not None and before.kind == kind:
            return before
        partials = association.new_partials()
        locks = association.own_locks(header.study_uid)
        return locks and Lane(
            kind=kind,
            association=association,
            check_room=self.check_room,
            is_synced=self.durability is Durability.GROUP,
            locks=locks,
            meta=_around_instance(header.sop_class_uid, syntax_uid),
            partials=partials,
        )

    def _settle(self, partial: Partial) -> None:
        if self.durability is Durability.GROUP:
            partial.seal()
        if self.durability is not Durability.NONE:
            partial.sync()

    def store(
        self, header: InstanceHeader, data_set: Buffer, association: OpenAssociation
    ) -> Outcome:
        """`begin`, write and `keep` in one, of a data set that is there.

        Raises:
            OSError: It could not be written; nothing of it is left.
        """
        partial = self.begin(
            association,
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            transfer_syntax_uid=header.transfer_syntax_uid,
        )
        try:
            with memoryview(data_set) as view:
                partial.write([view])
            return self.keep(partial, header, association)
        finally:
            partial.discard()

    def publish(
        self, partial: str | Path, header: InstanceHeader, association: OpenAssociation
    ) -> Outcome:
        """Give a synced partial file its name. The caller deletes the partial file afterwards.

        Raises:
            OSError: It could not be done.
        """
        with association.adding_to(header.study_uid):
            directory = association.join(header.study_uid)
            final = f"{directory}/{header.sop_instance_uid}{INSTANCE_SUFFIX}"
            try:
                rename_new(partial, final)
                outcome = Outcome.STORED
            except FileExistsError:
                outcome = self._again(Path(partial), Path(final), header.sop_instance_uid)
            if self.durability is Durability.INSTANCE:
                # Also for a duplicate: whoever sent it first may not have come to this line.
                fsync_dir(directory)
        return outcome

    def _again(self, partial: Path, final: Path, instance_uid: str) -> Outcome:
        outcome = compare(partial, final, self.policy)
        if outcome is Outcome.REPLACED:
            partial.rename(final)
        journal.append(final.parent, outcome, instance_uid=instance_uid)
        return outcome


def write_new(path: str, pieces: list[Buffer], *, is_synced: bool) -> int:
    """A new file with that in it, synced if it has to be; nothing stays of it if that fails."""
    if native is not None:
        return native.write_new(path, pieces, is_synced)
    fd = os.open(path, NEW_FILE, 0o666)
    try:
        write_pieces(fd, pieces)
        if is_synced:
            os.fdatasync(fd)
    except BaseException:
        os.close(fd)
        os.unlink(path)  # noqa: PTH108 - for each instance received
        raise
    return fd


def write_pieces(fd: int, pieces: Sequence[Buffer]) -> int:
    """Write them all; how many bytes that was.

    Raises:
        OSError: The disk is full, or broken.
    """
    n_bytes = sum(len(piece) for piece in pieces)
    written = os.writev(fd, pieces)
    if written < n_bytes:
        # One call takes at most 2 GB, and less when the disk has become full.
        for piece in pieces:
            at, written = min(written, len(piece)), max(0, written - len(piece))
            with memoryview(piece) as view:
                while at < len(view):
                    at += os.write(fd, view[at:])
    return n_bytes


def compare(new: Path, held: Path, policy: DuplicatePolicy) -> Outcome:
    """What to do with an instance whose SOP Instance UID is there already."""
    if same_data_set(new, held):
        return Outcome.SAME
    return Outcome.REPLACED if policy == "replace" else Outcome.KEPT_FIRST


def same_data_set(one: Path, other: Path) -> bool:
    """Whether two files hold the same data set, byte for byte, in the same transfer syntax."""
    try:
        (syntax, start), (other_syntax, other_start) = data_set_offset(one), data_set_offset(other)
    except BadResponse:
        return False
    if syntax != other_syntax:
        return False
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        if os.fstat(a.fileno()).st_size - start != os.fstat(b.fileno()).st_size - other_start:
            return False
        a.seek(start)
        b.seek(other_start)
        while True:
            piece = a.read(COMPARE_BYTES)
            if piece != _read_exactly(b, len(piece)):
                return False
            if not piece:
                return True


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information. Source: DICOM PS3.10 §7.1."""
    before, after = _around_instance(sop_class_uid, transfer_syntax_uid)
    group = b"".join((before, _short(0x0003, b"UI", sop_instance_uid), after))
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group))
    return bytes(128) + b"DICM" + length + group


@lru_cache(maxsize=256)
def _around_instance(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    before = struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"
    implementation = _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID) + _short(
        0x0013, b"SH", IMPLEMENTATION_VERSION
    )
    return (
        before + _short(0x0002, b"UI", sop_class_uid),
        _short(0x0010, b"UI", transfer_syntax_uid) + implementation,
    )


def _short(number: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, number, vr, len(encoded)) + encoded


def _read_exactly(file: io.FileIO, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        piece = file.read(n_bytes - len(parts))
        if not piece:
            break
        parts += piece
    return bytes(parts)

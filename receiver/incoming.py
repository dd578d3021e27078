"""Puts one instance into the spool: written, synced and named before the sender is told so.

    tmp/<partial>  ──fsync──►  link to incoming/<study>/<instance>.dcm  ──fsync directory──►  answer

The file is DICOM's (preamble, file meta information) around the data set exactly as it was sent.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pacsor_tasks import __version__
from pacsor_tasks.dicom.elements import Buffer
from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import INSTANCE_SUFFIX, fsync_dir
from receiver import journal
from receiver.associations import OpenAssociation
from receiver.processes import Process

#: A UUID turned into a UID (PS3.5 §B.2): who wrote the file meta information.
IMPLEMENTATION_CLASS_UID = "2.25.214603879584251435457174726474464281424"
IMPLEMENTATION_VERSION = f"PACSORTASK {__version__}"[:16]
COMPARE_BYTES = 1 << 20

DuplicatePolicy = Literal["keep-first", "replace"]


class Outcome(StrEnum):
    """What became of an instance that was accepted."""

    STORED = "stored"
    SAME = "duplicate.same"
    KEPT_FIRST = "duplicate.kept_first"
    REPLACED = "duplicate.replaced"


@dataclass(frozen=True, slots=True)
class Incoming:
    """Where instances go."""

    process: Process
    policy: DuplicatePolicy
    #: asked before anything is written: the disk's watermark
    is_disk_full: Callable[[], bool] = lambda: False

    def store(
        self, header: InstanceHeader, data_set: Buffer, association: OpenAssociation
    ) -> Outcome:
        """Make an instance part of its study. When this returns, a crash no longer loses it.

        Args:
            header: Its UIDs, checked.
            data_set: The encoded data set as sent; written in place, not copied.
            association: Who sent it.

        Raises:
            OSError: It could not be written; nothing of it is left.
        """
        self.require_room()
        partial = self.process.new_partial()
        try:
            with partial.open("xb", buffering=0) as file:
                _write_all(file, file_meta(header))
                _write_all(file, data_set)
                os.fdatasync(file.fileno())
            return self.publish(partial, header, association)
        finally:
            partial.unlink(missing_ok=True)

    def require_room(self) -> None:
        """Refuse while what is left of the disk is needed for what was taken already.

        Raises:
            OSError: ENOSPC, as the disk itself would say later.
        """
        if self.is_disk_full():
            raise OSError(errno.ENOSPC, "the disk is fuller than DISK_HIGH_WATERMARK")

    def publish(
        self, partial: Path, header: InstanceHeader, association: OpenAssociation
    ) -> Outcome:
        """Give a synced partial file its name. The caller deletes the partial file afterwards.

        Raises:
            OSError: It could not be done.
        """
        study_uid = header.study_uid
        with self.process.spool.study_lock(study_uid, exclusive=False):
            directory = association.join(study_uid)
            final = directory / f"{header.sop_instance_uid}{INSTANCE_SUFFIX}"
            try:
                os.link(partial, final)
                outcome = Outcome.STORED
            except FileExistsError:
                outcome = self._again(partial, final, header.sop_instance_uid)
            # Also for a duplicate: whoever sent it first may not have come to this line.
            fsync_dir(directory)
        return outcome

    def _again(self, partial: Path, final: Path, instance_uid: str) -> Outcome:
        outcome = compare(partial, final, self.policy)
        if outcome is Outcome.REPLACED:
            partial.rename(final)
        journal.append(final.parent, outcome, instance_uid=instance_uid)
        return outcome


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


def file_meta(header: InstanceHeader) -> bytes:
    """Preamble, prefix and file meta information. Source: DICOM PS3.10 §7.1."""
    group = b"".join(
        (
            struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _short(0x0002, b"UI", header.sop_class_uid),
            _short(0x0003, b"UI", header.sop_instance_uid),
            _short(0x0010, b"UI", header.transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION),
        )
    )
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group))
    return bytes(128) + b"DICM" + length + group


def _short(number: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    if len(encoded) % 2:
        encoded += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, number, vr, len(encoded)) + encoded


def _write_all(file: io.FileIO, data: Buffer) -> None:
    view = memoryview(data)
    try:
        at = 0
        while at < len(view):
            # One write takes at most 2 GB.
            at += file.write(view[at:])
    finally:
        view.release()


def _read_exactly(file: io.FileIO, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes:
        piece = file.read(n_bytes - len(parts))
        if not piece:
            break
        parts += piece
    return bytes(parts)

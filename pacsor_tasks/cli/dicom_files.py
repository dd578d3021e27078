"""DICOM files from files, directories and zip archives, a batch at a time.

However large the input, one batch of records is in memory and one batch of unpacked members on
disk. Names inside an archive are never used as paths.
"""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.dicom.scu import StoreItem
from pacsor_tasks.errors import BadResponse

PREAMBLE_BYTES = 132
BATCH_ITEMS = 1000
BATCH_SCRATCH_BYTES = 512 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
#: Limits of one archive member. Deflate reaches 1:1032; blank images reach a few hundred.
MAX_MEMBER_BYTES = 4 * 1024**3
MAX_RATIO = 500
RATIO_FROM_BYTES = 64 * 1024 * 1024
MAX_MEMBERS = 1_000_000
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True, slots=True)
class Source:
    """One instance to send, and the name a person knows it by."""

    item: StoreItem
    study_uid: str
    label: str


@dataclass
class Tally:
    """What was met beside the instances."""

    not_dicom: int = 0
    #: (label, reason) of what should have been sent and cannot be
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def batches(
    paths: Iterable[Path], tally: Tally, max_items: int = BATCH_ITEMS
) -> Iterator[Sequence[Source]]:
    """Instances in batches. What a batch unpacked is removed when the next one is asked for.

    Args:
        paths: Files, directories (taken with all below them) and zip archives.
        tally: Counts what is left out.
        max_items: Instances per batch.
    """
    with tempfile.TemporaryDirectory(prefix="pacsor-send-") as scratch:
        batch: list[Source] = []
        unpacked = 0
        for label, path in _candidates(paths, Path(scratch), tally):
            source = _source(len(batch), label, path, tally)
            is_scratch = path.parent == Path(scratch)
            if source is None:
                if is_scratch:
                    path.unlink()
                continue
            batch.append(source)
            unpacked += path.stat().st_size if is_scratch else 0
            if len(batch) >= max_items or unpacked >= BATCH_SCRATCH_BYTES:
                yield batch
                _empty(Path(scratch))
                batch, unpacked = [], 0
        if batch:
            yield batch


def _candidates(paths: Iterable[Path], scratch: Path, tally: Tally) -> Iterator[tuple[str, Path]]:
    for path in paths:
        for file in _files(path, tally):
            if (problem := _not_a_file(file)) is not None:
                tally.unreadable.append((str(file), problem))
            elif file.suffix.lower() == ".zip" or (file == path and zipfile.is_zipfile(file)):
                yield from _members(file, scratch, tally)
            else:
                yield str(file), file


def _files(path: Path, tally: Tally) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return

    def told(error: OSError) -> None:
        tally.unreadable.append((str(error.filename), f"cannot be listed: {error.strerror}"))

    for directory, names, files in os.walk(path, onerror=told):
        names.sort()
        for name in sorted(files):
            yield Path(directory, name)


def _not_a_file(path: Path) -> str | None:
    """What keeps it from being opened. To open a named pipe is to wait for who writes to it."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as exc:
        return exc.strerror or str(exc)
    return None if is_regular else "no regular file"


def _members(archive: Path, scratch: Path, tally: Tally) -> Iterator[tuple[str, Path]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > MAX_MEMBERS:
                tally.unreadable.append((str(archive), f"more than {MAX_MEMBERS} members"))
                return
            for number, info in enumerate(members):
                if info.is_dir():
                    continue
                label = f"{archive}:{info.filename}"
                target = scratch / f"{archive.stem[:40]}-{number:07}"
                if _unpack(opened, info, target, label, tally):
                    yield label, target
    except (zipfile.BadZipFile, OSError) as exc:
        tally.unreadable.append((str(archive), f"not a readable zip archive: {exc}"))


def _unpack(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, label: str, tally: Tally
) -> bool:
    """Whether the member is a DICOM file and now at `target`."""
    try:
        with opened.open(info) as member:
            start = member.read(PREAMBLE_BYTES)
            if not _is_dicom(info.filename, start):
                tally.not_dicom += 1
                return False
            if (problem := _too_large(info)) is not None:
                tally.unreadable.append((label, problem))
                return False
            with _whole_or_nothing(target) as file:
                file.write(start)
                while chunk := member.read(CHUNK_BYTES):
                    file.write(chunk)
    except ZIP_ERRORS as exc:
        tally.unreadable.append((label, f"cannot be unpacked: {exc}"))
        return False
    return True


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[IO[bytes]]:
    try:
        with target.open("wb") as file:
            yield file
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _too_large(info: zipfile.ZipInfo) -> str | None:
    if info.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to more than {MAX_MEMBER_BYTES // 1024**3} GB"
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > RATIO_FROM_BYTES and ratio > MAX_RATIO:
        return f"unpacks to {ratio:.0f} times its size"
    return None


def _source(key: int, label: str, path: Path, tally: Tally) -> Source | None:
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE_BYTES)
        if not _is_dicom(label, start):
            tally.not_dicom += 1
            return None
        header = read_header(path)
    except OSError as exc:
        tally.unreadable.append((label, exc.strerror or str(exc)))
        return None
    except BadResponse as exc:
        tally.unreadable.append((label, str(exc)))
        return None
    item = StoreItem(
        key=key,
        path=path,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
    )
    return Source(item, header.study_uid, label)


def _is_dicom(name: str, start: bytes) -> bool:
    # A DICOMDIR has the prefix and is not an instance.
    return start[128:132] == b"DICM" and Path(name).name.upper() != "DICOMDIR"


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()

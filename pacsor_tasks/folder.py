"""Instances as files in a directory that others read: each is there whole, or not at all.

    <FOLDER_PATH>/<FOLDER_LAYOUT>      a result, by default <study UID>/<SOP Instance UID>.dcm
    <FOLDER_PATH>/.partial/<name>      what is not whole yet; nothing there counts

A file is written beside, synced and renamed; its directory is synced too. It takes the place of one
of the same name. Source: docs/destinations.md.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from pacsor_tasks.dicom.data_sets import StoreItem
from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.dicom.statuses import UNSENDABLE
from pacsor_tasks.dicom.tally import OnAnswer, Tally
from pacsor_tasks.errors import LedgerUnavailable, PacsorError, PeerUnavailable, Rejected
from pacsor_tasks.spool import fsync_dir

log = structlog.get_logger(__name__)

PARTIAL = ".partial"
#: What a process that died left there is removed after so long, seconds.
LEFTOVER_S = 86400.0
BLOCK_BYTES = 1 << 20
#: Never by trying again: the path itself is refused.
_FOR_GOOD = {errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR}
#: A file system that does not know what it is asked.
_UNKNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A directory for results."""

    #: the destination's name
    name: str
    path: Path
    #: of a file in it, with {study_uid}, {sop_uid}, {core}, {command}, {run_id}
    layout: str
    #: what its settings end with, for errors
    suffix: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.path})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filing:
    """What a file's path is made of beside its instance."""

    study_uid: str
    core: str
    run_id: str
    #: inference command by `StoreItem.key`
    commands: Mapping[int, str] = field(default_factory=dict)


def store(
    folder: Folder,
    filing: Filing,
    items: Sequence[StoreItem],
    on_answer: OnAnswer,
    before_each: Callable[[], None] | None = None,
) -> None:
    """Write instances into a directory.

    Args:
        folder: Where to.
        filing: What the names are made of.
        items: What.
        on_answer: Called with item, status (as of C-STORE) and words when its file is there.
        before_each: Called before each is written. What it raises ends the delivery.

    Raises:
        PeerUnavailable: The directory is not there, is full or cannot be written.
        Rejected: A path that cannot be; or a file of ours cannot be read.
    """
    tally = Tally(folder, len(items), on_answer)
    try:
        _prepare(folder)
        for item in items:
            if before_each is not None:
                before_each()
            _put(folder, filing, item, tally)
    except LedgerUnavailable:
        raise
    except OSError as exc:
        raise _translated(folder, exc, tally) from exc
    finally:
        log.info("folder.written", destination=folder.name, n=tally.delivered, total=tally.total)
    tally.raise_if_incomplete()


def probe(folder: Folder) -> None:
    """Prove that the directory is there and takes a file.

    Raises:
        PeerUnavailable: It does not.
    """
    try:
        _prepare(folder)
        partial = folder.path / PARTIAL / f"probe-{uuid.uuid4().hex}"
        try:
            partial.write_bytes(b"a probe of pacsor-tasks\n")
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise _translated(folder, exc) from exc


def _put(folder: Folder, filing: Filing, item: StoreItem, tally: Tally) -> None:
    if not is_uid(item.sop_instance_uid):
        tally.settle(item, UNSENDABLE, "its SOP Instance UID is none, so it cannot be a name")
        return
    target = folder.path / folder.layout.format(
        study_uid=filing.study_uid,
        sop_uid=item.sop_instance_uid,
        core=filing.core,
        command=filing.commands.get(item.key, "unknown"),
        run_id=filing.run_id,
    )
    try:
        source = item.path.open("rb")
    except OSError as exc:
        tally.settle(item, UNSENDABLE, f"its file cannot be read: {exc.strerror}")
        return
    with source:
        partial = folder.path / PARTIAL / f"{uuid.uuid4().hex}.dcm"
        try:
            with partial.open("xb") as file:
                shutil.copyfileobj(source, file, BLOCK_BYTES)
                file.flush()
                os.fsync(file.fileno())
            _make_directories(folder, target.parent)
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    _sync_names(target.parent)
    tally.settle(item, 0, "written")


def _prepare(folder: Folder) -> None:
    # Never made here: a share that is not mounted must not fill the disk beneath its place.
    if not folder.path.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory; is it mounted?")
    partial = folder.path / PARTIAL
    partial.mkdir(exist_ok=True)
    oldest = time.time() - LEFTOVER_S
    for left in partial.iterdir():
        with suppress(OSError):  # gone, or another's: no reason to write nothing
            if left.stat().st_mtime < oldest:
                left.unlink()


def _make_directories(folder: Folder, directory: Path) -> None:
    """Make a directory and those above it, each synced into its parent."""
    missing = [directory, *directory.parents]
    missing = [p for p in missing[: missing.index(folder.path)] if not p.is_dir()]
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        _sync_names(made.parent)


def _sync_names(directory: Path) -> None:
    try:
        fsync_dir(directory)
    except OSError as exc:
        if exc.errno not in _UNKNOWN:  # network shares that cannot, or need not, do this
            raise


def _translated(folder: Folder, exc: OSError, tally: Tally | None = None) -> PacsorError:
    so_far = f"; {tally.delivered} of {tally.total} written" if tally is not None else ""
    text = f"{folder}: {exc.strerror or type(exc).__name__}{so_far}; see FOLDER_PATH{folder.suffix}"
    return Rejected(text) if exc.errno in _FOR_GOOD else PeerUnavailable(text)

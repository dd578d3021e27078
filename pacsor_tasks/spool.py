"""Instances on disk: the truth about what was received. Paths are built from UIDs only.

    tmp/                                     partial files; nothing here counts
    incoming/<study>/<instance>.dcm          received, the study may still grow
    ready/<study>/<token>/<instance>.dcm     a revision with its revision.json; never changes
    outbox/<token>                           the ledger does not know the revision yet
    requests/<study>                         someone says the study is complete, and in it why
    released/<study>                         … its last association was released
    associations/<study>/<id>                an open association that contributed to the study
    seats/<id>@<address>                     an open association, for the limits on their number
    processes/<id>.lock                      a living receiver process holds the lock
    locks/                                   study locks
    commitments/<id>                         a Storage Commitment that is not reported yet
    results/<run>/<command>/, quarantine/<run>/
    messages/<run>/<destination>.hl7, .ack   what was sent to a RIS, and its last answer
    refusals.json, disk-full                 associations refused; nothing more is taken

A name that begins with a dot is a revision in the making: readers do not see it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import Permanent

DIRECTORIES = (
    "tmp", "incoming", "ready", "outbox", "requests", "released", "associations", "seats",
    "processes", "locks", "commitments", "results", "quarantine",
    "messages",
)  # fmt: skip
MANIFEST = "revision.json"
#: Why somebody said that a study is complete: an operator, or its sender by Storage Commitment.
REQUESTED, COMMITTED = "requested", "committed"
INSTANCE_SUFFIX = ".dcm"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is known of a revision beside its instances. UIDs and AE titles, no patient data."""

    study_uid: str
    token: str
    #: quiet, max_wait, requested, committed or released
    reason: str
    #: ISO 8601, UTC; the first and the last arrival by the wall clock
    first_at: str
    last_at: str
    n_instances: int
    size_bytes: int
    calling_aets: tuple[str, ...] = ()
    #: what happened on the way, e.g. {"kind": "duplicate.same", "count": 3}
    events: tuple[Mapping[str, Any], ...] = field(default=())

    def to_json(self) -> str:
        """The manifest as it stands in `revision.json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The reverse of `to_json`; fields of a newer release are left out.

        Raises:
            Permanent: It is not a manifest.
        """
        try:
            given = json.loads(text)
            known = {name: given[name] for name in cls.__slots__ if name in given}
            known["calling_aets"] = tuple(known.get("calling_aets", ()))
            known["events"] = tuple(known.get("events", ()))
            return cls(**known)
        except (ValueError, TypeError, AttributeError) as exc:
            raise Permanent(f"{MANIFEST} cannot be read: {exc}") from exc


class StudyLock:
    """A study's lock, open: to take it again and again costs a third. Used by one thread at a time.

    Args:
        spool: Whose.
        study_uid: Of the study.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, spool: Spool, study_uid: str) -> None:
        self.study_uid = _uid(study_uid)
        bucket = hashlib.sha256(study_uid.encode()).hexdigest()[:2]
        self.lock_fd = _open(f"{spool.root}/locks/{bucket}.lock")
        try:
            self.gate_fd = _open(f"{spool.root}/locks/{bucket}.gate")
        except BaseException:
            os.close(self.lock_fd)
            raise

    def take(self, *, exclusive: bool) -> None:
        """Hold it; waits for those who must not hold it at the same time."""
        how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        # Whoever wants it alone keeps the others out at the gate while it waits for those inside.
        fcntl.flock(self.gate_fd, how)
        try:
            fcntl.flock(self.lock_fd, how)
        finally:
            fcntl.flock(self.gate_fd, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let go of it."""
        fcntl.flock(self.lock_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of it for good."""
        os.close(self.lock_fd)
        os.close(self.gate_fd)


class Spool:
    """The directory tree above. Every process of the gateway opens its own.

    Args:
        root: Its directory; the paths in the ledger and in task arguments are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create what is missing of the tree, closed to other users."""
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in DIRECTORIES:
            (self.root / name).mkdir(exist_ok=True)

    def path(self, relative: str) -> Path:
        """The file a relative path means.

        Raises:
            Permanent: It would leave the spool.
        """
        parts = PurePosixPath(relative).parts
        if not parts or relative.startswith("/") or ".." in parts or "\0" in relative:
            raise Permanent("a path leaves the spool")
        return self.root.joinpath(*parts)

    def relative(self, path: Path) -> str:
        """The reverse of `path`."""
        return path.relative_to(self.root).as_posix()

    # --- studies that are coming in

    def incoming_dir(self, study_uid: str) -> Path:
        """Where the instances of a study gather until it is stable."""
        return self.root / "incoming" / _uid(study_uid)

    @contextmanager
    def study_lock(self, study_uid: str, *, exclusive: bool) -> Iterator[None]:
        """Hold the study: shared to add to it, exclusive to close it. Over all processes.

        Who waits for the exclusive lock holds the gate, so that senders who never pause cannot
        starve it.
        """
        # flock belongs to the open file, so a new one per use also excludes our own threads.
        lock = StudyLock(self, study_uid)
        try:
            lock.take(exclusive=exclusive)
            yield
        finally:
            lock.close()

    def request_stable(self, study_uid: str, reason: str = REQUESTED) -> bool:
        """Say that a study is complete: it is closed at the next look, whatever is still open.

        Args:
            study_uid: One that is coming in.
            reason: For the revision's manifest.

        Returns:
            Whether instances of the study are waiting at all.
        """
        if not self.incoming_dir(study_uid).is_dir():
            return False
        write_durably(self.root / "requests" / _uid(study_uid), reason.encode())
        return True

    # --- revisions

    def revision_dir(self, study_uid: str, token: str) -> Path:
        """Where a revision is, or will be."""
        return self.root / "ready" / _uid(study_uid) / _name(token)

    def outbox(self) -> list[tuple[str, str]]:
        """(study UID, token) of the revisions the ledger has not acknowledged, oldest first."""
        waiting = []
        for token in sorted(self.outbox_tokens()):
            study_uid = self.outbox_study(token)
            # Written before the revision appears: without it, there is nothing to announce yet.
            if study_uid is not None and self.revision_dir(study_uid, token).is_dir():
                waiting.append((study_uid, token))
        return waiting

    def outbox_tokens(self) -> list[str]:
        """The tokens in the outbox, also of revisions still in the making."""
        with os.scandir(self.root / "outbox") as entries:
            return [entry.name for entry in entries if _NAME.fullmatch(entry.name)]

    def outbox_study(self, token: str) -> str | None:
        """The study of an outbox entry; None if it was acknowledged meanwhile or is unreadable."""
        try:
            study_uid = json.loads((self.root / "outbox" / _name(token)).read_text())["study_uid"]
            return _uid(study_uid)
        except (OSError, ValueError, KeyError, TypeError, Permanent):
            return None

    def acknowledge(self, token: str) -> None:
        """The ledger knows the revision: take it out of the outbox. Safe to repeat."""
        (self.root / "outbox" / _name(token)).unlink(missing_ok=True)

    def all_ready(self) -> Iterator[tuple[str, str]]:
        """(study UID, token) of every revision on disk."""
        with os.scandir(self.root / "ready") as studies:
            for study in studies:
                if is_uid(study.name):
                    for token in revisions_in(Path(study.path)):
                        yield study.name, token

    def instance_paths(self, study_uid: str, token: str) -> list[str]:
        """Relative paths of a revision's instances, sorted.

        Raises:
            Permanent: The revision is not on disk.
        """
        directory = self.revision_dir(study_uid, token)
        try:
            names = sorted(p.name for p in directory.iterdir() if p.suffix == INSTANCE_SUFFIX)
        except OSError as exc:
            raise Permanent(f"revision {token} is not in the spool: {exc.strerror}") from exc
        return [f"ready/{study_uid}/{token}/{name}" for name in names]

    def manifest(self, study_uid: str, token: str) -> Manifest:
        """What is known of a revision.

        Raises:
            Permanent: The revision is not on disk, or its manifest is damaged.
        """
        try:
            text = (self.revision_dir(study_uid, token) / MANIFEST).read_text()
        except OSError as exc:
            raise Permanent(f"revision {token} has no {MANIFEST}: {exc.strerror}") from exc
        return Manifest.from_json(text)

    def remove_revision(self, study_uid: str, token: str) -> None:
        """Delete a revision with its pixels. Readers see it whole or not at all. Safe to repeat."""
        directory = self.revision_dir(study_uid, token)
        doomed = self.root / "tmp" / f"{_name(token)}.removed"
        with suppress(FileNotFoundError):
            directory.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        with suppress(OSError):  # other revisions are there, or one is coming
            directory.parent.rmdir()
        self.acknowledge(token)

    # --- results

    def results_dir(self, run_id: str, command: str) -> Path:
        """The directory of one command's results of a run, created."""
        directory = self.root / "results" / _name(run_id) / _name(command)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def remove_results(self, run_id: str) -> None:
        """Delete a run's results. Safe to repeat."""
        shutil.rmtree(self.root / "results" / _name(run_id), ignore_errors=True)

    # --- messages

    def message_file(self, run_id: str, destination: str) -> Path:
        """Where a run's message to a destination is, or will be; the answer beside it is `.ack`."""
        return self.root / "messages" / _name(run_id) / f"{_name(destination)}.hl7"

    def old_messages(self, before: float) -> list[str]:
        """The runs whose messages were last touched before then, epoch seconds."""
        found = []
        for directory in (self.root / "messages").iterdir():
            with suppress(FileNotFoundError):
                if directory.stat().st_mtime < before:
                    found.append(directory.name)
        return found

    def remove_messages(self, run_id: str) -> None:
        """Delete a run's messages. Safe to repeat."""
        shutil.rmtree(self.root / "messages" / _name(run_id), ignore_errors=True)

    def quarantine(self, run_id: str, path: Path) -> str:
        """Move a file of the spool out of the way, for an operator to see.

        Returns:
            Its new relative path; an earlier file of that name is kept beside it.
        """
        directory = self.root / "quarantine" / _name(run_id)
        directory.mkdir(parents=True, exist_ok=True)
        target, n = directory / path.name, 1
        while target.exists():
            target, n = directory / f"{path.stem}-{n}{path.suffix}", n + 1
        path.rename(target)
        fsync_dir(directory)
        return self.relative(target)

    def free_bytes(self) -> int:
        """What may still be written to the spool's file system."""
        return shutil.disk_usage(self.root).free


def revisions_in(study_dir: Path) -> list[str]:
    """The tokens under `ready/<study>/`, oldest first; none if it is not there."""
    try:
        return sorted(p.name for p in study_dir.iterdir() if _NAME.fullmatch(p.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole after a crash, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    fsync_dir(path.parent)


def make_shared(path: Path) -> None:
    """Make a directory that others make and remove at the same time.

    `Path.mkdir(exist_ok=True)` raises when the directory is removed between its two looks.
    """
    with suppress(FileExistsError):
        path.mkdir()


def fsync_dir(path: Path) -> None:
    """Make the names in a directory survive a crash."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    # A string, not a Path: this is done for each instance received.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _uid(value: str) -> str:
    if not is_uid(value):
        raise Permanent("not a UID where a path is made from one")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise Permanent(f"{value!r} cannot be a name in the spool")
    return value

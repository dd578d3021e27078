"""Open associations, as every process of the spool sees them: one mark per association and study.

The mark is there before the association's first instance of the study is, and goes when the
association ends. Marks of dead processes do not count.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pacsor_tasks.native import native
from pacsor_tasks.spool import Spool, StudyLock, fsync_dir, make_shared
from receiver import journal
from receiver.processes import PARTIAL_SUFFIX, Living, Process

#: Lines of the log about instances of one association, per event; the rest is only counted.
MAX_TOLD = 20


class Joined(NamedTuple):
    """A study that an association has joined: where its instances are put."""

    directory: Path
    #: another one has been closed since
    inode: int


class OpenAssociation:
    """One association that sends instances. Used by one thread at a time.

    Args:
        process: The process that serves it.
        calling_aet: Who sends.
        peer: Its address, for the log.
    """

    def __init__(self, process: Process, calling_aet: str, peer: str) -> None:
        self.process = process
        self.id = process.new_name()
        self.calling_aet = calling_aet
        self.peer = peer
        self.n_stored = 0
        self.n_refused = 0
        #: None between mark and directory
        self._joined: dict[str, Joined | None] = {}
        self._warned: set[str] = set()
        self._n_told: Counter[str] = Counter()
        #: of the study it sent last; guarded, since an abort ends the association from outside
        self._lock: StudyLock | None = None
        self._guard = threading.Lock()
        self._is_closed = False
        #: a directory of its own: creating and renaming files waits for nobody else's
        self._partials = f"{process.spool.root}/tmp/{self.id}"  # noqa: S108
        self._has_partials = False

    def new_partial(self) -> str:
        """Where a partial file may be written.

        Raises:
            OSError: The spool cannot be written.
        """
        return f"{self.new_partials()}{PARTIAL_SUFFIX}"

    def new_partials(self) -> str:
        """As `new_partial`, without its suffix: a name that further ones may begin with.

        Raises:
            OSError: The spool cannot be written.
        """
        if not self._has_partials:
            os.mkdir(self._partials)  # noqa: PTH102 - a string, as it is used
            self._has_partials = True
        return f"{self._partials}/{self.process.new_name()}"

    def tidy(self) -> None:
        """A partial file is gone: so is their directory if it was the last of a closed one."""
        if self._is_closed:
            self._remove_partials()

    @contextmanager
    def adding_to(self, study_uid: str) -> Iterator[None]:
        """Hold the study, to add to it.

        Raises:
            OSError: Its lock cannot be opened.
        """
        with self._guard:
            lock = self._lock
            if lock is None or lock.study_uid != study_uid:
                self._drop_lock()
                lock = self._lock = StudyLock(self.process.spool, study_uid)
            lock.take(exclusive=False)
            try:
                yield
            finally:
                lock.release()
                if self._is_closed:
                    self._end()

    def add_new(self, study_uid: str, partial: str, name: str, fd: int) -> bool:
        """Give a partial file its name in the study, in one go, and close it.

        Returns:
            Whether that was done. If not, nothing was: the association has not joined the study,
            or the name is taken, or it failed. Then `adding_to`, `join` and rename.
        """
        with self._guard:
            joined, lock = self._joined.get(study_uid), self._lock
            if native is None or joined is None or lock is None or lock.study_uid != study_uid:
                return False
            directory, inode = joined
            fds = lock.gate_fd, lock.lock_fd
            new = f"{directory}/{name}"
            is_done = native.add_new(*fds, str(directory), inode, partial, new, fd) == 0
            if self._is_closed:
                self._end()
            return is_done

    def joined(self, study_uid: str) -> Joined | None:
        """The study's directory, if instances can be added to it as things are."""
        with self._guard:
            lock = self._lock
            is_held = lock is not None and lock.study_uid == study_uid and not self._is_closed
            return self._joined.get(study_uid) if is_held else None

    def own_locks(self, study_uid: str) -> tuple[int, int] | None:
        """Its gate and its lock for somebody who closes them: the association may end at any time.

        Raises:
            OSError: There are too many open files.
        """
        with self._guard:
            lock = self._lock
            if lock is None or lock.study_uid != study_uid:
                return None
            gate = os.dup(lock.gate_fd)
            try:
                return gate, os.dup(lock.lock_fd)
            except OSError:
                os.close(gate)
                raise

    def join(self, study_uid: str) -> Path:
        """The directory to put an instance in, with the association's mark set.

        Invariant: called with the study's lock held, so the directory stays until it is released.

        Raises:
            OSError: The spool cannot be written.
        """
        joined = self._joined.get(study_uid)
        if joined is not None and _inode(joined[0]) == joined[1]:
            return joined[0]
        spool = self.process.spool
        directory = spool.incoming_dir(study_uid)
        inode = _inode(directory)
        self._joined[study_uid] = None
        self._mark(study_uid)
        # Whoever was the last one out before is it no longer.
        _released(spool, study_uid).unlink(missing_ok=True)
        if inode is None:
            self._create(directory)
        journal.append(directory, "association", calling_aet=self.calling_aet)
        # Also when another process made the directory: it may not have come to this line.
        fsync_dir(directory.parent)
        self._joined[study_uid] = Joined(directory, directory.stat().st_ino)
        return directory

    def warn_once(self, study_uid: str) -> bool:
        """Whether nothing was said about the study yet: senders repeat their faults."""
        is_first = study_uid not in self._warned
        self._warned.add(study_uid)
        return is_first

    def may_tell(self, event: str) -> bool:
        """Whether such an event still gets a line of its own: a sender's mistakes may be many."""
        self._n_told[event] += 1
        return self._n_told[event] <= MAX_TOLD

    def close(self) -> None:
        """The association has ended: take its marks away. Safe to repeat."""
        with self._guard:
            self._is_closed = True
            self._end()
        self._remove_partials()

    def close_complete(self) -> None:
        """As `close`, of an association that was released: its studies may be complete.

        They are if it was the last one that contributed to them. So that no other one comes in
        unseen, this waits for the instances that are just being added to them.
        """
        spool = self.process.spool
        for study_uid in list(self._joined):
            # Without the flag the study waits until it is quiet.
            with suppress(OSError), spool.study_lock(study_uid, exclusive=True):
                # Looked at before this one leaves: one that breaks off from now on was still in it.
                is_last = not has_open_association(spool, study_uid, Living(spool), but=self.id)
                if is_last and spool.incoming_dir(study_uid).is_dir():
                    _released(spool, study_uid).touch()
                self._leave(study_uid)
        self.close()

    def _end(self) -> None:
        # Also after an instance that was being added while the association was ended: its mark
        # would hold up the study for as long as the process lives.
        self._drop_lock()
        for study_uid in list(self._joined):
            self._leave(study_uid)

    def _remove_partials(self) -> None:
        if self._has_partials:
            with suppress(OSError):  # an instance still comes in
                os.rmdir(self._partials)  # noqa: PTH106 - likewise

    def _drop_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _leave(self, study_uid: str) -> None:
        mark = _marks_dir(self.process.spool, study_uid) / self.id
        mark.unlink(missing_ok=True)
        with suppress(OSError):  # other associations' marks are there
            mark.parent.rmdir()
        del self._joined[study_uid]

    def _mark(self, study_uid: str) -> None:
        marks = _marks_dir(self.process.spool, study_uid)
        while True:
            make_shared(marks)
            with suppress(FileNotFoundError):  # the last one out has just removed the directory
                os.close(os.open(marks / self.id, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
                return

    def _create(self, directory: Path) -> None:
        """Make the study's directory, its journal's first line in it, in one step."""
        made = self.process.spool.root / "tmp" / f"{self.process.new_name()}.dir"
        made.mkdir()
        journal.begin(made)
        try:
            made.rename(directory)
        except OSError:
            # Another sender was first.
            journal.remove(made)
            made.rmdir()
            if not directory.is_dir():
                raise


def has_open_association(spool: Spool, study_uid: str, living: Living, but: str = "") -> bool:
    """Whether a living process serves an association, `but` this one, that added to the study."""
    try:
        names = [entry.name for entry in os.scandir(_marks_dir(spool, study_uid))]
    except FileNotFoundError:
        return False
    return any(living.owns(name) for name in names if name != but)


def remove_dead_marks(spool: Spool) -> None:
    """Delete the marks that dead processes left."""
    living = Living(spool)
    for marks in list((spool.root / "associations").iterdir()):
        for mark in list(marks.iterdir()):
            if not living.owns(mark.name):
                mark.unlink(missing_ok=True)
        with suppress(OSError):
            marks.rmdir()


def is_released(spool: Spool, study_uid: str) -> bool:
    """Whether the last association that contributed to the study was released.

    Certain only with the study's lock held, and with no association open.
    """
    return _released(spool, study_uid).exists()


def forget_released(spool: Spool, study_uid: str) -> None:
    """The study is closed, or gone. Safe to repeat."""
    _released(spool, study_uid).unlink(missing_ok=True)


def _released(spool: Spool, study_uid: str) -> Path:
    return spool.root / "released" / study_uid


def _marks_dir(spool: Spool, study_uid: str) -> Path:
    return spool.root / "associations" / study_uid


def _inode(directory: Path) -> int | None:
    try:
        return os.stat(directory).st_ino  # noqa: PTH116 - for each instance received
    except FileNotFoundError:
        return None

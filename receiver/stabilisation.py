"""Decides when a study is stable, and closes it.

Quietness is measured by this process's own clock: it remembers when it last saw the study's
directory change. So clock steps change nothing, and a restart costs at most one more quiet period.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.spool import COMMITTED, REQUESTED, Manifest, Spool
from receiver import journal
from receiver.associations import has_open_association, is_released, remove_dead_marks
from receiver.closing import Closer
from receiver.half_closed import HalfClosed
from receiver.journal import Beginning
from receiver.processes import Living, remove_remains
from receiver.rescue import Rescuer

log = structlog.get_logger(__name__)

TICK_S = 0.1
#: Pause after which a study that could not be closed is tried again, doubling.
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
HOUSEKEEPING_S = 5.0
QUIET, MAX_WAIT, RELEASED = "quiet", "max_wait", "released"

#: What changes when something arrives: (inode, mtime in ns, bytes of journal).
Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A study at one moment."""

    #: seconds since its last arrival, and since its first
    quiet_s: float
    waited_s: float
    has_open_association: bool = False
    #: an operator or the sender says it is complete
    is_requested: bool = False
    #: its last association was released, and that counts (STABLE_ON_RELEASE)
    is_released: bool = False


def why_stable(situation: Situation, *, quiet_s: float, max_wait_s: float) -> str | None:
    """Whether a study is stable: the reason, or None. Source: architecture §4.

    Args:
        situation: The study now.
        quiet_s: STUDY_QUIET_SECONDS.
        max_wait_s: STUDY_MAX_WAIT_SECONDS.
    """
    if situation.is_requested:
        return REQUESTED
    if situation.is_released and not situation.has_open_association:
        return RELEASED
    if situation.waited_s >= max_wait_s:
        return MAX_WAIT
    if situation.quiet_s >= quiet_s and not situation.has_open_association:
        return QUIET
    return None


@dataclass(slots=True)
class _Watched:
    """What the sweeper remembers of a study."""

    signature: Signature
    changed_at: float
    seen_at: float
    beginning: Beginning | None
    retry_at: float = 0.0
    retry_s: float = 0.0


class Sweeper:
    """Looks at every incoming study in turn. One per spool does so at a time.

    Args:
        closer: Makes the revisions.
        quiet_s: STUDY_QUIET_SECONDS.
        max_wait_s: STUDY_MAX_WAIT_SECONDS.
        on_closed: Called after each revision; must not block or raise.
        clock: Seconds that only run forward.
    """

    def __init__(
        self,
        closer: Closer,
        *,
        quiet_s: float,
        max_wait_s: float,
        on_closed: Callable[[Manifest], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.closer = closer
        self.spool: Spool = closer.spool
        self.quiet_s = quiet_s
        self.max_wait_s = max_wait_s
        self.on_closed = on_closed
        self.clock = clock
        self._watched: dict[str, _Watched] = {}
        self._housekeeping_at = 0.0
        self._half_closed = HalfClosed(closer, on_closed, clock)

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop`; a study being closed then is finished first."""
        while not stop.is_set():
            with _leadership(self.spool) as is_leader:
                if is_leader:
                    self._lead(stop)
            stop.wait(1.0)

    def tick(self) -> None:
        """Look at every study once."""
        self._housekeep()
        self._half_closed.retry()
        living = Living(self.spool)
        present = {p.name for p in (self.spool.root / "incoming").iterdir() if is_uid(p.name)}
        self._watched = {uid: seen for uid, seen in self._watched.items() if uid in present}
        requested = self._requested(present)
        for study_uid in sorted(present):
            self._look(study_uid, living, requested.get(study_uid))

    def recover(self) -> None:
        """After a start: remove what dead processes left, finish what was half closed.

        Raises:
            OSError: The spool cannot be written.
        """
        self._clear_away()
        remove_dead_marks(self.spool)
        for study_uid in self.closer.half_closed():
            self._half_closed.note(study_uid, after_s=0)
        self._half_closed.retry()
        self.closer.drop_stale_entries()

    def _lead(self, stop: threading.Event) -> None:
        is_recovered = False
        while not stop.is_set():
            try:
                if not is_recovered:
                    self.recover()
                    is_recovered = True
                self.tick()
            except Exception:
                log.exception("sweeper.failed")
                stop.wait(FIRST_RETRY_S)
            stop.wait(TICK_S)

    def _look(self, study_uid: str, living: Living, requested: str | None) -> None:
        signature = _signature(self.spool.incoming_dir(study_uid))
        if signature is None:
            return
        seen = self._observe(study_uid, signature)
        now = self.clock()
        if now < seen.retry_at:
            return
        situation = Situation(
            quiet_s=now - seen.changed_at,
            waited_s=self._waited_s(seen, now),
            has_open_association=has_open_association(self.spool, study_uid, living),
            is_requested=requested is not None,
            is_released=is_released(self.spool, study_uid),
        )
        reason = why_stable(situation, quiet_s=self.quiet_s, max_wait_s=self.max_wait_s)
        if reason is not None:
            self._close(study_uid, requested or reason, seen)

    def _observe(self, study_uid: str, signature: Signature) -> _Watched:
        now = self.clock()
        seen = self._watched.get(study_uid)
        if seen is None or seen.signature[0] != signature[0]:
            start = journal.beginning(self.spool.incoming_dir(study_uid))
            seen = self._watched[study_uid] = _Watched(signature, now, now, start)
        elif seen.signature != signature:
            seen.signature, seen.changed_at = signature, now
        return seen

    def _waited_s(self, seen: _Watched, now: float) -> float:
        watched_s = now - seen.seen_at
        if seen.beginning is None:
            return watched_s
        return max(watched_s, seen.beginning.elapsed_s(Beginning.now()))

    def _close(self, study_uid: str, reason: str, seen: _Watched) -> None:
        def is_still_stable() -> bool:
            if reason not in {QUIET, RELEASED}:
                return True
            if has_open_association(self.spool, study_uid, Living(self.spool)):
                return False
            if reason == RELEASED:
                return is_released(self.spool, study_uid)
            return _signature(self.spool.incoming_dir(study_uid)) == seen.signature

        try:
            manifest = self.closer.close(study_uid, reason, is_still_stable)
        except OSError as exc:
            seen.retry_s = min(LONGEST_RETRY_S, max(FIRST_RETRY_S, seen.retry_s * 2))
            seen.retry_at = self.clock() + seen.retry_s
            self._half_closed.note(study_uid)
            log.error(  # noqa: TRY400 - the reason is the whole story
                "study.not_closed",
                study_uid=study_uid,
                reason=exc.strerror,
                retry_in_s=seen.retry_s,
            )
            return
        if manifest is not None:
            self.on_closed(manifest)

    def _requested(self, present: set[str]) -> dict[str, str]:
        """The studies somebody says are complete, and why."""
        requested = {}
        for path in list((self.spool.root / "requests").iterdir()):
            if path.name in present:
                requested[path.name] = _why_requested(path)
            elif is_uid(path.name):
                path.unlink(missing_ok=True)
        return requested

    def _clear_away(self) -> None:
        left = Rescuer(self.spool, self.closer.policy).rescue()
        remove_remains(self.spool, left)

    def _housekeep(self) -> None:
        now = self.clock()
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self._clear_away()
            remove_dead_marks(self.spool)


def _why_requested(path: Path) -> str:
    try:
        return COMMITTED if path.read_text() == COMMITTED else REQUESTED
    except (OSError, UnicodeError):
        return REQUESTED


def _signature(directory: Path) -> Signature | None:
    try:
        stat = directory.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, journal.size(directory)


@contextmanager
def _leadership(spool: Spool) -> Iterator[bool]:
    """Whether this process sweeps: two receivers on one spool must not both close a study."""
    fd = os.open(spool.root / "sweeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)

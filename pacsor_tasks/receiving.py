"""Studies that are in the spool but not in the ledger yet, each with the reason it waits.

Made to be asked twice a second: a look costs a few system calls per study, however many instances
it has. Directories may vanish between two of them: then the study is at its next station.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pacsor_tasks.arrivals import Arrival, ArrivalState, Situation, why_waiting
from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import Permanent
from pacsor_tasks.spool import INSTANCE_SUFFIX, MANIFEST, Spool

#: The receiver's journal beside a study's instances; its first line says when the study began.
JOURNAL = "journal.jsonl"
FIRST_LINE_BYTES = 512
LOCK_SUFFIX = ".lock"
#: A directory that changed so shortly before it was counted may have changed again unseen: file
#: times are coarse.
SETTLED_S = 1.0
#: The search through all of `ready/` is made again after so long, or after fifty times its cost.
SEARCH_S, SEARCH_COST_FACTOR = 10.0, 50.0


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was read of an incoming directory while it had this inode and time."""

    inode: int
    mtime_ns: int
    counted_at: float
    n_instances: int
    first_at: float | None


class Receiving:
    """Looks at the spool. Threads may share one.

    Args:
        spool: The gateway's.
        quiet_s: STUDY_QUIET_SECONDS.
        max_wait_s: STUDY_MAX_WAIT_SECONDS.
        clock: Epoch seconds.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        quiet_s: float,
        max_wait_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._quiet_s = quiet_s
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: dict[str, _Counted] = {}
        self._stable: dict[str, Arrival] = {}
        self._half_closed: list[tuple[str, str]] = []
        self._search_at = float("-inf")

    def arrivals(self) -> list[Arrival]:
        """Everything that waits, what began last first."""
        return self._found(self._searched)

    def of(self, study_uid: str) -> list[Arrival]:
        """What waits of one study; a part may be coming in while another is a revision already.

        Looked up before the ledger, a study that moves on meanwhile is in one of the two.
        """
        if not is_uid(study_uid):
            return []
        found = self._found(lambda: self._hidden_of(study_uid))
        return [arrival for arrival in found if arrival.study_uid == study_uid]

    def by_study(self) -> Mapping[str, list[Arrival]]:
        """The same by study, to be compared with a later look."""
        found: dict[str, list[Arrival]] = {}
        for arrival in self.arrivals():
            found.setdefault(arrival.study_uid, []).append(arrival)
        return found

    def _found(self, half_closed: Callable[[], list[tuple[str, str]]]) -> list[Arrival]:
        with self._lock:
            # In the order of a study's way, so that one that moves on meanwhile is not missed.
            found = [*self._incoming(), *self._closing(half_closed()), *self._outbox()]
        latest = {(a.study_uid, a.token): a for a in found}
        # By what does not change while more comes: a page's rows keep their place.
        return sorted(latest.values(), key=lambda a: (a.first_at or 0.0, a.study_uid), reverse=True)

    # --- incoming/

    def _incoming(self) -> list[Arrival]:
        names = [name for name in _names(self._spool.root / "incoming") if is_uid(name)]
        for study_uid in self._counted.keys() - set(names):
            del self._counted[study_uid]
            self._half_closed += self._hidden_of(study_uid)
        living = _living(self._spool.root / "processes") if names else {}
        requested = set(_names(self._spool.root / "requests")) if names else set()
        looks = (self._look(uid, living, is_requested=uid in requested) for uid in names)
        return [arrival for arrival in looks if arrival is not None]

    def _look(
        self, study_uid: str, living: Mapping[str, float], *, is_requested: bool
    ) -> Arrival | None:
        directory = self._spool.incoming_dir(study_uid)
        try:
            stat = directory.stat()
        except OSError:
            return None  # closed a moment ago
        counted = self._count(study_uid, directory, stat)
        marks = _names(self._spool.root / "associations" / study_uid)
        situation = Situation(
            now=self._clock(),
            first_at=counted.first_at,
            # What comes twice adds no file, but a line to the journal.
            last_at=max(stat.st_mtime, _mtime(directory / JOURNAL) or 0.0),
            n_associations=sum(mark.partition(".")[0] in living for mark in marks),
            is_requested=is_requested,
            receiver_since=min(living.values(), default=None),
        )
        state, reason, due_at = why_waiting(
            situation, quiet_s=self._quiet_s, max_wait_s=self._max_wait_s
        )
        return Arrival(
            study_uid=study_uid,
            state=state,
            reason=reason,
            due_at=due_at,
            since_at=None,
            n_instances=counted.n_instances,
            first_at=counted.first_at,
            last_at=situation.last_at,
            n_associations=situation.n_associations,
            token=None,
        )

    def _count(self, study_uid: str, directory: Path, stat: os.stat_result) -> _Counted:
        known = self._counted.get(study_uid)
        if (
            known is not None
            and (known.inode, known.mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
            and known.counted_at - stat.st_mtime > SETTLED_S
        ):
            return known
        is_same = known is not None and known.inode == stat.st_ino
        first_at = known.first_at if known is not None and is_same else _first_at(directory)
        now = self._clock()
        counted = _Counted(stat.st_ino, stat.st_mtime_ns, now, _n_instances(directory), first_at)
        self._counted[study_uid] = counted
        return counted

    # --- revisions in the making

    def _searched(self) -> list[tuple[str, str]]:
        began = time.monotonic()
        if began >= self._search_at:
            studies = [name for name in _names(self._spool.root / "ready") if is_uid(name)]
            self._half_closed = [found for uid in studies for found in self._hidden_of(uid)]
            ended = time.monotonic()
            self._search_at = ended + max(SEARCH_S, SEARCH_COST_FACTOR * (ended - began))
        return self._half_closed

    def _hidden_of(self, study_uid: str) -> list[tuple[str, str]]:
        names = _names(self._spool.root / "ready" / study_uid)
        return [(study_uid, name[1:]) for name in names if name.startswith(".")]

    def _closing(self, half_closed: Iterable[tuple[str, str]]) -> list[Arrival]:
        looks = (self._revision_in_the_making(uid, token) for uid, token in half_closed)
        return [arrival for arrival in looks if arrival is not None]

    def _revision_in_the_making(self, study_uid: str, token: str) -> Arrival | None:
        hidden = self._spool.root / "ready" / study_uid / f".{token}"
        changed_at = _mtime(hidden)
        if changed_at is None:
            return None
        return Arrival(
            study_uid=study_uid,
            state=ArrivalState.CLOSING,
            reason="closing: the revision is being made",
            due_at=None,
            since_at=changed_at,
            n_instances=_n_instances(hidden),
            first_at=_first_at(hidden),
            last_at=changed_at,
            n_associations=0,
            token=token,
        )

    # --- outbox/

    def _outbox(self) -> list[Arrival]:
        found: dict[str, Arrival] = {}
        try:
            tokens = self._spool.outbox_tokens()
        except OSError:
            tokens = []
        for token in tokens:
            arrival = self._stable.get(token) or self._revision(token)
            if arrival is not None:
                found[token] = arrival
        # A revision never changes: what was read of it once is true until it leaves.
        self._stable = {k: a for k, a in found.items() if a.state is ArrivalState.STABLE}
        return list(found.values())

    def _revision(self, token: str) -> Arrival | None:
        study_uid = self._spool.outbox_study(token)
        if study_uid is None:
            return None
        directory = self._spool.revision_dir(study_uid, token)
        if not directory.is_dir():
            return self._revision_in_the_making(study_uid, token)
        since_at = _mtime(directory / MANIFEST) or _mtime(directory)
        try:
            manifest = self._spool.manifest(study_uid, token)
            n, first_at, last_at = manifest.n_instances, manifest.first_at, manifest.last_at
        except Permanent:
            n, first_at, last_at = _n_instances(directory), "", ""
        return Arrival(
            study_uid=study_uid,
            state=ArrivalState.STABLE,
            reason="waiting for a worker: pacsor.ingest is not done yet",
            due_at=None,
            since_at=since_at,
            n_instances=n,
            first_at=_epoch(first_at),
            last_at=_epoch(last_at) or since_at,
            n_associations=0,
            token=token,
        )


def _living(directory: Path) -> dict[str, float]:
    """The receiver's processes that live, and since when. Each holds its file's lock for life."""
    found = {}
    for name in _names(directory):
        if name.startswith(".") or not name.endswith(LOCK_SUFFIX):
            continue
        with suppress(OSError):
            fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found[name.removesuffix(LOCK_SUFFIX)] = os.fstat(fd).st_mtime
            finally:
                os.close(fd)
    return found


def _first_at(directory: Path) -> float | None:
    """When a study began, by the first line of its journal."""
    try:
        with (directory / JOURNAL).open("rb") as file:
            line = file.read(FIRST_LINE_BYTES).lstrip().partition(b"\n")[0]
        return float(json.loads(line)["wall_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _names(directory: Path) -> list[str]:
    """What is in a directory; nothing when it is not there, or not for us to read."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def _n_instances(directory: Path) -> int:
    return sum(name.endswith(INSTANCE_SUFFIX) for name in _names(directory))


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _epoch(iso: str) -> float | None:
    try:
        return datetime.fromisoformat(iso).timestamp()
    except (ValueError, TypeError):
        return None

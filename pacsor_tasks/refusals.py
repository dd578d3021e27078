"""Associations that were refused: who, when, why, how often. For the operator's page and metrics.

`refusals.json` in the spool, bounded: the latest kinds of refusal, and totals by reason. Every
receiver process adds to it about once a second, whatever comes.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

NAME = "refusals.json"
#: Kinds of refusal kept, the latest; and those one process keeps between two writes.
MAX_KEPT, MAX_PENDING = 200, 100
#: A peer that tries again and again gets one log line in so many seconds.
LOG_EVERY_S = 60.0
#: in the place of a peer's name when too many names came at once
MANY = "(many)"


class Reason(StrEnum):
    """Why an association was refused; the label of the metric."""

    APPLICATION_CONTEXT = "application_context"
    CALLING_AET = "calling_aet"
    ADDRESS = "address"
    CALLED_AET = "called_aet"
    DISK_FULL = "disk_full"
    TOO_MANY = "too_many"
    TOO_MANY_FROM_PEER = "too_many_from_peer"
    TLS = "tls"
    NO_REQUEST = "no_request"
    UNAVAILABLE = "unavailable"

    @property
    def text(self) -> str:
        """For a person."""
        return _TEXTS[self]


_TEXTS = {
    Reason.APPLICATION_CONTEXT: "not the DICOM application context",
    Reason.CALLING_AET: "the calling AE title is not in the allow list",
    Reason.ADDRESS: "the calling AE title is allowed, but not from this address",
    Reason.CALLED_AET: "the called AE title is not ours",
    Reason.DISK_FULL: "the spool's disk is too full",
    Reason.TOO_MANY: "too many associations at once",
    Reason.TOO_MANY_FROM_PEER: "too many associations at once from this address",
    Reason.TLS: "no TLS session",
    Reason.NO_REQUEST: "connected, and asked for nothing in time",
    Reason.UNAVAILABLE: "the receiver could not decide",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of refusal. AE titles as the peer gave them: no patient data."""

    address: str
    reason: Reason
    calling_aet: str = ""
    called_aet: str = ""
    #: more than the reason says, e.g. what failed in TLS
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A kind of refusal and how often it came."""

    refusal: Refusal
    count: int
    #: epoch seconds
    first_at: float
    last_at: float

    def to_json(self) -> dict[str, Any]:
        """For the API and the page."""
        shown = asdict(self.refusal) | {"text": self.refusal.reason.text, "count": self.count}
        for name in ("first_at", "last_at"):
            moment = datetime.fromtimestamp(getattr(self, name), UTC)
            shown[name] = moment.isoformat(timespec="milliseconds")
        return shown


@dataclass(frozen=True, slots=True)
class Refused:
    """All that is known."""

    #: the latest first
    kinds: tuple[Counted, ...] = ()
    #: since the spool was made
    totals: Mapping[str, int] = field(default_factory=dict)


class Refusals:
    """Takes refusals from many threads; `flush` writes them.

    Args:
        root: The spool.
        clock: Epoch seconds.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        self._guard = threading.Lock()
        self._pending: dict[Refusal, Counted] = {}
        #: (address, reason) → when it was last logged, and how many came since
        self._logged: dict[tuple[str, Reason], tuple[float, int]] = {}

    def add(self, refusal: Refusal) -> None:
        """Count a refusal, and log it unless the same peer's was just logged."""
        now = self._clock()
        with self._guard:
            n_unsaid = self._say(refusal, now)
            if refusal not in self._pending and len(self._pending) >= MAX_PENDING:
                refusal = Refusal(address=MANY, reason=refusal.reason)
            self._pending[refusal] = _plus(self._pending.get(refusal), refusal, 1, now, now)
        if n_unsaid is not None:
            shown = asdict(refusal) | {"reason": refusal.reason.text}
            log.warning("association.refused", **shown, n_more_since_last_line=n_unsaid)

    def flush(self) -> None:
        """Write what was added. What cannot be written now is kept for the next time."""
        with self._guard:
            pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            with _locked(self.root):
                _write(self.root, _merged(read(self.root), pending))
        except OSError as exc:
            log.warning("refusals.not_written", reason=exc.strerror)
            with self._guard:
                for refusal, counted in pending.items():
                    mine = self._pending.get(refusal)
                    self._pending[refusal] = _plus(
                        mine, refusal, counted.count, counted.first_at, counted.last_at
                    )

    def _say(self, refusal: Refusal, now: float) -> int | None:
        """How many were not logged since the last line; None: this one is not either."""
        key = (refusal.address, refusal.reason)
        at, n_unsaid = self._logged.get(key, (float("-inf"), 0))
        if 0 <= now - at < LOG_EVERY_S:
            self._logged[key] = (at, n_unsaid + 1)
            return None
        if len(self._logged) >= MAX_KEPT:
            del self._logged[next(iter(self._logged))]
        self._logged[key] = (now, 0)
        return n_unsaid


def read(root: Path) -> Refused:
    """What was refused so far; nothing if the file is not there or damaged."""
    try:
        found = json.loads((root / NAME).read_text())
        kinds = tuple(
            Counted(
                refusal=Refusal(**{**kind["refusal"], "reason": Reason(kind["refusal"]["reason"])}),
                count=int(kind["count"]),
                first_at=float(kind["first_at"]),
                last_at=float(kind["last_at"]),
            )
            for kind in found["kinds"]
        )
        return Refused(kinds, {str(k): int(v) for k, v in found["totals"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Refused()


def _merged(old: Refused, new: Mapping[Refusal, Counted]) -> Refused:
    kinds = {counted.refusal: counted for counted in old.kinds}
    totals = dict(old.totals)
    for refusal, counted in new.items():
        kinds[refusal] = _plus(
            kinds.get(refusal), refusal, counted.count, counted.first_at, counted.last_at
        )
        totals[refusal.reason] = totals.get(refusal.reason, 0) + counted.count
    latest = sorted(kinds.values(), key=lambda counted: counted.last_at, reverse=True)
    return Refused(tuple(latest[:MAX_KEPT]), totals)


def _plus(
    old: Counted | None, refusal: Refusal, count: int, first_at: float, last_at: float
) -> Counted:
    if old is None:
        return Counted(refusal=refusal, count=count, first_at=first_at, last_at=last_at)
    return replace(
        old,
        count=old.count + count,
        first_at=min(old.first_at, first_at),
        last_at=max(old.last_at, last_at),
    )


def _write(root: Path, refused: Refused) -> None:
    text = json.dumps(
        {"totals": dict(refused.totals), "kinds": [asdict(kind) for kind in refused.kinds]}
    )
    # Not synced: a crash costs counts, and a write of every second must not cost the disk's time.
    partial = root / f".{NAME}.tmp"
    partial.write_text(text)
    partial.replace(root / NAME)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    fd = os.open(root / "locks" / "refusals.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

"""What is known of a study before the ledger knows it, and the reason it waits. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

#: Beyond its time by so much, something is wrong: the sweeper looks ten times a second.
GRACE_S = 5.0


class ArrivalState(StrEnum):
    """Where a study is on its way into the ledger."""

    #: an association that sent some of it is open
    RECEIVING = "receiving"
    #: it waits for its quiet period, or for the receiver
    SETTLING = "settling"
    CLOSING = "closing"
    OVERDUE = "overdue"
    #: a revision that no worker has recorded
    STABLE = "stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Instances of a study that the ledger does not know. Times are epoch seconds."""

    study_uid: str
    state: ArrivalState
    reason: str
    #: when that ends by itself; None: nobody knows
    due_at: float | None
    #: when the reason began, where that is known
    since_at: float | None
    n_instances: int
    first_at: float | None
    last_at: float | None
    #: open associations that sent some of it
    n_associations: int
    #: the revision, once there is one
    token: str | None

    def to_json(self) -> dict[str, Any]:
        """The public JSON: the names and times of the ledger's."""
        fields = asdict(self)
        times = {name: _iso(at) for name, at in fields.items() if name.endswith("_at")}
        renamed = {
            "study_instance_uid": fields.pop("study_uid"),
            "instances": fields.pop("n_instances"),
            "associations": fields.pop("n_associations"),
        }
        return renamed | fields | times


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """An incoming study at one moment; times are epoch seconds."""

    now: float
    first_at: float | None
    last_at: float
    n_associations: int
    is_requested: bool
    #: since when the receiver runs; None: it does not
    receiver_since: float | None


def why_waiting(
    at: Situation, *, quiet_s: float, max_wait_s: float
) -> tuple[ArrivalState, str, float | None]:
    """State, reason and due time of an incoming study, as the receiver will decide.

    Args:
        at: The study now.
        quiet_s: STUDY_QUIET_SECONDS.
        max_wait_s: STUDY_MAX_WAIT_SECONDS.
    """
    if at.receiver_since is None:
        return ArrivalState.SETTLING, "the receiver is not running", None
    if at.is_requested:
        return ArrivalState.CLOSING, "requested: closing", None
    due_at = at.first_at + max_wait_s if at.first_at is not None else None
    if at.n_associations == 0:
        # The receiver counts by its own clock: a restart costs one more quiet period.
        quiet_at = max(at.last_at, at.receiver_since) + quiet_s
        due_at = quiet_at if due_at is None else min(due_at, quiet_at)
    if due_at is not None and at.now >= due_at + GRACE_S:
        return ArrivalState.OVERDUE, "overdue: the receiver's log says why", due_at
    if due_at is not None and at.now >= due_at:
        return ArrivalState.CLOSING, "closing", due_at
    if at.n_associations:
        return ArrivalState.RECEIVING, _open_words(at.n_associations), due_at
    return ArrivalState.SETTLING, f"{quiet_s:g} s without another instance", due_at


def _open_words(n: int) -> str:
    if n == 1:
        return "an association that sent instances is open"
    return f"{n} associations that sent instances are open"


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Who may start: work for a peer that is paused, left alone or busy waits here, not in a worker.

Work that is held keeps its place, its tries and, during a pause, its horizon. It gets a new due
time in one statement for all of it, so a backlog of a weekend costs a sweep next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    func,
    select,
    update,
)

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.models import DeliveryState, Peer, PeerKind, PeerName, PeerState, RunState, Step

#: The steps that talk to a core.
ASKING = (Step.UPLOAD, Step.POLL, Step.DOWNLOAD)
#: Work of a paused peer is looked at so often, seconds. Resuming it makes it due at once.
PAUSE_LOOK_S = 600.0
#: … of one that is tried with one piece at a time.
TRIAL_LOOK_S = 15.0
#: First half of the advisory lock of a peer's leases.
LEASES_LOCK = 0x6C656173

PEER_COLUMNS = tuple(t.peer.c[f.name] for f in fields(Peer))


class Work(NamedTuple):
    """What waits for one kind of peer."""

    table: Table
    #: the peer's name
    name: Column[Any]
    #: where the retry horizon counts from
    since: Column[Any]
    is_open: ColumnElement[bool]


WORK = {
    PeerKind.DESTINATION: Work(
        t.delivery,
        t.delivery.c.destination,
        t.delivery.c.active_since,
        t.delivery.c.state.in_([s for s in DeliveryState if not s.is_terminal]),
    ),
    PeerKind.CORE: Work(
        t.run,
        t.run.c.core,
        t.run.c.step_since,
        and_(
            t.run.c.step.in_(ASKING), t.run.c.state.in_([s for s in RunState if not s.is_terminal])
        ),
    ),
}


#: A piece of work and what is known of its peer.
_FOUND = {
    kind: select(work.name.label("of"), work.since.label("since"), *PEER_COLUMNS)
    .outerjoin_from(work.table, t.peer, and_(t.peer.c.kind == kind, t.peer.c.name == work.name))
    .where(work.table.c.id == bindparam("work"))
    for kind, work in WORK.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What limits the work for one peer."""

    #: pieces of work at once, over all workers and hosts; 0: any number
    slots: int = 0
    #: a peer that is away for longer has its work tried, and so given up
    horizon_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Hold:
    """Why work does not start, and until when that is not looked at again."""

    at: float
    until: float
    reason: str
    #: the horizon stands still meanwhile
    is_refunded: bool = False


UNBOUNDED = Bounds()


def admit(c: Connection, kind: PeerKind, work_id: str, now: float, bounds: Bounds) -> bool:
    """Whether a piece of work may start now, in the transaction that then takes its lease.

    One that may not is put off, with the reason to be shown.
    """
    work = WORK[kind]
    found = c.execute(_FOUND[kind], {"work": work_id}).mappings().first()
    if found is None:
        return True  # the claim finds that out too
    peer = to_peer(found) if found["name"] is not None else Peer(kind=kind, name=found["of"])
    if peer.state is PeerState.OPEN and (found["since"] or now) <= now - bounds.horizon_s:
        return True  # its try ends at once, and with it the delivery
    put_off = hold_of(peer, now)
    if peer.state in {PeerState.CLOSED, PeerState.TRIAL}:
        slots = 1 if peer.state is PeerState.TRIAL else bounds.slots
        if not slots or n_leased(c, PeerName(kind, peer.name), now, is_locked=True) < slots:
            return True
    mine = (work.table.c.id == work_id, *_startable(work, now))
    if put_off is not None:
        _hold(c, work, mine, put_off)
    else:
        said = f"its turn: {bounds.slots} at once for {peer.kind} {peer.name}"
        c.execute(update(work.table).where(*mine).values(enqueued_at=0, waiting_for=said))
    return False


def hold_of(peer: Peer, now: float) -> Hold | None:
    """How a peer's state holds its work; None when it does not."""
    who = f"{peer.kind} {peer.name}"
    if peer.paused_at is not None:
        said = f": {peer.pause_reason}" if peer.pause_reason else ""
        return Hold(
            now,
            now + PAUSE_LOOK_S,
            f"{who} is paused by {peer.paused_by} since {_minute(peer.paused_at)}{said}",
            is_refunded=True,
        )
    if peer.state is PeerState.OPEN:
        until = max(now + 1, peer.probe_at or 0)
        return Hold(now, until, f"{who} is left alone until a probe gets through: {peer.error}")
    if peer.state is PeerState.TRIAL:
        return Hold(now, now + TRIAL_LOOK_S, f"its turn: {who} was away and is tried one at a time")
    return None


def hold_due(
    c: Connection, peer: PeerName, held: Hold, *, keep: int = 0, horizon_s: float = math.inf
) -> None:
    """Put off what is due for a peer, but the first `keep` of it, and what is past its horizon."""
    work = WORK[peer.kind]
    due = (work.name == peer.name, *_startable(work, held.at))
    if not held.is_refunded and math.isfinite(horizon_s):
        due = (*due, work.since > held.at - horizon_s)
    if keep:
        first = select(work.table.c.id).where(*due).order_by(work.table.c.due_at).limit(keep)
        due = (*due, work.table.c.id.not_in(first))
    _hold(c, work, due, held)


def hold_all(c: Connection, peer: PeerName, held: Hold) -> None:
    """Put off everything that waits for a peer, due or not."""
    work = WORK[peer.kind]
    waiting = (
        work.name == peer.name,
        work.is_open,
        work.table.c.due_at < held.until,
        work.table.c.owner.is_(None),
    )
    _hold(c, work, waiting, held)


def release(
    c: Connection, peer: PeerName, now: float, *, was_refunded: bool = False, limit: int = 0
) -> None:
    """Make held work due now.

    Args:
        c: The transaction.
        peer: Whose.
        now: Epoch seconds.
        was_refunded: It was held by a pause.
        limit: At most so much, the longest due first; 0: all.
    """
    work = WORK[peer.kind]
    held = and_(work.name == peer.name, work.is_open, work.table.c.held, work.table.c.due_at > now)
    if limit:
        first = select(work.table.c.id).where(held).order_by(work.table.c.due_at).limit(limit)
        held = work.table.c.id.in_(first)
    values: dict[Any, Any] = {
        "due_at": now,
        "enqueued_at": 0,
        "held": False,
        "waiting_for": "a worker",
    }
    if was_refunded:
        values[work.since.name] = work.since - (work.table.c.due_at - now)
    c.execute(update(work.table).where(held).values(values))


def n_leased(c: Connection, peer: PeerName, now: float, *, is_locked: bool = False) -> int:
    """Pieces of work for a peer that workers hold.

    Args:
        c: The transaction.
        peer: Whose.
        now: Epoch seconds.
        is_locked: Nobody else takes a lease of this peer's until the transaction ends. On SQLite a
            writing transaction is alone anyway.
    """
    work = WORK[peer.kind]
    if is_locked and c.dialect.name == "postgresql":
        c.execute(select(func.pg_advisory_xact_lock(LEASES_LOCK, func.hashtext(str(peer)))))
    query = (
        select(func.count())
        .select_from(work.table)
        .where(work.name == peer.name, work.table.c.lease_until > now, work.is_open)
    )
    return int(c.execute(query).scalar_one())


def to_peer(row: Any) -> Peer:
    """A row with PEER_COLUMNS as a record."""
    values = {column.name: row[column.name] for column in PEER_COLUMNS}
    return Peer(**{**values, "kind": PeerKind(values["kind"])})


def _startable(work: Work, now: float) -> tuple[ColumnElement[bool], ...]:
    return (work.is_open, work.table.c.due_at <= now, work.table.c.lease_until < now)


def _hold(c: Connection, work: Work, which: Sequence[ColumnElement[bool]], held: Hold) -> None:
    values: dict[Any, Any] = {
        "due_at": held.until, "enqueued_at": 0, "held": True, "waiting_for": held.reason,
    }  # fmt: skip
    if held.is_refunded:
        values[work.since.name] = work.since + (held.until - work.table.c.due_at)
    c.execute(update(work.table).where(*which).values(values))


def _minute(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""Peers: which core or destination is paused, left alone, or on trial. No row: it is well.

Source: architecture §5; the states are those of `models.PeerState`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from pacsor_tasks.errors import Conflict
from pacsor_tasks.ledger import gate
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.store import Store, insert_missing, loose_names
from pacsor_tasks.models import DeliveryState, Peer, PeerKind, PeerName, PeerState

#: Strikes at which a peer is left alone.
OPEN_AT = 10
#: For how long until it is probed: at first, and at most, seconds; twice as long each time.
FIRST_S, LONGEST_S = 5.0, 60.0
#: A probe whose process died is made again after so long, seconds.
PROBE_LEASE_S = 30.0


_PEER = select(*gate.PEER_COLUMNS).where(
    t.peer.c.kind == bindparam("of_kind"), t.peer.c.name == bindparam("called")
)


class Peers(Store):
    """What is known of the peers, and what that means for the work that waits for them."""

    def all(self) -> dict[PeerName, Peer]:
        """Every peer that there is something to say of."""
        with self.read() as c:
            found = [gate.to_peer(row) for row in c.execute(select(*gate.PEER_COLUMNS)).mappings()]
        return {PeerName(peer.kind, peer.name): peer for peer in found}

    def get(self, peer: PeerName) -> Peer:
        """One of them."""
        with self.read() as c:
            return self._get(c, peer)

    def pause(self, peer: PeerName, by: str, reason: str) -> None:
        """Talk to a peer no more: what waits for it is held, at no cost of tries or horizon.

        What a worker has begun with it is not interrupted.

        Raises:
            Conflict: It is paused already.
        """
        now = self.clock()
        with self.write() as c:
            done = self._update(
                c, peer, t.peer.c.paused_at.is_(None),
                paused_at=now, paused_by=by, pause_reason=reason or None,
            )  # fmt: skip
            if not done:
                raise Conflict(f"{peer} is paused already, by {self._get(c, peer).paused_by}")
            held = gate.hold_of(self._get(c, peer), now)
            assert held is not None  # noqa: S101 - it was paused in this transaction
            gate.hold_all(c, peer, held)
            self._event(c, peer, "paused", f"paused: {reason}" if reason else "paused", by)

    def resume(self, peer: PeerName, by: str) -> None:
        """Talk to a paused peer again, at once.

        Raises:
            Conflict: It is not paused.
        """
        with self.write() as c:
            if not self._update(
                c, peer, t.peer.c.paused_at.is_not(None),
                paused_at=None, paused_by=None, pause_reason=None,
            ):  # fmt: skip
                raise Conflict(f"{peer} is not paused")
            gate.release(c, peer, self.clock(), was_refunded=True)
            self._event(c, peer, "resumed", "resumed", by)

    def failed(self, peer: PeerName, error: str, strikes: int) -> bool:
        """Note a try that found a peer away; True when it is left alone from now on.

        Args:
            peer: Which.
            error: What the try said; shown to operators.
            strikes: How much it counts; OPEN_AT in a row leave the peer alone.
        """
        with self.write() as c:
            before = self._get(c, peer)
            if before.probe_at is not None:
                return False  # a try from before; the next probe decides
            if before.opened_at is None and before.strikes + strikes < OPEN_AT:
                self._update(c, peer, strikes=before.strikes + strikes, error=error)
                return False
            self._leave_alone(c, peer, before, error)
        return before.opened_at is None

    def answered(self, peer: PeerName) -> bool:
        """Note that a peer answered; True when it was left alone until now."""
        with self.write() as c:
            before = self._get(c, peer)
            self._update(c, peer, strikes=0, opened_at=None, probe_at=None, probes=0, error=None)
            if before.opened_at is None:
                return False
            if before.paused_at is None:
                gate.release(c, peer, self.clock())
            away_s = self.clock() - before.opened_at
            self._event(c, peer, "closed", f"answers again after {away_s:.0f} s")
        return True

    def take_probes(self) -> list[PeerName]:
        """Peers to be probed now; nobody else gets them for a while."""
        now = self.clock()
        due = (t.peer.c.probe_at <= now, t.peer.c.paused_at.is_(None))
        with self.read() as c:
            if c.execute(select(t.peer.c.name).where(*due).limit(1)).first() is None:
                return []
        with self.write() as c:
            taken = c.execute(
                update(t.peer)
                .where(*due)
                .values(probe_at=now + PROBE_LEASE_S)
                .returning(t.peer.c.kind, t.peer.c.name)
            )
            return [PeerName(PeerKind(row.kind), row.name) for row in taken]

    def probed(self, peer: PeerName, error: str | None) -> None:
        """Note what became of a probe; None: the peer answered, and one piece of work is tried."""
        with self.write() as c:
            before = self._get(c, peer)
            if before.probe_at is None:
                return  # it answered somebody meanwhile
            if error is not None:
                self._leave_alone(c, peer, before, error)
                return
            self._update(c, peer, probe_at=None)
            if before.paused_at is None:
                gate.release(c, peer, self.clock(), limit=1)

    def hold_due(self, horizon_s: float) -> None:
        """Put off what is due for peers that take nothing now."""
        peers = [p for p in self.all().values() if p.state is not PeerState.CLOSED]
        if not peers:
            return
        now = self.clock()
        with self.write() as c:
            for peer in peers:
                held = gate.hold_of(peer, now)
                if held is None:
                    continue
                name, keep = PeerName(peer.kind, peer.name), 0
                if peer.state is PeerState.TRIAL:
                    keep = max(0, 1 - gate.n_leased(c, name, now))
                gate.hold_due(c, name, held, keep=keep, horizon_s=horizon_s)

    def probe_now(self, peer: PeerName) -> None:
        """Let the next sweep probe a peer that is left alone."""
        with self.write() as c:
            c.execute(
                update(t.peer).where(*_is(peer), t.peer.c.probe_at.is_not(None))
                .values(probe_at=self.clock())
            )  # fmt: skip

    def events(self, limit: int = 50) -> list[dict[str, Any]]:
        """What happened to peers, the latest first."""
        query = (
            select(t.event)
            .where(t.event.c.peer.is_not(None))
            .order_by(t.event.c.id.desc())
            .limit(limit)
        )
        with self.read() as c:
            return [dict(row) for row in c.execute(query).mappings()]

    def destinations(self) -> list[str]:
        """Every destination that ever had a delivery, configured still or not."""
        with self.read() as c:
            return loose_names(c, t.delivery.c.destination)

    def free_slots(self, peer: PeerName, slots: int) -> int:
        """How many more pieces of work for a peer may start when `slots` may go at once."""
        with self.read() as c:
            return max(0, slots - gate.n_leased(c, peer, self.clock()))

    def waiting(self, peers: Iterable[PeerName]) -> dict[PeerName, dict[str, int]]:
        """By peer: work that is `waiting`, `in_work` with a worker, and `quarantined`."""
        now = self.clock()
        with self.read() as c:
            return {peer: self._waiting(c, peer, now) for peer in peers}

    def _waiting(self, c: Connection, peer: PeerName, now: float) -> dict[str, int]:
        work = gate.WORK[peer.kind]
        waiting = select(func.count()).where(
            work.name == peer.name, work.table.c.due_at > 0, work.is_open
        )
        in_work = gate.n_leased(c, peer, now)
        found = {"waiting": c.execute(waiting).scalar_one() - in_work, "in_work": in_work}
        if peer.kind is PeerKind.DESTINATION:
            quarantined = select(func.count()).where(
                t.delivery.c.destination == peer.name,
                t.delivery.c.state == DeliveryState.QUARANTINED,
            )
            found["quarantined"] = c.execute(quarantined).scalar_one()
        return found

    def _get(self, c: Connection, peer: PeerName) -> Peer:
        row = c.execute(_PEER, {"of_kind": peer.kind, "called": peer.name}).mappings().first()
        return Peer(kind=peer.kind, name=peer.name) if row is None else gate.to_peer(row)

    def _update(self, c: Connection, peer: PeerName, *where: Any, **values: Any) -> bool:
        c.execute(insert_missing(c, t.peer).values(kind=peer.kind, name=peer.name))
        done = c.execute(update(t.peer).where(*_is(peer), *where).values(**values))
        return done.rowcount == 1

    def _leave_alone(self, c: Connection, peer: PeerName, before: Peer, error: str) -> None:
        now = self.clock()
        wait_s = min(FIRST_S * 2.0 ** min(before.probes, 20), LONGEST_S)
        self._update(
            c, peer, strikes=OPEN_AT, error=error, probes=before.probes + 1,
            opened_at=before.opened_at or now, probe_at=now + wait_s,
        )  # fmt: skip
        if before.opened_at is None:
            self._event(c, peer, "open", f"left alone: {error}")

    def _event(
        self, c: Connection, peer: PeerName, what: str, message: str, by: str | None = None
    ) -> None:
        c.execute(
            insert(t.event).values(
                at=self.clock(), study_uid="", kind=f"peer.{what}", message=message,
                peer=str(peer), by=by,
            )
        )  # fmt: skip


def _is(peer: PeerName) -> tuple[Any, Any]:
    return (t.peer.c.kind == peer.kind, t.peer.c.name == peer.name)

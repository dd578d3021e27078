"""The line of messages before a RIS: the oldest run's first, over all workers and hosts.

A message waits for an older one to the same RIS that

- is due too,
- was tried and found the RIS away: it is tried again first, and at once, or
- is about the same study, whatever it waits for.

One whose try the RIS itself ended (AE, an unreadable answer), or that waits for the AI or for its
images, steps aside: it holds up nothing but later messages about its study.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, exists, or_, select, tuple_, update

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.store import Store
from pacsor_tasks.models import DeliveryState, DestinationKind, PeerKind

OPEN = (DeliveryState.PENDING, DeliveryState.RETRYING)
#: A message that let an older one go first looks again after so long, seconds.
STEP_BACK_S = 1.0
#: … at the latest, whatever the older one waits for: it may be skipped, or go before its time.
LOOK_S = 10.0
#: What a message is said to wait for while the images of its run are not delivered.
IMAGES = "the images at "
#: Order of the line.
PLACE = (t.run.c.created_at, t.run.c.id)


class Messages(Store):
    """What the ledger keeps of an HL7 delivery alone."""

    def keep_control_id(self, delivery_id: str, control_id: str) -> str:
        """Store MSH-10 unless one is stored already; the one that counts from now on."""
        with self.write() as c:
            c.execute(
                update(t.delivery)
                .where(t.delivery.c.id == delivery_id, t.delivery.c.control_id.is_(None))
                .values(control_id=control_id)
            )
            query = select(t.delivery.c.control_id).where(t.delivery.c.id == delivery_id)
            return str(c.execute(query).scalar_one())

    def record_sent(self, delivery_id: str) -> None:
        """The one message of an HL7 delivery was acknowledged."""
        with self.write() as c:
            c.execute(update(t.delivery).where(t.delivery.c.id == delivery_id).values(sent=1))

    def let_go_first(self, delivery_id: str) -> None:
        """Its message from the queue went to an older one: it needs another."""
        mine = and_(t.delivery.c.id == delivery_id, t.delivery.c.state.in_(OPEN))
        with self.write(lasting=False) as c:
            c.execute(update(t.delivery).where(mine).values(enqueued_at=0))

    def wake_after_images(self, run_id: str) -> None:
        """Make a run's messages due that waited for its images, if none is under way any more."""
        now = self.clock()
        other = t.delivery.alias()
        under_way = exists().where(
            other.c.run_id == run_id,
            other.c.kind.in_([kind for kind in DestinationKind if kind.is_archive]),
            other.c.state.in_(OPEN),
        )
        with self.write(lasting=False) as c:
            c.execute(
                update(t.delivery)
                .where(
                    t.delivery.c.run_id == run_id,
                    t.delivery.c.kind.in_([k for k in DestinationKind if not k.takes_instances]),
                    t.delivery.c.state.in_(OPEN),
                    t.delivery.c.due_at > now,
                    t.delivery.c.lease_until < now,
                    t.delivery.c.waiting_for.startswith(IMAGES),
                    ~under_way,
                )
                .values(due_at=now, enqueued_at=0)
            )


def is_first(c: Connection, delivery_id: str, now: float) -> bool:
    """Whether no older message goes before a delivery; else it is put off, with the reason.

    In the transaction that then takes its lease. Deliveries that are no messages always may.
    """
    mine = c.execute(_placed().where(t.delivery.c.id == delivery_id)).first()
    if mine is None or mine.kind != DestinationKind.HL7:
        return True
    older = c.execute(
        _placed()
        .where(
            t.delivery.c.destination == mine.destination,
            t.delivery.c.state.in_(OPEN),
            t.delivery.c.due_at.is_not(None),
            tuple_(*PLACE) < tuple_(mine.created_at, mine.run_id),
            or_(
                t.delivery.c.study_uid == mine.study_uid,
                t.delivery.c.due_at <= now,
                and_(
                    t.delivery.c.state == DeliveryState.RETRYING,
                    _found_the_ris_away(),
                    _is_away(c, mine.destination),
                ),
            ),
        )
        .order_by(*PLACE)
        .limit(1)
    ).first()
    if older is None:
        return True
    _step_back(c, mine, older, now)
    return False


def _placed() -> Any:
    return select(
        t.delivery.c.id, t.delivery.c.kind, t.delivery.c.destination, t.delivery.c.study_uid,
        t.delivery.c.due_at, t.delivery.c.state, t.delivery.c.run_id, t.run.c.created_at,
    ).join(t.run, t.run.c.id == t.delivery.c.run_id)  # fmt: skip


def _found_the_ris_away() -> Any:
    """Whether its last try ended at the connection, by the words of `hl7.mllp` and of the breaker.

    One that waits for the AI's service to come back must not hold up the others.
    """
    error = t.delivery.c.error
    return or_(error.startswith("RIS "), error.startswith("destination "))


def _is_away(c: Connection, destination: str) -> Any:
    """Whether the last try found the RIS away."""
    strikes = c.execute(
        select(t.peer.c.strikes).where(
            t.peer.c.kind == PeerKind.DESTINATION, t.peer.c.name == destination
        )
    ).scalar()
    return bool(strikes)


def _step_back(c: Connection, mine: Any, older: Any, now: float) -> None:
    """Put a message off until the older one had its turn."""
    values: dict[str, Any] = {
        "enqueued_at": 0, "waiting_for": f"its turn: an earlier message to {mine.destination}",
    }  # fmt: skip
    if older.due_at > now:
        if older.study_uid == mine.study_uid:
            values["waiting_for"] = "an earlier message about this study"
            values["due_at"] = min(older.due_at, now + LOOK_S) + STEP_BACK_S
        else:
            values["due_at"] = now + STEP_BACK_S
            c.execute(
                update(t.delivery)
                .where(t.delivery.c.id == older.id, t.delivery.c.lease_until < now)
                .values(due_at=now, enqueued_at=0)
            )
    c.execute(
        update(t.delivery)
        .where(
            t.delivery.c.id == mine.id,
            t.delivery.c.state.in_(OPEN),
            t.delivery.c.lease_until < now,
            t.delivery.c.due_at <= now,
        )
        .values(**values)
    )

"""Deliveries: one row, lease and due time each, so that no destination waits for another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, Select, or_, select, update

from pacsor_tasks.ledger import gate, line
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger import statements as prepared
from pacsor_tasks.ledger.runs import OPEN_DELIVERY, WAITING_FOR, WATCH_S
from pacsor_tasks.ledger.store import (
    insert_missing,
    is_news,
    upsert,
)
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    DestinationKind,
    PeerKind,
    Result,
    Run,
    Selection,
    Step,
)


class DueDelivery(NamedTuple):
    """A delivery that has to be launched."""

    delivery_id: str
    kind: DestinationKind
    enqueued_at: float


class Answer(NamedTuple):
    """What a PACS said to one instance, or we did in its stead."""

    result_id: int
    status: int
    meaning: str
    delivered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult:
    """One DICOM instance the AI returned."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int


class Deliveries(line.Messages):
    """Everything the pipeline asks and writes about results and deliveries."""

    def of_run(self, run_id: str) -> list[Delivery]:
        """The run's deliveries, by destination."""
        with self.read() as c:
            rows = c.execute(prepared.DELIVERIES_OF_RUN, {"run": run_id}).mappings()
            return [to_delivery(row) for row in rows]

    def get(self, delivery_id: str) -> Delivery | None:
        """The delivery, or None."""
        with self.read() as c:
            row = c.execute(prepared.DELIVERY, {"delivery": delivery_id}).mappings().first()
        return None if row is None else to_delivery(row)

    def fan_out(self, run: Run, totals: Mapping[str, int], event: tuple[str, str]) -> bool:
        """Make a run's deliveries due and move the run to waiting for them, fenced by its owner.

        Args:
            run: As claimed at step fan_out.
            totals: Instances to deliver, by destination.
            event: (kind, message) for the timeline.
        """
        now = self.clock()
        with self.write(lasting=False) as c:
            moved = c.execute(
                update(t.run)
                .where(t.run.c.id == run.id, t.run.c.owner == run.owner)
                .where(t.run.c.step == Step.FAN_OUT)
                .values(
                    step=Step.DELIVER, state=Step.DELIVER.state, owner=None, lease_until=0,
                    attempts=0, losses=0, step_since=now,
                    due_at=now + WATCH_S if totals else now, enqueued_at=now if totals else 0,
                    waiting_for=WAITING_FOR[Step.DELIVER], error=None,
                )
            )  # fmt: skip
            if not moved.rowcount:
                return False
            for destination, total in totals.items():
                c.execute(
                    update(t.delivery)
                    .where(
                        t.delivery.c.id == f"{run.id}:{destination}",
                        t.delivery.c.state.in_(OPEN_DELIVERY),
                    )
                    .values(
                        due_at=now, active_since=now, enqueued_at=now, total=total,
                        waiting_for="a worker to deliver",
                    )
                )  # fmt: skip
            self.add_event(
                c, study_uid=run.study_uid, run_id=run.id, kind=event[0], message=event[1]
            )
        return True

    def claim(
        self, delivery_id: str, owner: str, lease_s: float, bounds: gate.Bounds = gate.UNBOUNDED
    ) -> Delivery | None:
        """Take the lease of a delivery that is due.

        Returns:
            None when it is not due, held by another, over, its destination takes nothing now, or
            an older message goes first.
        """
        now = self.clock()
        with self.write(lasting=False) as c:
            if not gate.admit(c, PeerKind.DESTINATION, delivery_id, now, bounds):
                return None
            if not line.is_first(c, delivery_id, now):
                return None
            parameters = {
                "delivery": delivery_id, "now": now, "holder": owner, "until": now + lease_s,
            }  # fmt: skip
            row = c.execute(prepared.CLAIM_DELIVERY, parameters).mappings().first()
        return None if row is None else to_delivery(row)

    def renew(self, delivery_id: str, owner: str, lease_s: float) -> bool:
        """Prolong a lease; False when it was lost."""
        with self.write(lasting=False) as c:
            done = c.execute(
                update(t.delivery)
                .where(*_mine(delivery_id, owner))
                .values(lease_until=self.clock() + lease_s)
            )
        return done.rowcount == 1

    def park(
        self, delivery: Delivery, due_at: float, waiting_for: str, error: str | None = None
    ) -> bool:
        """Give the lease back and say when and for what the delivery waits.

        Without an error nothing went wrong: its failed tries in a row are forgotten.
        """
        values: dict[str, Any] = {
            "owner": None, "lease_until": 0, "due_at": due_at, "enqueued_at": 0, "losses": 0,
            "waiting_for": waiting_for, "error": error,
        }  # fmt: skip
        event = None
        if error is None:
            values["attempts"] = 0
        else:
            values["state"] = DeliveryState.RETRYING
            event = ("delivery.retry", waiting_for) if is_news(delivery, error) else None
        return self._commit(delivery, values, event)

    def finish(self, delivery: Delivery, state: DeliveryState, message: str) -> bool:
        """End a delivery, fenced by its owner."""
        values = {
            "state": state, "owner": None, "lease_until": 0, "due_at": None, "enqueued_at": 0,
            "waiting_for": None, "finished_at": self.clock(),
            "error": None if state is DeliveryState.DELIVERED else message,
        }  # fmt: skip
        return self._commit(delivery, values, (f"delivery.{state}", message))

    def due(
        self,
        *,
        stale_s: float,
        limit: int,
        destination: str | None = None,
        in_line: bool = False,
    ) -> list[DueDelivery]:
        """Unfinished deliveries past their due time whose message is not under way.

        Args:
            stale_s: A message published longer ago counts as lost; `inf`: none does; `-inf`: all.
            limit: At most so many, the longest due first.
            destination: Only those of this one.
            in_line: The oldest run's first, as a RIS gets them.
        """
        now = self.clock()
        query = (
            select(t.delivery.c.id, t.delivery.c.kind, t.delivery.c.enqueued_at)
            .where(
                t.delivery.c.due_at <= now,
                t.delivery.c.lease_until < now,
                or_(t.delivery.c.enqueued_at == 0, t.delivery.c.enqueued_at < now - stale_s),
            )
            .limit(limit)
        )
        if in_line:
            query = query.join(t.run, t.run.c.id == t.delivery.c.run_id).order_by(*line.PLACE)
        else:
            query = query.order_by(t.delivery.c.due_at)
        if destination is not None:
            query = query.where(t.delivery.c.destination == destination)
        with self.read() as c:
            rows = c.execute(query)
            return [DueDelivery(r.id, DestinationKind(r.kind), r.enqueued_at) for r in rows]

    def mark_enqueued(self, due: DueDelivery) -> bool:
        """Say that a message is being published; False when another sweep was first."""
        with self.write(lasting=False) as c:
            done = c.execute(
                update(t.delivery)
                .where(
                    t.delivery.c.id == due.delivery_id,
                    t.delivery.c.enqueued_at == due.enqueued_at,
                    t.delivery.c.state.in_(OPEN_DELIVERY),
                )
                .values(enqueued_at=self.clock())
            )
        return done.rowcount == 1

    # --- per instance

    def record_answers(self, delivery: Delivery, answers: Sequence[Answer]) -> bool:
        """Record what became of instances, in one transaction; `sent` counts what is delivered.

        Returns:
            False when the delivery's lease was lost. What the PACS said is recorded all the same.
        """
        now = self.clock()
        rows = [{"delivery_id": delivery.id, "at": now, **answer._asdict()} for answer in answers]
        with self.write() as c:
            c.execute(upsert(c, t.delivery_instance), rows)
            owner = c.execute(prepared.COUNT_SENT, {"delivery": delivery.id}).scalar()
        return bool(owner == delivery.owner)

    def unsent(self, delivery: Delivery) -> list[Result]:
        """The run's results that this destination lacks, in their order, the untried first."""
        parameters = {"run": delivery.run_id, "delivery": delivery.id}
        with self.read() as c:
            rows = c.execute(prepared.UNSENT, parameters).mappings()
            results = [Result(**row) for row in rows]
        takes = delivery.selection.takes
        return [result for result in results if takes(result.command, result.sop_class_uid)]

    # --- results

    def outcomes(self, run_id: str) -> dict[str, tuple[str, str | None]]:
        """Inference command → (outcome, reason), for those that are settled."""
        with self.read() as c:
            rows = c.execute(prepared.COMMANDS, {"run": run_id})
            return {row.name: (row.outcome, row.reason) for row in rows}

    def record_command(
        self,
        run_id: str,
        name: str,
        outcome: tuple[str, str | None],
        results: Iterable[NewResult],
        *,
        owner: str | None = None,
    ) -> bool:
        """Settle one inference command of a run with (outcome, reason) and its results.

        Args:
            run_id: Of the run.
            name: Of the command.
            outcome: What became of it, and why.
            results: What it returned.
            owner: Whoever has to hold the run's lease for it; None: nobody.

        Returns:
            False when the lease was lost or the command is settled: nothing was written.
        """
        with self.write() as c:
            if owner is not None and not c.execute(_held(run_id, owner)).first():
                return False
            settled = c.execute(
                insert_missing(c, t.command).values(
                    run_id=run_id, name=name, outcome=outcome[0], reason=outcome[1]
                )
            )
            if not settled.rowcount:
                return False
            rows = [
                {
                    "run_id": run_id,
                    "command": name,
                    "sop_instance_uid": result.sop_instance_uid,
                    "sop_class_uid": result.sop_class_uid,
                    "transfer_syntax_uid": result.transfer_syntax_uid,
                    "path": result.path,
                    "size_bytes": result.size_bytes,
                }
                for result in results
            ]
            if rows:
                c.execute(insert_missing(c, t.result), rows)
        return True

    def count_results(self, run_id: str) -> int:
        """How many DICOM instances the AI returned for a run."""
        with self.read() as c:
            return int(c.execute(prepared.COUNT_RESULTS, {"run": run_id}).scalar_one())

    def count_by_class(self, run_id: str) -> dict[tuple[str, str], int]:
        """How many instances each inference command returned of each SOP class."""
        with self.read() as c:
            rows = c.execute(prepared.COUNT_BY_CLASS, {"run": run_id})
            return {(row.command, row.sop_class_uid): row.n for row in rows}

    def results(self, delivery: Delivery) -> list[Result]:
        """The run's results that a delivery is about, in their order."""
        with self.read() as c:
            rows = c.execute(prepared.RESULTS, {"run": delivery.run_id}).mappings()
            results = [Result(**row) for row in rows]
        takes = delivery.selection.takes
        return [result for result in results if takes(result.command, result.sop_class_uid)]

    def _commit(
        self, delivery: Delivery, values: Mapping[str, Any], event: tuple[str, str] | None
    ) -> bool:
        with self.write() as c:
            done = c.execute(
                update(t.delivery).where(*_mine(delivery.id, delivery.owner)).values(**values)
            )
            if done.rowcount and event:
                self.add_event(
                    c,
                    study_uid=delivery.study_uid,
                    run_id=delivery.run_id,
                    destination=delivery.destination,
                    kind=event[0],
                    message=event[1],
                )
        return done.rowcount == 1


def to_delivery(row: RowMapping) -> Delivery:
    """A row of DELIVERY_COLUMNS as a record."""
    values = dict(row)
    values["state"] = DeliveryState(values["state"])
    values["kind"] = DestinationKind(values["kind"])
    values["selection"] = Selection.from_json(values["selection"])
    return Delivery(**values)


def _held(run_id: str, owner: str) -> Select[tuple[str]]:
    # Locked, so that nobody takes the lease over between this look and the commit.
    return select(t.run.c.id).where(t.run.c.id == run_id, t.run.c.owner == owner).with_for_update()


def _mine(delivery_id: str, owner: str | None) -> Sequence[ColumnElement[bool]]:
    return (
        t.delivery.c.id == delivery_id,
        t.delivery.c.owner == owner,
        t.delivery.c.state.in_(OPEN_DELIVERY),
    )

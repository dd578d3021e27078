"""What an operator does to a run or a delivery, each in one transaction and with its event.

Work that a worker holds is either refused (`Conflict`), or taken out of its hands: who lost the
lease can commit nothing more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update

from pacsor_tasks.errors import Conflict, NotFound
from pacsor_tasks.ledger import gate
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import OPEN_DELIVERY, WAITING_FOR, WATCH_S
from pacsor_tasks.ledger.store import Store
from pacsor_tasks.models import (
    DeliveryState,
    DestinationKind,
    PeerKind,
    PeerName,
    PeerState,
    RunState,
    Step,
)

#: What a retry starts again with.
_AFRESH: dict[str, Any] = {
    "owner": None,
    "lease_until": 0,
    "enqueued_at": 0,
    "attempts": 0,
    "losses": 0,
    "held": False,
    "finished_at": None,
    "error": None,
}
#: A delivery whose results are not there yet.
_NOT_YET: dict[str, Any] = {
    **_AFRESH,
    "state": DeliveryState.PENDING,
    "due_at": None,
    "active_since": None,
    "waiting_for": "the results",
}


class Subject(NamedTuple):
    """What was acted upon."""

    study_uid: str
    run_id: str


class Verbs(Store):
    """Retry, skip and re-route deliveries; retry runs. Cancelling is `Runs.cancel`."""

    def retry_delivery(self, delivery_id: str, by: str) -> Subject:
        """Make a delivery that waits or is quarantined due now.

        Raises:
            NotFound: There is no such delivery.
            Conflict: A worker is at it, it is over, its results are not there, or its destination
                is paused.
        """
        with self.write() as c:
            run, delivery = self._delivery(c, delivery_id)
            self._require_not_paused(c, PeerName(PeerKind.DESTINATION, delivery["destination"]))
            self._retry_delivery(c, run, delivery)
            self._tell(c, run, "operator.retried", "retried now", (by, delivery["destination"]))
        return Subject(run["study_uid"], run["id"])

    def retry_run(self, run_id: str, by: str) -> Subject:
        """Make a run due now: the step it waits at or failed at, or its deliveries.

        Raises:
            NotFound: There is no such run, or its received instances are no longer held.
            Conflict: A worker is at it, it is over otherwise than by failing, it was relaunched
                since, or the core is paused.
        """
        with self.write() as c:
            run = self._run(c, run_id)
            step, state = Step(run["step"]), RunState(run["state"])
            if state.is_terminal and state is not RunState.FAILED:
                raise Conflict(f"the run is {state}: relaunch the study to send it again")
            if step is Step.DELIVER:
                self._retry_deliveries(c, run)
            else:
                if step in gate.ASKING:
                    self._require_not_paused(c, PeerName(PeerKind.CORE, run["core"]))
                self._retry_step(c, run, step)
            self._tell(c, run, "operator.retried", f"retried now at {step}", (by, None))
        return Subject(run["study_uid"], run_id)

    def skip_delivery(self, delivery_id: str, by: str, reason: str) -> Subject:
        """End a delivery without delivering; whoever holds it can no longer commit.

        Raises:
            NotFound: There is no such delivery.
            Conflict: It is over.
        """
        with self.write() as c:
            run, delivery = self._delivery(c, delivery_id)
            self._end(c, run, delivery, f"skipped by {by}: {reason}")
            self._tell(
                c, run, "delivery.skipped", f"skipped: {reason}", (by, delivery["destination"])
            )
        return Subject(run["study_uid"], run["id"])

    def reroute_delivery(
        self, delivery_id: str, to: tuple[str, DestinationKind], by: str
    ) -> Subject:
        """Send a delivery's results to another destination instead.

        What was skipped there before is taken up again: it gets what it does not have.

        Raises:
            NotFound: There is no such delivery.
            Conflict: It is over, its run was relaunched since or is over, the other one speaks
                another language, or gets the run's results already.
        """
        name, kind = to
        with self.write() as c:
            run, delivery = self._delivery(c, delivery_id)
            if not kind.can_replace(DestinationKind(delivery["kind"])):
                raise Conflict(f"{delivery['destination']} is {delivery['kind']}, {name} is {kind}")
            present = self._lock(c, t.delivery, f"{run['id']}:{name}")
            if present is not None and present["state"] != DeliveryState.SKIPPED:
                raise Conflict(f"{name} has this run's results or will: {present['state']}")
            if delivery["state"] == DeliveryState.QUARANTINED:
                self._require_current(c, run, delivery["destination"])
            self._end(c, run, delivery, f"re-routed to {name} by {by}")
            # The same results, whatever the other one gets by itself.
            fresh = {**_NOT_YET, "selection": delivery["selection"]}
            if delivery["active_since"] is not None:
                fresh |= self._due_now() | {"total": delivery["total"]}
            if present is None:
                fresh |= {
                    "id": f"{run['id']}:{name}",
                    "run_id": run["id"],
                    "destination": name,
                    "study_uid": run["study_uid"],
                    "kind": kind,
                    "sent": 0,
                    "total": fresh.get("total", 0),
                    "control_id": None,
                }
                c.execute(insert(t.delivery).values(fresh))
            else:
                c.execute(update(t.delivery).where(t.delivery.c.id == present["id"]).values(fresh))
            self._tell(
                c, run, "operator.rerouted", f"re-routed to {name}", (by, delivery["destination"])
            )
        return Subject(run["study_uid"], run["id"])

    # --- parts

    def _retry_delivery(self, c: Connection, run: RowMapping, delivery: RowMapping) -> None:
        name, state = delivery["destination"], DeliveryState(delivery["state"])
        if state is DeliveryState.QUARANTINED:
            self._require_current(c, run, name)
            c.execute(
                update(t.delivery)
                .where(t.delivery.c.id == delivery["id"])
                .values({**_AFRESH, "state": DeliveryState.PENDING, **self._due_now()})
            )
            self._reopen(c, run)
            return
        if state.is_terminal:
            raise Conflict(f"the delivery to {name} is {state}: nothing is to be retried")
        if delivery["due_at"] is None:
            raise Conflict(f"the results for {name} are not there yet: retry the run")
        self._require_free(delivery)
        c.execute(
            update(t.delivery)
            .where(t.delivery.c.id == delivery["id"])
            .values(
                due_at=self.clock(), enqueued_at=0, held=False, waiting_for="a worker to deliver"
            )
        )

    def _retry_deliveries(self, c: Connection, run: RowMapping) -> None:
        failed = run["state"] == RunState.FAILED
        wanted = (DeliveryState.QUARANTINED,) if failed else OPEN_DELIVERY
        query = (
            select(t.delivery)
            .where(t.delivery.c.run_id == run["id"], t.delivery.c.state.in_(wanted))
            .with_for_update()
        )
        now, retried, paused = self.clock(), 0, ""
        for delivery in c.execute(query).mappings().all():
            peer = PeerName(PeerKind.DESTINATION, delivery["destination"])
            if self._is_paused(c, peer):
                paused = str(peer)
            elif delivery["lease_until"] <= now:
                self._retry_delivery(c, run, delivery)
                retried += 1
        if not retried:
            raise Conflict(
                f"{paused} is paused: resume it"
                if paused
                else "nothing waits: a worker is at each delivery"
            )

    def _retry_step(self, c: Connection, run: RowMapping, step: Step) -> None:
        now = self.clock()
        if run["state"] != RunState.FAILED:
            self._require_free(run)
            c.execute(
                update(t.run)
                .where(t.run.c.id == run["id"])
                .values(due_at=now, enqueued_at=0, held=False, waiting_for=WAITING_FOR[step])
            )
            return
        self._require_latest(c, run)
        self._require_held(c, run)
        if step is Step.DOWNLOAD:
            # Else what failed would count as settled, and the run fail again without a try.
            c.execute(
                delete(t.command).where(
                    t.command.c.run_id == run["id"], t.command.c.outcome == "failed"
                )
            )
        c.execute(
            update(t.delivery)
            .where(
                t.delivery.c.run_id == run["id"],
                t.delivery.c.state == DeliveryState.SKIPPED,
                t.delivery.c.error == run["error"],  # by the run's end, not by an operator
            )
            .values(_NOT_YET)
        )
        c.execute(
            update(t.run)
            .where(t.run.c.id == run["id"])
            .values(
                {
                    **_AFRESH,
                    "state": step.state,
                    "due_at": now,
                    "step_since": now,
                    "waiting_for": WAITING_FOR[step],
                }
            )
        )

    def _end(self, c: Connection, run: RowMapping, delivery: RowMapping, reason: str) -> None:
        state = DeliveryState(delivery["state"])
        if state.is_terminal and state is not DeliveryState.QUARANTINED:
            raise Conflict(f"the delivery to {delivery['destination']} is {state} already")
        c.execute(
            update(t.delivery)
            .where(t.delivery.c.id == delivery["id"])
            .values(
                state=DeliveryState.SKIPPED,
                owner=None,
                lease_until=0,
                due_at=None,
                enqueued_at=0,
                waiting_for=None,
                finished_at=self.clock(),
                error=reason,
            )
        )
        self._reopen(c, run)
        # The sweep looks whether that was the last one, and moves the run on.
        c.execute(
            update(t.run)
            .where(
                t.run.c.id == run["id"], t.run.c.step == Step.DELIVER, t.run.c.due_at.is_not(None)
            )
            .values(due_at=self.clock(), enqueued_at=0)
        )

    def _reopen(self, c: Connection, run: RowMapping) -> None:
        """Let a run that failed by a quarantined delivery wait for its deliveries again."""
        if run["state"] != RunState.FAILED or run["step"] != Step.DELIVER:
            return
        now = self.clock()
        c.execute(
            update(t.run)
            .where(t.run.c.id == run["id"])
            .values(
                {
                    **_AFRESH,
                    "state": Step.DELIVER.state,
                    "due_at": now + WATCH_S,
                    "enqueued_at": now,
                    "step_since": now,
                    "waiting_for": WAITING_FOR[Step.DELIVER],
                }
            )
        )

    def _due_now(self) -> dict[str, Any]:
        now = self.clock()
        return {"due_at": now, "active_since": now, "waiting_for": "a worker to deliver"}

    def _require_free(self, work: RowMapping) -> None:
        if work["lease_until"] > self.clock():
            raise Conflict("a worker is at it just now")

    def _require_current(self, c: Connection, run: RowMapping, destination: str) -> None:
        """What is over for good holds on to no results, so nothing of it is to become due."""
        self._require_latest(c, run, destination)
        if RunState(run["state"]).is_terminal and run["state"] != RunState.FAILED:
            raise Conflict(f"the run is {run['state']}: relaunch the study to send it again")

    def _require_latest(self, c: Connection, run: RowMapping, destination: str = "") -> None:
        """No later relaunch stands in for the run, or for its delivery to this destination."""
        newer = (
            select(t.run.c.id)
            .where(
                t.run.c.study_uid == run["study_uid"],
                t.run.c.core == run["core"],
                t.run.c.created_at >= run["created_at"],
                t.run.c.id != run["id"],
                t.run.c.force.is_(True),
                or_(
                    t.run.c.only_destination.is_(None),
                    t.run.c.only_destination == destination,
                ),
            )
            .limit(1)
        )
        if c.execute(newer).first() is not None:
            raise Conflict(f"the study was relaunched on {run['core']} since: look at the new run")

    def _require_held(self, c: Connection, run: RowMapping) -> None:
        gone = (
            select(t.revision.c.id)
            .join(t.instance, t.instance.c.revision_id == t.revision.c.id)
            .join(t.run_instance, t.run_instance.c.instance_id == t.instance.c.id)
            .where(t.run_instance.c.run_id == run["id"], t.revision.c.removed_at.is_not(None))
            .limit(1)
        )
        if c.execute(gone).first() is not None:
            raise NotFound(f"study {run['study_uid']}: its instances are no longer held")

    def _require_not_paused(self, c: Connection, peer: PeerName) -> None:
        if self._is_paused(c, peer):
            raise Conflict(f"{peer} is paused: resume it")

    def _is_paused(self, c: Connection, peer: PeerName) -> bool:
        query = select(*gate.PEER_COLUMNS).where(
            t.peer.c.kind == peer.kind, t.peer.c.name == peer.name
        )
        row = c.execute(query).mappings().first()
        return row is not None and gate.to_peer(row).state is PeerState.PAUSED

    def _delivery(self, c: Connection, delivery_id: str) -> tuple[RowMapping, RowMapping]:
        # The run's row first, as everybody who locks both does.
        run = self._lock(c, t.run, delivery_id.partition(":")[0])
        delivery = self._lock(c, t.delivery, delivery_id)
        if run is None or delivery is None:
            raise NotFound(f"no delivery {delivery_id}")
        return run, delivery

    def _run(self, c: Connection, run_id: str) -> RowMapping:
        run = self._lock(c, t.run, run_id)
        if run is None:
            raise NotFound(f"no run {run_id}")
        return run

    def _lock(self, c: Connection, table: Any, key: str) -> RowMapping | None:
        return (
            c.execute(select(table).where(table.c.id == key).with_for_update()).mappings().first()
        )

    def _tell(
        self, c: Connection, run: RowMapping, kind: str, message: str, by: tuple[str, str | None]
    ) -> None:
        name, destination = by
        self.add_event(
            c,
            study_uid=run["study_uid"],
            run_id=run["id"],
            destination=destination,
            kind=kind,
            message=message,
            by=name,
        )

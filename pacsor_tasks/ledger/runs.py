"""Runs: leases by compare-and-set, steps, due times. The ledger decides; messages are hints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, RowMapping, exists, or_, select, update

from pacsor_tasks.ledger import gate
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger import statements as prepared
from pacsor_tasks.ledger.statements import OPEN_DELIVERY as OPEN_DELIVERY
from pacsor_tasks.ledger.statements import TERMINAL as TERMINAL
from pacsor_tasks.ledger.store import Store, insert_missing, is_news
from pacsor_tasks.models import (
    DeliveryState,
    Instance,
    InstanceOutcome,
    PeerKind,
    Run,
    RunState,
    Step,
)

#: How often a run that waits for its deliveries is looked at, seconds.
WATCH_S = 30.0

WAITING_FOR = {
    Step.FILTER: "a worker to apply the filters",
    Step.UPLOAD: "a worker to upload the instances",
    Step.POLL: "a worker to ask for the prediction",
    Step.DOWNLOAD: "a worker to download the results",
    Step.FAN_OUT: "a worker to hand the results to the destinations",
    Step.DELIVER: "its deliveries",
    Step.CLEANUP: "a worker to clean up",
}


class Due(NamedTuple):
    """A run whose next step has to be launched."""

    run_id: str
    core: str
    step: Step
    enqueued_at: float


class Decided(NamedTuple):
    """What becomes of one instance of a run."""

    instance_id: int
    outcome: InstanceOutcome
    reason: str | None
    #: the rule that filtered it, by its place in DICOM_FILTERS from 1
    rule: int | None = None
    #: what the rule looked at, as (GGGG,EEEE)
    tag: str | None = None


class Runs(Store):
    """Everything the pipeline asks and writes about runs."""

    def get(self, run_id: str) -> Run | None:
        """The run, or None."""
        with self.read() as c:
            row = c.execute(prepared.RUN, {"run": run_id}).mappings().first()
        return None if row is None else to_run(row)

    def claim(
        self,
        run_id: str,
        step: Step,
        owner: str,
        lease_s: float,
        bounds: gate.Bounds = gate.UNBOUNDED,
    ) -> Run | None:
        """Take the lease of a run's present step.

        Returns:
            The run as claimed, or None when it is not at this step, not due, held by another, or
            its core takes nothing now.
        """
        now = self.clock()
        with self.write(lasting=False) as c:
            if step in gate.ASKING and not gate.admit(c, PeerKind.CORE, run_id, now, bounds):
                return None
            parameters = {
                "run": run_id, "at": step, "as_state": step.state, "now": now, "holder": owner,
                "until": now + lease_s,
            }  # fmt: skip
            row = c.execute(prepared.CLAIM_RUN, parameters).mappings().first()
        return None if row is None else to_run(row)

    def renew(self, run_id: str, owner: str, lease_s: float) -> bool:
        """Prolong a lease; False when it was lost (cancelled, or taken after it ran out)."""
        with self.write(lasting=False) as c:
            until = self.clock() + lease_s
            done = c.execute(prepared.RENEW_RUN, {"run": run_id, "holder": owner, "until": until})
        return done.rowcount == 1

    def advance(self, run: Run, to: Step, event: tuple[str, str] | None = None) -> bool:
        """Commit a finished step, fenced by its owner.

        Args:
            run: As returned by `claim`.
            to: The step that follows; `end` makes the run done.
            event: (kind, message) for the timeline.

        Returns:
            False when the lease was lost: nothing was written.
        """
        parameters = prepared.move(to, self.clock())
        parameters |= {"run": run.id, "holder": run.owner, "why": WAITING_FOR.get(to)}
        with self.write(lasting=False) as c:
            done = c.execute(prepared.ADVANCE_RUN, parameters)
            if done.rowcount and event:
                self.add_event(
                    c, study_uid=run.study_uid, run_id=run.id, kind=event[0], message=event[1]
                )
        return done.rowcount == 1

    def park(self, run: Run, due_at: float, waiting_for: str, error: str | None = None) -> bool:
        """Give the lease back and say when and for what the run waits. False: lease was lost.

        Without an error the run is well: its failed tries in a row are forgotten.
        """
        values: dict[str, object] = {
            "owner": None, "lease_until": 0, "due_at": due_at, "enqueued_at": 0, "losses": 0,
            "waiting_for": waiting_for, "error": error,
        }  # fmt: skip
        if error is None:
            values["attempts"] = 0
        with self.write() as c:
            done = c.execute(update(t.run).where(*_mine(run.id, run.owner)).values(**values))
            if done.rowcount and error is not None and is_news(run, error):
                self.add_event(
                    c, study_uid=run.study_uid, run_id=run.id, kind=f"{run.step}.retry",
                    message=waiting_for,
                )  # fmt: skip
        return done.rowcount == 1

    def finish(self, run: Run, state: RunState, reason: str) -> bool:
        """End a run before its deliveries; what it would have delivered is skipped."""
        now = self.clock()
        with self.write() as c:
            done = c.execute(
                update(t.run).where(*_mine(run.id, run.owner)).values(**_ended(state, reason, now))
            )
            if done.rowcount:
                c.execute(skip_deliveries(run.id, reason, now))
                self.add_event(
                    c, study_uid=run.study_uid, run_id=run.id, kind=f"run.{state}", message=reason
                )
        return done.rowcount == 1

    def cancel(self, run_id: str, reason: str, by: str | None = None) -> bool:
        """End an unfinished run from outside; whoever holds its lease can no longer commit."""
        now = self.clock()
        with self.write() as c:
            row = c.execute(
                update(t.run)
                .where(t.run.c.id == run_id, t.run.c.state.not_in(TERMINAL))
                .values(**_ended(RunState.CANCELLED, reason, now))
                .returning(t.run.c.study_uid)
            ).first()
            if row is None:
                return False
            c.execute(skip_deliveries(run_id, reason, now))
            self.add_event(
                c, study_uid=row.study_uid, run_id=run_id, kind="run.cancelled", message=reason,
                by=by,
            )  # fmt: skip
        return True

    def settle(self, run_id: str) -> bool:
        """Move a run whose deliveries are all over: to cleanup, or to failed if one is quarantined.

        Returns:
            True when this call moved it to cleanup, for the one caller that finds itself last.
        """
        now = self.clock()
        at_deliver = (
            t.run.c.id == run_id, t.run.c.step == Step.DELIVER, t.run.c.state.not_in(TERMINAL),
        )  # fmt: skip
        with self.write(lasting=False) as c:
            if c.dialect.name == "postgresql":
                # Else an operator's retry could reopen one between the look and the move.
                c.execute(prepared.LOCK_RUN, {"run": run_id})
            # One look at all of them: a second one could see what ended in between.
            found = c.execute(prepared.STATES_OF_DELIVERIES, {"run": run_id}).all()
            if any(delivery.state in OPEN_DELIVERY for delivery in found):
                return False
            names = sorted(d.destination for d in found if d.state == DeliveryState.QUARANTINED)
            if names:
                reason = f"quarantined: {', '.join(names)}; the results are kept"
                values = _ended(RunState.FAILED, reason, now)
            else:
                values = {
                    "step": Step.CLEANUP, "attempts": 0, "step_since": now, "due_at": now,
                    "enqueued_at": now, "waiting_for": WAITING_FOR[Step.CLEANUP],
                }  # fmt: skip
            row = c.execute(
                update(t.run).where(*at_deliver).values(**values).returning(t.run.c.study_uid)
            ).first()
            if row is not None and names:
                self.add_event(
                    c, study_uid=row.study_uid, run_id=run_id, kind="run.failed", message=reason
                )
        return row is not None and not names

    def watch(self) -> None:
        """Put off the next look at all runs that rightly wait for their deliveries.

        What stays due at this step has none open: whoever ended the last one died before `settle`.
        """
        now = self.clock()
        is_open = exists().where(
            t.delivery.c.run_id == t.run.c.id, t.delivery.c.state.in_(OPEN_DELIVERY)
        )
        with self.write(lasting=False) as c:
            c.execute(
                update(t.run)
                .where(t.run.c.due_at <= now, t.run.c.step == Step.DELIVER, is_open)
                .values(due_at=now + WATCH_S)
            )

    def cores(self) -> list[str]:
        """Every core of which something is due, configured still or not.

        Of what is due, not of all there ever were: each report received has a core of its own.
        """
        now = self.clock()
        # An expression, or SQLite walks the index of all cores to have them in order.
        name = t.run.c.core.concat("")
        query = select(name).where(t.run.c.due_at <= now, t.run.c.lease_until < now).distinct()
        with self.read() as c:
            return sorted(c.execute(query).scalars())

    def due(
        self,
        *,
        stale_s: float,
        limit: int,
        core: str | None = None,
        is_asking: bool | None = None,
    ) -> list[Due]:
        """Unfinished runs past their due time whose message is not under way.

        Args:
            stale_s: A message published longer ago counts as lost; `inf`: none does.
            limit: At most so many, the longest due first.
            core: Only its runs.
            is_asking: Only those whose step talks to the core, what is nearest its end before new
                uploads; or only the others.
        """
        now = self.clock()
        query = (
            select(t.run.c.id, t.run.c.core, t.run.c.step, t.run.c.enqueued_at)
            .where(
                t.run.c.due_at <= now,
                t.run.c.lease_until < now,
                or_(t.run.c.enqueued_at == 0, t.run.c.enqueued_at < now - stale_s),
            )
            .limit(limit)
        )
        if core is not None:
            query = query.where(t.run.c.core == core)
        if is_asking is not None:
            of_kind = t.run.c.step.in_(gate.ASKING)
            query = query.where(of_kind if is_asking else ~of_kind)
        query = query.order_by(
            *((t.run.c.step == Step.UPLOAD,) if is_asking else ()), t.run.c.due_at
        )
        with self.read() as c:
            return [Due(r.id, r.core, Step(r.step), r.enqueued_at) for r in c.execute(query)]

    def mark_enqueued(self, due: Due) -> bool:
        """Say that a message is being published; False when another sweep was first."""
        with self.write(lasting=False) as c:
            done = c.execute(
                update(t.run)
                .where(
                    t.run.c.id == due.run_id,
                    t.run.c.step == due.step,
                    t.run.c.enqueued_at == due.enqueued_at,
                )
                .values(enqueued_at=self.clock())
            )
        return done.rowcount == 1

    # --- the instances of a run

    def instances(self, run_id: str, outcomes: Sequence[InstanceOutcome]) -> list[Instance]:
        """The run's instances with one of these outcomes, in the order received."""
        parameters = {"run": run_id, "outcomes": list(outcomes)}
        with self.read() as c:
            rows = c.execute(prepared.INSTANCES, parameters).mappings()
            return [Instance(**row) for row in rows]

    def set_outcomes(
        self, run_id: str, decided: Sequence[Decided | tuple[int, InstanceOutcome, str | None]]
    ) -> None:
        """Record what becomes of many instances in one transaction.

        Args:
            run_id: Of the run.
            decided: By instance; a plain tuple has the first values.
        """
        if not decided:
            return
        rows = [
            {"run": run_id, "of": d.instance_id, "to": d.outcome, "why": d.reason,
             "by_rule": d.rule, "at_tag": d.tag}
            for d in (Decided(*given) for given in decided)
        ]  # fmt: skip
        with self.write(lasting=False) as c:
            c.execute(prepared.SET_OUTCOME, rows)

    def record_uploaded(self, run: Run, instances: Sequence[Instance]) -> None:
        """Instances that the core has now: never uploaded to it again unless relaunched."""
        with self.write() as c:
            for instance in instances:
                key = {"core": run.core, "sop_instance_uid": instance.sop_instance_uid}
                values = {"run_id": run.id, "uploaded_at": self.clock()}
                if not c.execute(insert_missing(c, t.upload).values(**key, **values)).rowcount:
                    c.execute(
                        update(t.upload)
                        .where(*(t.upload.c[k] == v for k, v in key.items()))
                        .values(**values)
                    )
                c.execute(
                    update(t.run_instance)
                    .where(
                        t.run_instance.c.run_id == run.id,
                        t.run_instance.c.instance_id == instance.id,
                    )
                    .values(outcome=InstanceOutcome.UPLOADED, reason=None)
                )

    def already_uploaded(self, core: str, sop_instance_uids: Sequence[str]) -> set[str]:
        """Which of these the core has from an earlier run."""
        found: set[str] = set()
        with self.read() as c:
            for start in range(0, len(sop_instance_uids), 500):
                part = sop_instance_uids[start : start + 500]
                query = select(t.upload.c.sop_instance_uid).where(
                    t.upload.c.core == core, t.upload.c.sop_instance_uid.in_(part)
                )
                found.update(c.execute(query).scalars())
        return found

    def has_earlier(self, run: Run, states: Sequence[RunState]) -> bool:
        """Whether another run of the same study and core is in one of these states."""
        query = select(t.run.c.id).where(
            t.run.c.study_uid == run.study_uid,
            t.run.c.core == run.core,
            t.run.c.id != run.id,
            t.run.c.created_at <= run.created_at,
            t.run.c.state.in_(states),
        )
        with self.read() as c:
            return c.execute(query.limit(1)).first() is not None


def to_run(row: RowMapping) -> Run:
    """A row of RUN_COLUMNS as a record."""
    values = dict(row)
    values["state"] = RunState(values["state"])
    values["step"] = Step(values["step"])
    return Run(**values)


def _mine(run_id: str, owner: str | None) -> tuple[ColumnElement[bool], ...]:
    return (t.run.c.id == run_id, t.run.c.owner == owner, t.run.c.state.not_in(TERMINAL))


def _ended(state: RunState, reason: str, now: float) -> dict[str, object]:
    return {
        "state": state, "owner": None, "lease_until": 0, "due_at": None, "enqueued_at": 0,
        "waiting_for": None, "finished_at": now, "error": reason,
    }  # fmt: skip


def skip_deliveries(run_id: str, reason: str, now: float):  # type: ignore[no-untyped-def] # SQLAlchemy's Update is generic over nothing useful
    return (
        update(t.delivery)
        .where(t.delivery.c.run_id == run_id, t.delivery.c.state.in_(OPEN_DELIVERY))
        .values(
            state=DeliveryState.SKIPPED, owner=None, lease_until=0, due_at=None,
            waiting_for=None, finished_at=now, error=reason,
        )
    )  # fmt: skip

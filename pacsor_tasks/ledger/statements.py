"""The statements that every study takes many times, built once: to build one takes longer than it.

Parameters are named after what they mean; a name of a column would be taken for its new value.
"""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import ColumnElement, Double, Table, bindparam, case, func, insert, select, update

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.models import Delivery, DeliveryState, Instance, Result, Run, RunState, Step

TERMINAL = tuple(s for s in RunState if s.is_terminal)
OPEN_DELIVERY = (DeliveryState.PENDING, DeliveryState.RETRYING)
#: Work that starts later than this was not tried meanwhile: the gateway was off, or swamped.
IDLE_S = 300.0
#: Work counts as due so much early, seconds: the next step may be taken up by a host whose clock
#: is a little behind that of the one that made it due.
SKEW_S = 0.5

RUN_COLUMNS = tuple(t.run.c[f.name] for f in fields(Run))
DELIVERY_COLUMNS = tuple(t.delivery.c[f.name] for f in fields(Delivery))
INSTANCE_COLUMNS = tuple(t.instance.c[f.name] for f in fields(Instance))
RESULT_COLUMNS = tuple(t.result.c[f.name] for f in fields(Result))

_NOW = bindparam("now", type_=Double)


def losses_of(table: Table) -> ColumnElement[int]:
    """One more when the former holder never gave its lease back: its process died."""
    return case((table.c.owner.is_not(None), table.c.losses + 1), else_=table.c.losses)


def without_idle_time(since: ColumnElement[float], table: Table) -> ColumnElement[float]:
    """The horizon counts the time in which it was tried, not that in which the gateway was off."""
    return case((table.c.due_at < _NOW - IDLE_S, since + (_NOW - table.c.due_at)), else_=since)


# --- runs

RUN = select(*RUN_COLUMNS).where(t.run.c.id == bindparam("run"))

#: Parameters: run, at (the step), as_state, now, holder, until.
CLAIM_RUN = (
    update(t.run)
    .where(
        t.run.c.id == bindparam("run"),
        t.run.c.step == bindparam("at"),
        t.run.c.state.not_in(TERMINAL),
        t.run.c.lease_until < _NOW,
        t.run.c.due_at <= _NOW + SKEW_S,
    )
    .values(
        owner=bindparam("holder"),
        lease_until=bindparam("until"),
        attempts=t.run.c.attempts + 1,
        losses=losses_of(t.run),
        step_since=without_idle_time(t.run.c.step_since, t.run),
        state=bindparam("as_state"),
        waiting_for=None,
        held=False,
    )
    .returning(*RUN_COLUMNS)
)

_HELD_RUN = (
    t.run.c.id == bindparam("run"),
    t.run.c.owner == bindparam("holder"),
    t.run.c.state.not_in(TERMINAL),
)
RENEW_RUN = update(t.run).where(*_HELD_RUN).values(lease_until=bindparam("until"))

#: Parameters: run, holder, to (the step), as_state, now, due, why, ended.
ADVANCE_RUN = (
    update(t.run)
    .where(*_HELD_RUN)
    .values(
        step=bindparam("to"),
        state=bindparam("as_state"),
        owner=None,
        lease_until=0,
        attempts=0,
        losses=0,
        step_since=_NOW,
        due_at=bindparam("due"),
        enqueued_at=_NOW,
        waiting_for=bindparam("why"),
        finished_at=bindparam("ended"),
        error=None,
    )
)

#: Parameters: run, outcomes.
INSTANCES = (
    select(*INSTANCE_COLUMNS)
    .join(t.run_instance, t.run_instance.c.instance_id == t.instance.c.id)
    .where(
        t.run_instance.c.run_id == bindparam("run"),
        t.run_instance.c.outcome.in_(bindparam("outcomes", expanding=True)),
    )
    .order_by(t.instance.c.id)
)
#: Parameters: of (the instance), to, why, by_rule, at_tag.
SET_OUTCOME = (
    update(t.run_instance)
    .where(
        t.run_instance.c.run_id == bindparam("run"),
        t.run_instance.c.instance_id == bindparam("of"),
    )
    .values(
        outcome=bindparam("to"),
        reason=bindparam("why"),
        rule=bindparam("by_rule"),
        tag=bindparam("at_tag"),
    )
)

#: Until the transaction ends; run rows before those of deliveries, as everybody who locks both.
LOCK_RUN = select(t.run.c.id).where(t.run.c.id == bindparam("run")).with_for_update(key_share=True)

# --- deliveries

DELIVERY = select(*DELIVERY_COLUMNS).where(t.delivery.c.id == bindparam("delivery"))

DELIVERIES_OF_RUN = (
    select(*DELIVERY_COLUMNS)
    .where(t.delivery.c.run_id == bindparam("run"))
    .order_by(t.delivery.c.destination)
)
STATES_OF_DELIVERIES = select(t.delivery.c.destination, t.delivery.c.state).where(
    t.delivery.c.run_id == bindparam("run")
)

#: Parameters: delivery, now, holder, until.
CLAIM_DELIVERY = (
    update(t.delivery)
    .where(
        t.delivery.c.id == bindparam("delivery"),
        t.delivery.c.state.in_(OPEN_DELIVERY),
        t.delivery.c.lease_until < _NOW,
        t.delivery.c.due_at <= _NOW + SKEW_S,
    )
    .values(
        owner=bindparam("holder"),
        lease_until=bindparam("until"),
        attempts=t.delivery.c.attempts + 1,
        losses=losses_of(t.delivery),
        active_since=without_idle_time(t.delivery.c.active_since, t.delivery),
        waiting_for=None,
        held=False,
    )
    .returning(*DELIVERY_COLUMNS)
)

COUNT_RESULTS = (
    select(func.count()).select_from(t.result).where(t.result.c.run_id == bindparam("run"))
)
COUNT_SENT = (
    update(t.delivery)
    .where(t.delivery.c.id == bindparam("delivery"))
    .values(
        sent=select(func.count())
        .select_from(t.delivery_instance)
        .where(
            t.delivery_instance.c.delivery_id == bindparam("delivery"),
            t.delivery_instance.c.delivered.is_(True),
        )
        .scalar_subquery()
    )
    .returning(t.delivery.c.owner)
)
COUNT_BY_CLASS = (
    select(t.result.c.command, t.result.c.sop_class_uid, func.count().label("n"))
    .where(t.result.c.run_id == bindparam("run"))
    .group_by(t.result.c.command, t.result.c.sop_class_uid)
)
RESULTS = (
    select(*RESULT_COLUMNS).where(t.result.c.run_id == bindparam("run")).order_by(t.result.c.id)
)
#: The run's results that a destination does not have yet. Parameters: run, delivery.
UNSENT = (
    select(*RESULT_COLUMNS)
    .where(
        t.result.c.run_id == bindparam("run"),
        t.result.c.id.not_in(
            select(t.delivery_instance.c.result_id).where(
                t.delivery_instance.c.delivery_id == bindparam("delivery"),
                t.delivery_instance.c.delivered.is_(True),
            )
        ),
    )
    # What was tried in vain last: what a server chokes on must not keep it from the others.
    .order_by(
        t.result.c.id.in_(
            select(t.delivery_instance.c.result_id).where(
                t.delivery_instance.c.delivery_id == bindparam("delivery")
            )
        ),
        t.result.c.id,
    )
)

# --- the timeline

ADD_EVENT = insert(t.event)
TOUCH_STUDY = (
    update(t.study).where(t.study.c.study_uid == bindparam("study")).values(updated_at=_NOW)
)

# --- what is there

COMMANDS = (
    select(t.command.c.name, t.command.c.outcome, t.command.c.reason)
    .where(t.command.c.run_id == bindparam("run"))
    .order_by(t.command.c.name)
)


def move(to: Step, now: float) -> dict[str, object]:
    """The parameters of ADVANCE_RUN that depend on the step alone."""
    is_end = to is Step.END
    return {
        "to": to, "as_state": to.state, "now": now, "due": None if is_end else now,
        "ended": now if is_end else None,
    }  # fmt: skip

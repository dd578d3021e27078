"""What operators and clients read: studies, their runs, deliveries and timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.store import Store
from pacsor_tasks.models import DeliveryState, InstanceOutcome, RunState

MAX_EVENTS = 500
#: Different reasons why instances of one run were left out that are told.
MAX_REASONS = 50
LEFT_OUT = (InstanceOutcome.FILTERED, InstanceOutcome.UNREADABLE, InstanceOutcome.DUPLICATE)


class Studies(Store):
    """Read-only views; the shapes are the public JSON of architecture §8."""

    def exists(self, study_uid: str) -> bool:
        """Whether the study was ever received."""
        query = select(t.study.c.study_uid).where(t.study.c.study_uid == study_uid)
        with self.read() as c:
            return c.execute(query).first() is not None

    def page(
        self,
        *,
        state: str | None = None,
        q: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Studies, the latest touched first.

        Args:
            state: Only those whose latest run of some core is in this state.
            q: Only those whose StudyInstanceUID begins with this.
            limit: 1 to 500.
            cursor: `next_cursor` of the page before.

        Returns:
            {"studies": [{"study_instance_uid", "state", "created_at", "updated_at", "waiting_for",
            "due_at", "error", "runs": [...]}], "next_cursor": str | None}
        """
        query = select(t.study).order_by(t.study.c.updated_at.desc(), t.study.c.study_uid.desc())
        if q:
            query = query.where(t.study.c.study_uid.startswith(q, autoescape=True))
        if cursor:
            at, _, uid = cursor.partition("_")
            query = query.where(
                or_(
                    t.study.c.updated_at < float(at),
                    and_(t.study.c.updated_at == float(at), t.study.c.study_uid < uid),
                )
            )
        if state:
            query = query.where(
                select(t.run.c.id)
                .where(
                    t.run.c.study_uid == t.study.c.study_uid,
                    t.run.c.state == state,
                    is_latest_of_its_core(),
                )
                .exists()
            )
        with self.read() as c:
            rows = c.execute(query.limit(limit + 1)).all()
            shown = rows[:limit]
            runs = self._runs(c, [r.study_uid for r in shown])
        studies = [_summary(row._mapping, runs.get(row.study_uid, [])) for row in shown]
        last = shown[-1] if len(rows) > limit else None
        return {
            "studies": studies,
            "next_cursor": f"{last.updated_at!r}_{last.study_uid}" if last else None,
        }

    def detail(self, study_uid: str) -> dict[str, Any] | None:
        """One study whole; None when it was never received."""
        with self.read() as c:
            row = c.execute(select(t.study).where(t.study.c.study_uid == study_uid)).first()
            if row is None:
                return None
            runs = self._runs(c, [study_uid]).get(study_uid, [])
            revisions = c.execute(
                select(t.revision)
                .where(t.revision.c.study_uid == study_uid)
                .order_by(t.revision.c.number)
            ).mappings()
            events = c.execute(
                select(t.event)
                .where(t.event.c.study_uid == study_uid)
                .order_by(t.event.c.id.desc())
                .limit(MAX_EVENTS)
            ).mappings()
            return {
                **_summary(row._mapping, runs),
                "revisions": [_revision(r) for r in revisions],
                "runs": [self._with_outcomes(c, run) for run in runs],
                "events": [_event(e) for e in reversed(list(events))],
            }

    def last_event_id(self) -> int:
        """The newest event's id: it grows whenever anything happens. 0 in an empty ledger."""
        with self.read() as c:
            return int(c.execute(select(func.max(t.event.c.id))).scalar() or 0)

    def touched_since(self, event_id: int) -> list[str]:
        """Studies with an event after this id."""
        # No DISTINCT: SQLite would walk the whole index of studies for it.
        query = select(t.event.c.study_uid).where(t.event.c.id > event_id)
        with self.read() as c:
            return list(dict.fromkeys(c.execute(query).scalars()))

    def counts(self) -> dict[str, dict[str, int]]:
        """Runs by state and deliveries by state, for metrics."""
        with self.read() as c:
            runs = c.execute(select(t.run.c.state, func.count()).group_by(t.run.c.state)).all()
            deliveries = c.execute(
                select(t.delivery.c.destination, t.delivery.c.state, func.count()).group_by(
                    t.delivery.c.destination, t.delivery.c.state
                )
            ).all()
        return {
            "runs": {**dict.fromkeys(RunState, 0), **{r[0]: r[1] for r in runs}},
            "deliveries": {f"{d[0]}/{d[1]}": d[2] for d in deliveries},
        }

    def totals(self) -> dict[str, int]:
        """Studies by state, counted as `page(state=…)` finds them; `all` counts every study."""
        query = (
            select(t.run.c.state, func.count(t.run.c.study_uid.distinct()))
            .where(is_latest_of_its_core())
            .group_by(t.run.c.state)
        )
        with self.read() as c:
            states = {row[0]: row[1] for row in c.execute(query)}
            every = c.execute(select(func.count()).select_from(t.study)).scalar_one()
        return {"all": every, **dict.fromkeys(RunState, 0), **states}

    def oldest_unfinished_at(self) -> float | None:
        """When the oldest unfinished run was created; None when all are finished."""
        unfinished = [state for state in RunState if not state.is_terminal]
        query = select(func.min(t.run.c.created_at)).where(t.run.c.state.in_(unfinished))
        with self.read() as c:
            return c.execute(query).scalar()

    def _runs(self, c: Connection, study_uids: list[str]) -> dict[str, list[dict[str, Any]]]:
        if not study_uids:
            return {}
        rows = c.execute(
            select(t.run, t.revision.c.number.label("revision"))
            .join(t.revision, t.revision.c.id == t.run.c.revision_id)
            .where(t.run.c.study_uid.in_(study_uids))
            .order_by(t.run.c.created_at.desc(), t.run.c.core)
        ).mappings()
        found = list(rows)
        deliveries: dict[str, list[dict[str, Any]]] = {}
        for d in c.execute(
            select(t.delivery)
            .where(t.delivery.c.study_uid.in_(study_uids))
            .where(t.delivery.c.run_id.in_([r["id"] for r in found]))
            .order_by(t.delivery.c.destination)
        ).mappings():
            deliveries.setdefault(d["run_id"], []).append(_delivery(d))
        grouped: dict[str, list[dict[str, Any]]] = {}
        for r in found:
            grouped.setdefault(r["study_uid"], []).append(_run(r, deliveries.get(r["id"], [])))
        return grouped

    def _left_out(self, c: Connection, run_id: str) -> list[dict[str, Any]]:
        """Why instances of a run did not go to the AI, the most frequent reasons first."""
        of = t.run_instance.c
        why = (of.outcome, of.rule, of.tag, of.reason)
        query = (
            select(*why, func.count().label("instances"))
            .where(of.run_id == run_id, of.outcome.in_(LEFT_OUT))
            .group_by(*why)
            .order_by(func.count().desc(), of.rule, of.reason)
            .limit(MAX_REASONS)
        )
        return [dict(row) for row in c.execute(query).mappings()]

    def instances(
        self, run_id: str, *, outcome: str | None = None, limit: int = 50, after: int = 0
    ) -> dict[str, Any] | None:
        """What a run did with each of its instances; None when there is no such run.

        Args:
            run_id: Of the run.
            outcome: Only those of this outcome.
            limit: 1 to 500.
            after: `next_after` of the page before.

        Returns:
            {"run_id", "study_instance_uid", "core", "instances": [{"sop_instance_uid", "outcome",
            "rule", "tag", "reason"}], "next_after": int | None}
        """
        of = t.run_instance.c
        query = (
            select(of.instance_id, t.instance.c.sop_instance_uid, of.outcome, of.rule, of.tag,
                   of.reason)
            .join(t.instance, t.instance.c.id == of.instance_id)
            .where(of.run_id == run_id, of.instance_id > after)
            .order_by(of.instance_id)
            .limit(limit + 1)
        )  # fmt: skip
        if outcome is not None:
            query = query.where(of.outcome == outcome)
        with self.read() as c:
            run = c.execute(select(t.run).where(t.run.c.id == run_id)).mappings().first()
            if run is None:
                return None
            rows = [dict(row) for row in c.execute(query).mappings()]
        ids = [row.pop("instance_id") for row in rows]
        return {
            "run_id": run_id,
            "study_instance_uid": run["study_uid"],
            "core": run["core"],
            "instances": rows[:limit],
            "next_after": ids[limit - 1] if len(ids) > limit else None,
        }

    def _with_outcomes(self, c: Connection, run: dict[str, Any]) -> dict[str, Any]:
        outcomes = c.execute(
            select(t.run_instance.c.outcome, func.count())
            .where(t.run_instance.c.run_id == run["id"])
            .group_by(t.run_instance.c.outcome)
        ).all()
        commands = c.execute(
            select(t.command).where(t.command.c.run_id == run["id"]).order_by(t.command.c.name)
        ).mappings()
        return {
            **run,
            "instances": {row[0]: row[1] for row in outcomes},
            "left_out": self._left_out(c, run["id"]),
            "commands": [
                {"name": r["name"], "outcome": r["outcome"], "reason": r["reason"]}
                for r in commands
            ],
        }


def is_latest_of_its_core() -> ColumnElement[bool]:
    """Of the runs of a query, those that no later one stands in for.

    Runs of one revision differ by microseconds from core to core: the newest is per core.
    """
    later = t.run.alias()
    return ~(
        select(later.c.id)
        .where(
            later.c.study_uid == t.run.c.study_uid,
            later.c.core == t.run.c.core,
            later.c.created_at > t.run.c.created_at,
            or_(
                later.c.only_destination.is_(None),
                later.c.only_destination == t.run.c.only_destination,
            ),
        )
        .correlate(t.run)
        .exists()
    )


def latest_runs(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a study's runs, the newest first, those that no later one stands in for.

    That is the newest of each core, and what was relaunched since for one destination only.
    """
    found: list[Mapping[str, Any]] = []
    seen: set[tuple[str, str | None]] = set()
    for run in runs:
        core, only = run["core"], run["only"]
        if (core, None) not in seen and (core, only) not in seen:
            found.append(run)
        seen.add((core, only))
    return found


def iso(at: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC with milliseconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(row: Mapping[Any, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    # The state of a study is that of the latest run of the core that is worst off.
    shown = min(latest_runs(runs), key=_urgency, default=None)
    return {
        "study_instance_uid": row["study_uid"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
        "state": shown["state"] if shown else "received",
        "waiting_for": shown["waiting_for"] if shown else None,
        "due_at": shown["due_at"] if shown else None,
        "error": shown["error"] if shown else None,
        "runs": runs,
    }


def _urgency(run: Mapping[Any, Any]) -> int:
    order = [RunState.FAILED, RunState.QUEUED, RunState.FILTERING, RunState.UPLOADING,
             RunState.PREDICTING, RunState.DOWNLOADING, RunState.DELIVERING, RunState.CANCELLED,
             RunState.FILTERED, RunState.DONE]  # fmt: skip
    return order.index(RunState(run["state"]))


def _revision(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "created_at": iso(row["created_at"]),
        "reason": row["reason"],
        "instances": row["n_instances"],
        "size_bytes": row["size_bytes"],
        "removed_at": iso(row["removed_at"]),
    }


def _run(row: Mapping[Any, Any], deliveries: list[dict[str, Any]]) -> dict[str, Any]:
    due_at = iso(row["due_at"])
    for delivery in deliveries:
        if delivery["due_at"] is None and not DeliveryState(delivery["state"]).is_terminal:
            delivery["due_at"] = due_at  # not active yet: it waits for what the run waits for
    waiting = row["waiting_for"]
    if waiting is None and row["owner"] is not None:
        waiting = f"the worker that holds step {row['step']}"
    return {
        "id": row["id"],
        "core": row["core"],
        "revision": row["revision"],
        "state": row["state"],
        "step": row["step"],
        "waiting_for": waiting,
        "due_at": due_at,
        "attempts": row["attempts"],
        "relaunched": row["force"],
        "from": row["from_step"],
        "only": row["only_destination"],
        "created_at": iso(row["created_at"]),
        "finished_at": iso(row["finished_at"]),
        "error": row["error"],
        "deliveries": deliveries,
    }


def _delivery(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "destination": row["destination"],
        "kind": row["kind"],
        "state": row["state"],
        "waiting_for": row["waiting_for"]
        or ("the worker that holds it" if row["owner"] is not None else None),
        "due_at": iso(row["due_at"]),
        "attempts": row["attempts"],
        "sent": row["sent"],
        "total": row["total"],
        "control_id": row["control_id"],
        "finished_at": iso(row["finished_at"]),
        "error": row["error"],
    }


def _event(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "at": iso(row["at"]),
        "kind": row["kind"],
        "message": row["message"],
        "run_id": row["run_id"],
        "destination": row["destination"],
        "by": row["by"],
    }

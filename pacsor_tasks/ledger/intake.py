"""New work: a stable revision becomes runs, one per core."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, insert, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import WAITING_FOR
from pacsor_tasks.ledger.starts import FIRST_STEP, PENDING, Fate
from pacsor_tasks.ledger.store import Store, insert_missing, lock_study
from pacsor_tasks.models import (
    EVERYTHING,
    DeliveryState,
    DestinationKind,
    RunState,
    Selection,
    Step,
)
from pacsor_tasks.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """One received instance to be recorded. `error` says why its header could not be read."""

    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    transfer_syntax_uid: str
    path: str
    size_bytes: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRevision:
    """A study that became stable: one directory of the outbox."""

    study_uid: str
    token: str
    reason: str
    instances: Sequence[NewInstance]
    #: lines for the timeline, from the receiver
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A core and the destinations its results go to."""

    core: str
    destinations: Sequence[tuple[str, DestinationKind]]
    #: by destination, for those that do not get everything
    selections: Mapping[str, Selection] = field(default_factory=dict)

    def selection_of(self, destination: str) -> str | None:
        """What a destination gets, as the ledger keeps it."""
        return self.selections.get(destination, EVERYTHING).to_json()


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaunch:
    """What an operator wants of a relaunch."""

    #: None: the filters, or, for one destination only, the latest step whose inputs are there
    from_step: Step | None = None
    #: the one destination to get the results; None: all of them
    only: str | None = None
    by: str | None = None
    #: who asks twice by the same key gets one relaunch
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be recorded."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    study_uid: str
    revision_id: int
    target: Target
    #: by instance id
    fates: Mapping[int, Fate]
    start: Step = Step.FILTER
    relaunch: Relaunch | None = None


class Intake(Store):
    """Creates studies, revisions and their runs."""

    def knows(self, token: str) -> bool:
        """Whether a revision of this token is in the ledger."""
        with self.read() as c:
            query = select(t.revision.c.id).where(t.revision.c.token == token)
            return c.execute(query).first() is not None

    def add_revision(self, new: NewRevision, targets: Sequence[Target]) -> list[str]:
        """Record a revision, its instances and one run per core, all or nothing.

        Idempotent by token: a second call finds the first one's runs.

        Returns:
            The ids of its runs; none when it holds no instance.
        """
        with self.write() as c:
            lock_study(c, new.study_uid)
            known = c.execute(
                select(t.revision.c.id).where(t.revision.c.token == new.token)
            ).scalar()
            if known is not None:
                query = select(t.run.c.id).where(t.run.c.revision_id == known)
                return list(c.execute(query).scalars())
            revision_id, number = self._insert_revision(c, new)
            for note in new.notes:
                self.add_event(c, study_uid=new.study_uid, kind="study.note", message=note)
            self.add_event(
                c,
                study_uid=new.study_uid,
                kind="study.stable",
                message=f"revision {number}: {counted(len(new.instances), 'instance')}"
                f" ({new.reason})",
            )
            ids = list(
                c.execute(
                    select(t.instance.c.id)
                    .where(t.instance.c.revision_id == revision_id)
                    .order_by(t.instance.c.id)
                ).scalars()
            )
            if not ids:
                return []
            fates = dict.fromkeys(ids, PENDING)
            return [
                self._insert_run(
                    c,
                    NewRun(
                        study_uid=new.study_uid, revision_id=revision_id, target=target, fates=fates
                    ),
                )
                for target in targets
            ]

    def _insert_revision(self, c: Connection, new: NewRevision) -> tuple[int, int]:
        now = self.clock()
        c.execute(
            insert_missing(c, t.study).values(
                study_uid=new.study_uid, created_at=now, updated_at=now
            )
        )
        highest = c.execute(
            select(func.max(t.revision.c.number)).where(t.revision.c.study_uid == new.study_uid)
        ).scalar()
        number = (highest or 0) + 1
        inserted = c.execute(
            insert(t.revision)
            .values(
                study_uid=new.study_uid,
                number=number,
                token=new.token,
                created_at=now,
                reason=new.reason,
                n_instances=len(new.instances),
                size_bytes=sum(i.size_bytes for i in new.instances),
                removed_at=None,
            )
            .returning(t.revision.c.id)
        )
        revision_id = int(inserted.scalar_one())
        if new.instances:
            c.execute(
                insert(t.instance),
                [
                    {
                        "revision_id": revision_id,
                        "sop_instance_uid": i.sop_instance_uid,
                        "sop_class_uid": i.sop_class_uid,
                        "series_uid": i.series_uid,
                        "transfer_syntax_uid": i.transfer_syntax_uid,
                        "path": i.path,
                        "size_bytes": i.size_bytes,
                        "error": i.error,
                    }
                    for i in new.instances
                ],
            )
        return revision_id, number

    def _insert_run(self, c: Connection, new: NewRun) -> str:
        now, start = self.clock(), new.start
        step = FIRST_STEP[start]
        c.execute(
            insert(t.run).values(
                id=new.id, study_uid=new.study_uid, revision_id=new.revision_id,
                core=new.target.core, state=RunState.QUEUED, step=step,
                force=new.relaunch is not None, owner=None, lease_until=0, due_at=now,
                waiting_for=WAITING_FOR[step], attempts=0, step_since=now, enqueued_at=now,
                created_at=now, finished_at=None, error=None,
                from_step=start if new.relaunch else None,
                only_destination=new.relaunch.only if new.relaunch else None,
                request_key=new.relaunch.key if new.relaunch else None,
            )
        )  # fmt: skip
        c.execute(
            insert(t.run_instance),
            [
                {"run_id": new.id, "instance_id": i, "outcome": fate.outcome,
                 "reason": fate.reason, "rule": fate.rule, "tag": fate.tag}
                for i, fate in new.fates.items()
            ],
        )  # fmt: skip
        self._insert_deliveries(c, new)
        self.add_event(
            c,
            study_uid=new.study_uid,
            run_id=new.id,
            kind="run.queued",
            message=f"{_said(new)}: {counted(len(new.fates), 'instance')}",
            by=new.relaunch.by if new.relaunch else None,
        )
        return new.id

    def _insert_deliveries(self, c: Connection, new: NewRun) -> None:
        deliveries = [
            {
                "id": f"{new.id}:{name}", "run_id": new.id, "study_uid": new.study_uid,
                "destination": name, "kind": kind, "state": DeliveryState.PENDING, "owner": None,
                "lease_until": 0, "due_at": None, "waiting_for": "the results", "attempts": 0,
                "active_since": None, "enqueued_at": 0, "finished_at": None, "sent": 0, "total": 0,
                "control_id": None, "error": None,
                "selection": new.target.selection_of(name),
            }
            for name, kind in new.target.destinations
        ]  # fmt: skip
        if deliveries:
            c.execute(insert(t.delivery), deliveries)


def _said(new: NewRun) -> str:
    if new.relaunch is None:
        return f"run on {new.target.core}"
    begun = f" from {new.start}" if new.start is not Step.FILTER else ""
    only = f", for {new.relaunch.only} only" if new.relaunch.only else ""
    return f"relaunched on {new.target.core}{begun}{only}"

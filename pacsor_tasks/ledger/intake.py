"""New work: a stable revision becomes runs, one per core; a relaunch becomes new ones."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, insert, select, update

from pacsor_tasks.errors import NotFound
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import TERMINAL, WAITING_FOR
from pacsor_tasks.ledger.store import Store, insert_missing, lock_study
from pacsor_tasks.models import (
    EVERYTHING,
    DeliveryState,
    DestinationKind,
    InstanceOutcome,
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


class Intake(Store):
    """Creates studies, revisions and runs."""

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
            return [
                self._insert_run(c, new.study_uid, revision_id, target, ids, force=False)
                for target in targets
            ]

    def relaunch(self, study_uid: str, targets: Sequence[Target]) -> list[str]:
        """New runs over all instances still held of a study; unfinished older runs are cancelled.

        Raises:
            NotFound: The study is unknown, or retention removed its pixels.
        """
        with self.write() as c:
            lock_study(c, study_uid)
            held = (
                select(t.instance.c.id, t.instance.c.sop_instance_uid, t.instance.c.revision_id)
                .join(t.revision, t.revision.c.id == t.instance.c.revision_id)
                .where(t.revision.c.study_uid == study_uid, t.revision.c.removed_at.is_(None))
                .order_by(t.revision.c.number, t.instance.c.id)
            )
            rows = c.execute(held).all()
            if not rows:
                known = c.execute(
                    select(t.study.c.study_uid).where(t.study.c.study_uid == study_uid)
                ).first()
                raise NotFound(
                    f"study {study_uid}: its instances are no longer held"
                    if known
                    else f"study {study_uid}: never received"
                )
            newest = {row.sop_instance_uid: row.id for row in rows}
            self._cancel_unfinished(c, study_uid, [target.core for target in targets])
            ids = sorted(newest.values())
            return [
                self._insert_run(c, study_uid, rows[-1].revision_id, target, ids, force=True)
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

    def _insert_run(  # noqa: PLR0913 - one row's worth of columns
        self,
        c: Connection,
        study_uid: str,
        revision_id: int,
        target: Target,
        instance_ids: Sequence[int],
        *,
        force: bool,
    ) -> str:
        now, run_id = self.clock(), str(uuid.uuid4())
        c.execute(
            insert(t.run).values(
                id=run_id, study_uid=study_uid, revision_id=revision_id, core=target.core,
                state=RunState.QUEUED, step=Step.FILTER, force=force, owner=None, lease_until=0,
                due_at=now, waiting_for=WAITING_FOR[Step.FILTER], attempts=0, step_since=now,
                enqueued_at=now, created_at=now, finished_at=None, error=None,
            )
        )  # fmt: skip
        c.execute(
            insert(t.run_instance),
            [
                {"run_id": run_id, "instance_id": i, "outcome": InstanceOutcome.PENDING}
                for i in instance_ids
            ],
        )
        deliveries = [
            {
                "id": f"{run_id}:{name}", "run_id": run_id, "study_uid": study_uid,
                "destination": name, "kind": kind, "state": DeliveryState.PENDING, "owner": None,
                "lease_until": 0, "due_at": None, "waiting_for": "the results", "attempts": 0,
                "active_since": None, "enqueued_at": 0, "finished_at": None, "sent": 0, "total": 0,
                "control_id": None, "error": None,
                "selection": target.selections.get(name, EVERYTHING).to_json(),
            }
            for name, kind in target.destinations
        ]  # fmt: skip
        if deliveries:
            c.execute(insert(t.delivery), deliveries)
        self.add_event(
            c,
            study_uid=study_uid,
            run_id=run_id,
            kind="run.queued",
            message=f"{'relaunched' if force else 'run'} on {target.core}"
            f": {counted(len(instance_ids), 'instance')}",
        )
        return run_id

    def _cancel_unfinished(self, c: Connection, study_uid: str, cores: Sequence[str]) -> None:
        now, reason = self.clock(), "replaced by a relaunch"
        cancelled = c.execute(
            update(t.run)
            .where(
                t.run.c.study_uid == study_uid,
                t.run.c.core.in_(cores),
                t.run.c.state.not_in(TERMINAL),
            )
            .values(
                state=RunState.CANCELLED, owner=None, lease_until=0, due_at=None,
                waiting_for=None, finished_at=now, error=reason,
            )
            .returning(t.run.c.id)
        ).scalars()  # fmt: skip
        for run_id in list(cancelled):
            c.execute(
                update(t.delivery)
                .where(
                    t.delivery.c.run_id == run_id,
                    t.delivery.c.state.in_((DeliveryState.PENDING, DeliveryState.RETRYING)),
                )
                .values(
                    state=DeliveryState.SKIPPED, owner=None, lease_until=0, due_at=None,
                    waiting_for=None, finished_at=now, error=reason,
                )
            )  # fmt: skip
            self.add_event(
                c, study_uid=study_uid, run_id=run_id, kind="run.cancelled", message=reason
            )

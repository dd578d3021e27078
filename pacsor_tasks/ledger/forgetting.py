"""Forgetting whole studies: old rows go by rule, never those of pending or quarantined work.

A study is forgotten as one: its timeline, runs and deliveries, and that its instances were
uploaded. To remember the uploads for longer would do harm: sent once more after years, the study
would count as uploaded, and be asked of an AI service that has long forgotten it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, delete, exists, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import TERMINAL
from pacsor_tasks.ledger.store import Store, lock_study
from pacsor_tasks.models import DeliveryState


class Forgetting(Store):
    """Deletes what is old and over."""

    def old(self, older_than_s: float, limit: int = 200) -> list[str]:
        """Studies last touched longer ago, all over, and without pixels; the oldest first."""
        query = (
            select(t.study.c.study_uid)
            .where(t.study.c.updated_at < self.clock() - older_than_s, *_is_over())
            .order_by(t.study.c.updated_at)
            .limit(limit)
        )
        with self.read() as c:
            return list(c.execute(query).scalars())

    def forget(self, study_uid: str, older_than_s: float) -> bool:
        """Delete every row of a study, in one transaction; False: it is not old any more."""
        with self.write() as c:
            lock_study(c, study_uid)
            query = select(t.study.c.study_uid).where(
                t.study.c.study_uid == study_uid,
                t.study.c.updated_at < self.clock() - older_than_s,
                *_is_over(),
            )
            if c.execute(query).first() is None:
                return False
            _delete(c, study_uid)
        return True

    def forget_peer_events(self, older_than_s: float) -> int:
        """Delete what happened to peers long ago; how many lines."""
        before = self.clock() - older_than_s
        with self.write() as c:
            done = c.execute(
                delete(t.event).where(t.event.c.study_uid == "", t.event.c.at < before)
            )
        return done.rowcount


def _is_over() -> tuple[ColumnElement[bool], ...]:
    runs = select(t.run.c.id).where(t.run.c.study_uid == t.study.c.study_uid)
    return (
        ~exists().where(
            t.revision.c.study_uid == t.study.c.study_uid, t.revision.c.removed_at.is_(None)
        ),
        ~runs.where(t.run.c.state.not_in(TERMINAL)).exists(),
        ~runs.where(
            exists().where(
                t.delivery.c.run_id == t.run.c.id, t.delivery.c.state == DeliveryState.QUARANTINED
            )
        ).exists(),
    )


def _delete(c: Connection, study_uid: str) -> None:
    runs = select(t.run.c.id).where(t.run.c.study_uid == study_uid)
    deliveries = select(t.delivery.c.id).where(t.delivery.c.run_id.in_(runs))
    revisions = select(t.revision.c.id).where(t.revision.c.study_uid == study_uid)
    instances = select(t.instance.c.sop_instance_uid).where(t.instance.c.revision_id.in_(revisions))
    cores = select(t.run.c.core).where(t.run.c.study_uid == study_uid)
    for table, which in (
        (t.delivery_instance, t.delivery_instance.c.delivery_id.in_(deliveries)),
        (t.delivery, t.delivery.c.run_id.in_(runs)),
        (t.result, t.result.c.run_id.in_(runs)),
        (t.command, t.command.c.run_id.in_(runs)),
        (t.run_instance, t.run_instance.c.run_id.in_(runs)),
    ):
        c.execute(delete(table).where(which))
    c.execute(
        delete(t.upload).where(
            t.upload.c.core.in_(cores),
            t.upload.c.sop_instance_uid.in_(instances),
            t.upload.c.run_id.in_(runs),
        )
    )
    c.execute(delete(t.run).where(t.run.c.study_uid == study_uid))
    c.execute(delete(t.instance).where(t.instance.c.revision_id.in_(revisions)))
    for table in (t.revision, t.event, t.study):
        c.execute(delete(table).where(table.c.study_uid == study_uid))

"""What may be forgotten: pixels of old finished studies, never what is pending or quarantined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, exists, select, update

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import TERMINAL
from pacsor_tasks.ledger.store import Store, lock_study
from pacsor_tasks.models import DeliveryState


class HeldRevision(NamedTuple):
    """A revision whose pixels may go."""

    id: int
    study_uid: str
    token: str


class Retention(Store):
    """Finds old revisions and records their removal."""

    def removable(self, older_than_s: float, limit: int = 200) -> list[HeldRevision]:
        """Revisions received longer ago than this, all of whose runs ended without a quarantine.

        A relaunch runs over several revisions: one is removable only when no unfinished run uses
        any of its instances.
        """
        before = self.clock() - older_than_s
        query = (
            select(t.revision.c.id, t.revision.c.study_uid, t.revision.c.token)
            .where(t.revision.c.created_at < before, *_may_go())
            .order_by(t.revision.c.created_at)
            .limit(limit)
        )
        with self.read() as c:
            return [HeldRevision(*row) for row in c.execute(query)]

    def removed(self, revision: HeldRevision) -> bool:
        """Record that a revision's pixels go, before they do.

        Returns:
            False when they are needed after all, since the study was relaunched meanwhile.
        """
        with self.write() as c:
            lock_study(c, revision.study_uid)
            done = c.execute(
                update(t.revision)
                .where(t.revision.c.id == revision.id, *_may_go())
                .values(removed_at=self.clock())
            )
            if not done.rowcount:
                return False
            self.add_event(
                c,
                study_uid=revision.study_uid,
                kind="study.removed",
                message="the received instances were removed by retention",
            )
        return True

    def tokens(self, tokens: Sequence[str]) -> dict[str, bool]:
        """Of these revisions, those the ledger knows, and whether their pixels were removed."""
        query = select(t.revision.c.token, t.revision.c.removed_at).where(
            t.revision.c.token.in_(tokens)
        )
        with self.read() as c:
            return {row.token: row.removed_at is not None for row in c.execute(query)}

    def disposable(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs ended without a quarantined delivery: their results may go."""
        quarantined = exists().where(
            t.delivery.c.run_id == t.run.c.id, t.delivery.c.state == DeliveryState.QUARANTINED
        )
        query = select(t.run.c.id).where(
            t.run.c.id.in_(run_ids), t.run.c.state.in_(TERMINAL), ~quarantined
        )
        with self.read() as c:
            return list(c.execute(query).scalars())

    def unknown(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs the ledger does not know: forgotten, or of a ledger that was lost."""
        query = select(t.run.c.id).where(t.run.c.id.in_(run_ids))
        with self.read() as c:
            known = set(c.execute(query).scalars())
        return [run_id for run_id in run_ids if run_id not in known]


def _may_go() -> tuple[ColumnElement[bool], ...]:
    """A revision that is held, and that no unfinished or quarantined work uses."""
    used = (
        select(t.run_instance.c.run_id)
        .join(t.instance, t.instance.c.id == t.run_instance.c.instance_id)
        .join(t.run, t.run.c.id == t.run_instance.c.run_id)
        .where(t.instance.c.revision_id == t.revision.c.id)
    )
    unfinished = used.where(t.run.c.state.not_in(TERMINAL)).exists()
    quarantined = used.where(
        exists().where(
            t.delivery.c.run_id == t.run.c.id, t.delivery.c.state == DeliveryState.QUARANTINED
        )
    ).exists()
    return (t.revision.c.removed_at.is_(None), ~unfinished, ~quarantined)

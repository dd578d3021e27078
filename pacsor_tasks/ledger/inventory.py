"""What is there of a study that a relaunch can begin with."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, or_, select

from pacsor_tasks.errors import NotFound
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.intake import Intake
from pacsor_tasks.ledger.starts import AT_CORE, Earlier, Fate, Holdings
from pacsor_tasks.models import InstanceOutcome, Step

#: Runs that began there took over what was uploaded and predicted before.
TAKING_OVER = (Step.POLL, Step.DOWNLOAD, Step.DELIVER)
NOT_HELD = "its instances are no longer held: they would have to be sent again"


class Inventory(Intake):
    """Looks at what earlier runs left."""

    def holdings(self, study_uid: str, cores: Sequence[str]) -> list[Holdings]:
        """What is there of a study for each core.

        Raises:
            NotFound: The study is unknown, or retention removed its pixels.
        """
        with self.read() as c:
            return [self._holdings(c, study_uid, core) for core in cores]

    def result_paths(self, run_id: str) -> list[str]:
        """Where a run's results are, relative to the spool."""
        query = select(t.result.c.path).where(t.result.c.run_id == run_id)
        with self.read() as c:
            return list(c.execute(query).scalars())

    def _holdings(self, c: Connection, study_uid: str, core: str) -> Holdings:
        query = (
            select(t.instance.c.id, t.instance.c.sop_instance_uid, t.instance.c.revision_id)
            .join(t.revision, t.revision.c.id == t.instance.c.revision_id)
            .where(t.revision.c.study_uid == study_uid, t.revision.c.removed_at.is_(None))
            .order_by(t.revision.c.number, t.instance.c.id)
        )
        held = c.execute(query).all()
        if not held:
            known = select(t.study.c.study_uid).where(t.study.c.study_uid == study_uid)
            is_known = c.execute(known).first() is not None
            raise NotFound(f"study {study_uid}: {NOT_HELD if is_known else 'never received'}")
        newest = {row.sop_instance_uid: row.id for row in held}
        fates = self._fates(c, study_uid, core)
        return Holdings(
            core=core,
            revision_id=held[-1].revision_id,
            fates={i: fates.get(i) for i in sorted(newest.values())},
            runs=self._earlier(c, study_uid, core),
        )

    def _fates(self, c: Connection, study_uid: str, core: str) -> dict[int, Fate]:
        """What the core's latest run that got so far made of each instance.

        What was uploaded once is with the core, though a later run may not have got to it.
        """
        of = t.run_instance.c
        query = (
            select(of.instance_id, of.outcome, of.reason, of.rule, of.tag, t.run.c.step)
            .join(t.run, t.run.c.id == of.run_id)
            .where(t.run.c.study_uid == study_uid, t.run.c.core == core)
            .order_by(t.run.c.created_at, t.run.c.id)
        )
        found: dict[int, Fate] = {}
        for row in c.execute(query):
            if row.outcome == InstanceOutcome.PENDING:
                before = found.get(row.instance_id)
                if Step(row.step) is Step.FILTER or (before and before.outcome in AT_CORE):
                    continue
            found[row.instance_id] = Fate(
                outcome=InstanceOutcome(row.outcome), reason=row.reason, rule=row.rule, tag=row.tag
            )
        return found

    def _earlier(self, c: Connection, study_uid: str, core: str) -> list[Earlier]:
        uploaded = exists().where(
            t.run_instance.c.run_id == t.run.c.id,
            t.run_instance.c.outcome == InstanceOutcome.UPLOADED,
            or_(t.run.c.from_step.is_(None), t.run.c.from_step.not_in(TAKING_OVER)),
        )
        query = (
            select(t.run.c.id, t.run.c.step, uploaded.label("is_afresh"))
            .where(t.run.c.study_uid == study_uid, t.run.c.core == core)
            .order_by(t.run.c.created_at.desc(), t.run.c.id.desc())
        )
        return [
            Earlier(id=row.id, step=Step(row.step), is_afresh=bool(row.is_afresh))
            for row in c.execute(query)
        ]

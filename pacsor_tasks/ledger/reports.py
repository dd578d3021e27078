"""Reports that came from elsewhere: each is a run of its own that only has deliveries.

Its content is no part of the ledger: it is in the spool, under the run's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.runs import WATCH_S
from pacsor_tasks.ledger.store import Store, insert_missing, lock_study
from pacsor_tasks.models import DeliveryState, DestinationKind, Step

#: Begins the name of a run's core that is none.
PREFIX = "webps:"
REASON = "report"


def is_received(core: str) -> bool:
    """Whether a run of this core tells a report that came from elsewhere."""
    return core.startswith(PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReport:
    """A report to be delivered."""

    #: made from the message's id, so that no message has two
    run_id: str
    study_uid: str
    provider: str

    @property
    def core(self) -> str:
        """Its own: a later report of the study does not stand in for this one."""
        return f"{PREFIX}{self.provider[:40]}:{self.run_id[:8]}"

    @property
    def token(self) -> str:
        """What the ledger knows it by."""
        return f"webps-{self.run_id}"


class Reports(Store):
    """Records received reports."""

    def knows(self, run_id: str) -> bool:
        """Whether the report was recorded, delivered or not."""
        with self.read() as c:
            return c.execute(select(t.run.c.id).where(t.run.c.id == run_id)).first() is not None

    def add(self, new: NewReport, destinations: Sequence[str]) -> bool:
        """Record a report and its deliveries, due now; all or nothing.

        Returns:
            False when it is recorded already.
        """
        with self.write() as c:
            lock_study(c, new.study_uid)
            if c.execute(select(t.run.c.id).where(t.run.c.id == new.run_id)).first() is not None:
                return False
            self._insert_run(c, new, self._insert_revision(c, new))
            for name in destinations:
                self._insert_delivery(c, new, name)
            self.add_event(
                c,
                study_uid=new.study_uid,
                run_id=new.run_id,
                kind="report.received",
                message=f"a report of {new.provider}, to {', '.join(destinations)}",
            )
        return True

    def refused(self, provider: str, why: str, kept: str) -> None:
        """Note a message that cannot be used.

        Args:
            provider: Who published it.
            why: Without patient data.
            kept: Where it is, relative to the spool.
        """
        with self.write() as c:
            c.execute(
                insert(t.event).values(
                    at=self.clock(),
                    study_uid="",
                    kind="report.refused",
                    message=f"{why} (kept in {kept})",
                    peer=f"provider {provider}"[:80],
                )
            )

    def instance_of(self, study_uid: str) -> str | None:
        """The path of an instance held of a study, the latest received; None without any."""
        query = (
            select(t.instance.c.path)
            .join(t.revision, t.revision.c.id == t.instance.c.revision_id)
            .where(
                t.revision.c.study_uid == study_uid,
                t.revision.c.removed_at.is_(None),
                t.instance.c.error.is_(None),
            )
            .order_by(t.revision.c.number.desc(), t.instance.c.id)
            .limit(1)
        )
        with self.read() as c:
            found = c.execute(query).scalar()
        return None if found is None else str(found)

    def _insert_revision(self, c: Connection, new: NewReport) -> int:
        now = self.clock()
        c.execute(
            insert_missing(c, t.study).values(
                study_uid=new.study_uid, created_at=now, updated_at=now
            )
        )
        highest = c.execute(
            select(func.max(t.revision.c.number)).where(t.revision.c.study_uid == new.study_uid)
        ).scalar()
        inserted = c.execute(
            insert(t.revision)
            .values(
                study_uid=new.study_uid,
                number=(highest or 0) + 1,
                token=new.token,
                created_at=now,
                reason=REASON,
                n_instances=0,
                size_bytes=0,
                removed_at=now,  # it has no instances that retention could remove
            )
            .returning(t.revision.c.id)
        )
        return int(inserted.scalar_one())

    def _insert_run(self, c: Connection, new: NewReport, revision_id: int) -> None:
        now = self.clock()
        c.execute(
            insert(t.run).values(
                id=new.run_id, study_uid=new.study_uid, revision_id=revision_id, core=new.core,
                state=Step.DELIVER.state, step=Step.DELIVER, force=False, owner=None,
                lease_until=0, due_at=now + WATCH_S, waiting_for="its deliveries", attempts=0,
                step_since=now, enqueued_at=now, created_at=now, finished_at=None, error=None,
            )
        )  # fmt: skip

    def _insert_delivery(self, c: Connection, new: NewReport, name: str) -> None:
        now = self.clock()
        c.execute(
            insert(t.delivery).values(
                id=f"{new.run_id}:{name}", run_id=new.run_id, study_uid=new.study_uid,
                destination=name, kind=DestinationKind.HL7, state=DeliveryState.PENDING,
                owner=None, lease_until=0, due_at=now, waiting_for="a worker to deliver",
                attempts=0, active_since=now, enqueued_at=0, finished_at=None, sent=0, total=1,
                control_id=None, error=None,
            )
        )  # fmt: skip

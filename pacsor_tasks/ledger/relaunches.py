"""Relaunches: new runs over what is held of a study, from any step whose inputs are still there.

A relaunch to every destination replaces the core's unfinished runs. One for a single destination
leaves them to go on, and takes over from them what they could not deliver there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, Select, exists, insert, or_, select, update

from pacsor_tasks.errors import Conflict, NotFound
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.intake import NewRun, Relaunch, Target
from pacsor_tasks.ledger.inventory import Inventory
from pacsor_tasks.ledger.runs import OPEN_DELIVERY, TERMINAL, WAITING_FOR
from pacsor_tasks.ledger.runs import skip_deliveries as skipping
from pacsor_tasks.ledger.starts import Delivering, fate_at, start_of
from pacsor_tasks.ledger.store import lock_study
from pacsor_tasks.models import DeliveryState, RunState, Step

WHOLE = Relaunch()
UNSETTLED = (*OPEN_DELIVERY, DeliveryState.QUARANTINED)
REPLACED = "replaced by a relaunch"


class Carried(NamedTuple):
    """Results on disk that a new run begins with, as they were found before its transaction."""

    #: `Holdings.downloaded` at that moment
    seen: Sequence[str]
    #: the run that holds them; None: none does
    results_of: str | None = None
    #: the new run; its results directory holds them too
    run_id: str = ""


class Made(NamedTuple):
    """What became of a relaunch."""

    #: of the new runs, one per core
    run_ids: list[str]
    #: by core, why it cannot be there
    refused_on: dict[str, str]


class Stale(Conflict):
    """What was found on disk counts no longer: the study's runs changed meanwhile. Look again.

    Told to an operator only when it did so again and again.
    """


class Relaunches(Inventory):
    """Creates new runs of studies that are in the ledger."""

    def require_not_under_way(self, study_uid: str, core: str, only: str) -> None:
        """No other run is to deliver its results there anyway.

        Raises:
            Conflict: One is.
        """
        with self.read() as c:
            if c.execute(_others(study_uid, core, only, OPEN_DELIVERY)).first() is not None:
                raise Conflict(_under_way(core, only))

    def asked_before(self, study_uid: str, key: str | None) -> list[str]:
        """The ids of the runs that were asked for by this key, in the order of their cores."""
        if not key:
            return []
        with self.read() as c:
            return self._asked_before(c, study_uid, key)

    def relaunch(
        self,
        study_uid: str,
        targets: Sequence[Target],
        wish: Relaunch = WHOLE,
        carried: Mapping[str, Carried] | None = None,
    ) -> list[str]:
        """As `relaunch_where_possible`; the ids of the runs alone."""
        return self.relaunch_where_possible(study_uid, targets, wish, carried).run_ids

    def relaunch_where_possible(
        self,
        study_uid: str,
        targets: Sequence[Target],
        wish: Relaunch = WHOLE,
        carried: Mapping[str, Carried] | None = None,
    ) -> Made:
        """New runs over what is held of a study, one per core that can, in one transaction.

        Safe to repeat: what was asked for by the same key, or has not begun yet, is not made twice.

        Args:
            study_uid: StudyInstanceUID.
            targets: The cores, with the destinations to get their results.
            wish: What is wanted.
            carried: By core, results on disk to begin the deliveries with, if any were found.

        Returns:
            The runs, and on which cores it cannot be.

        Raises:
            NotFound: The study is unknown, or its pixels are gone; or the destination is.
            Conflict: On no core it can be: the inputs of that step are gone, or the destination
                gets the results of a run under way.
            Stale: Results are missing, but `carried` was found before others changed the runs.
        """
        wanted = partial_targets(targets, wish.only)
        made = Made([], {})
        with self.write() as c:
            lock_study(c, study_uid)
            if wish.key and (known := self._asked_before(c, study_uid, wish.key)):
                return Made(known, {})
            for target in wanted:
                try:
                    with c.begin_nested():  # what was written before it was refused is undone
                        found = (carried or {}).get(target.core)
                        made.run_ids.append(self._relaunch(c, study_uid, target, wish, found))
                except Stale:
                    raise
                except Conflict as exc:
                    made.refused_on[target.core] = str(exc)
            require_any(made.run_ids, made.refused_on)
        return made

    def _relaunch(
        self,
        c: Connection,
        study_uid: str,
        target: Target,
        wish: Relaunch,
        carried: Carried | None,
    ) -> str:
        there = self._holdings(c, study_uid, target.core)
        # Of the newest upload still, whoever took them over since: the files are linked.
        results_held = carried is not None and carried.results_of in there.downloaded
        if carried is not None and not results_held and list(carried.seen) != there.downloaded:
            raise Stale(f"study {study_uid} is being relaunched by others: ask again")
        delivering = delivering_of(target, results_held=results_held)
        start = start_of(wish.from_step, there, delivering, is_partial=wish.only is not None)
        new = NewRun(
            study_uid=study_uid, revision_id=there.revision_id, target=target, start=start,
            fates={i: fate_at(start, fate) for i, fate in there.fates.items()}, relaunch=wish,
        )  # fmt: skip
        if (same := self._not_begun(c, new)) is not None:
            self.add_event(
                c, study_uid=study_uid, run_id=same, kind="run.queued", by=wish.by,
                message="the same relaunch was asked for again: it has not begun yet",
            )  # fmt: skip
            return same
        self._replace_unfinished(c, new)
        if start is not Step.DELIVER:
            return self._insert_run(c, new)
        results_of = there.downloaded[0]
        if carried is not None and carried.results_of is not None and results_held:
            new, results_of = replace(new, id=carried.run_id), carried.results_of
        run_id = self._insert_run(c, new)
        self._take_over(c, results_of, run_id)
        return run_id

    # --- the same again

    def _asked_before(self, c: Connection, study_uid: str, key: str) -> list[str]:
        query = select(t.run.c.id).where(t.run.c.study_uid == study_uid, t.run.c.request_key == key)
        return list(c.execute(query.order_by(t.run.c.core)).scalars())

    def _not_begun(self, c: Connection, new: NewRun) -> str | None:
        """A relaunch that is the same as this one, and that no worker has taken up."""
        only = new.relaunch.only if new.relaunch else None
        query = select(t.run.c.id).where(
            t.run.c.study_uid == new.study_uid,
            t.run.c.core == new.target.core,
            t.run.c.state == RunState.QUEUED,
            t.run.c.force.is_(True),
            t.run.c.owner.is_(None),
            t.run.c.attempts == 0,
            t.run.c.from_step == new.start,
            t.run.c.only_destination == only if only else t.run.c.only_destination.is_(None),
        )
        of, to = t.run_instance.c, t.delivery.c
        wanted = {(name, new.target.selection_of(name)) for name, _ in new.target.destinations}
        for run_id in c.execute(query).scalars().all():
            same = set(c.execute(select(of.instance_id).where(of.run_id == run_id)).scalars())
            rows = c.execute(select(to.destination, to.selection).where(to.run_id == run_id))
            if same == set(new.fates) and {(r.destination, r.selection) for r in rows} == wanted:
                return str(run_id)
        return None

    # --- what it replaces

    def _replace_unfinished(self, c: Connection, new: NewRun) -> None:
        assert new.relaunch is not None  # noqa: S101 - for the type checker
        only, by = new.relaunch.only, new.relaunch.by
        mine = (t.run.c.study_uid == new.study_uid, t.run.c.core == new.target.core)
        which = (*mine, t.run.c.only_destination == only) if only else mine
        now = self.clock()
        cancelled = c.execute(
            update(t.run)
            .where(*which, t.run.c.state.not_in(TERMINAL))
            .values(
                state=RunState.CANCELLED, owner=None, lease_until=0, due_at=None,
                waiting_for=None, finished_at=now, error=REPLACED,
            )
            .returning(t.run.c.id)
        ).scalars()  # fmt: skip
        for run_id in list(cancelled):
            c.execute(skipping(run_id, REPLACED, now))
            self.add_event(
                c, study_uid=new.study_uid, run_id=run_id, kind="run.cancelled", message=REPLACED,
                by=by,
            )  # fmt: skip
        if only:
            self._take_from_others(c, new, only)

    def _take_from_others(self, c: Connection, new: NewRun, only: str) -> None:
        """What other runs could not deliver there is this one's; what they will, is theirs."""
        core = new.target.core
        # The runs' rows first, as everybody who locks both does.
        ids = [row.id for row in c.execute(_others(new.study_uid, core, only).with_for_update())]
        found = c.execute(
            select(t.run.c.id, t.run.c.state, t.run.c.step, t.delivery.c.state.label("delivering"))
            .join(t.delivery, t.delivery.c.run_id == t.run.c.id)
            .where(t.run.c.id.in_(ids), t.delivery.c.destination == only)
        ).all()
        for row in found:
            if row.delivering in OPEN_DELIVERY:
                raise Conflict(_under_way(core, only))
            c.execute(
                update(t.delivery)
                .where(t.delivery.c.id == f"{row.id}:{only}")
                .values(state=DeliveryState.SKIPPED, finished_at=self.clock(), error=REPLACED)
            )
            if row.state == RunState.FAILED and row.step == Step.DELIVER:
                self._settle_again(c, row.id)

    def _settle_again(self, c: Connection, run_id: str) -> None:
        """A run that had failed by this delivery alone may be done now: the sweep looks at it."""
        now = self.clock()
        c.execute(
            update(t.run)
            .where(t.run.c.id == run_id)
            .values(
                state=Step.DELIVER.state, due_at=now, enqueued_at=0, step_since=now, owner=None,
                lease_until=0, attempts=0, losses=0, finished_at=None, error=None,
                waiting_for=WAITING_FOR[Step.DELIVER],
            )
        )  # fmt: skip

    def _take_over(self, c: Connection, results_of: str, run_id: str) -> None:
        """Give a new run what an older one downloaded."""
        for table in (t.command, t.result):
            rows = c.execute(select(table).where(table.c.run_id == results_of)).mappings()
            copies = [{k: v for k, v in row.items() if k != "id"} for row in rows]
            for copy in copies:
                copy["run_id"] = run_id
                if "path" in copy:
                    copy["path"] = carried_path(copy["path"], results_of, run_id)
            if copies:
                c.execute(insert(table), copies)


def _others(
    study_uid: str, core: str, only: str, states: Sequence[DeliveryState] = UNSETTLED
) -> Select[tuple[str]]:
    """Other runs of the core whose delivery there is in one of these states."""
    there = exists().where(
        t.delivery.c.run_id == t.run.c.id,
        t.delivery.c.destination == only,
        t.delivery.c.state.in_(states),
    )
    # Those for this destination alone are replaced, not asked.
    is_other = or_(
        t.run.c.only_destination.is_(None),
        t.run.c.only_destination != only,
        t.run.c.state.in_(TERMINAL),
    )
    return (
        select(t.run.c.id)
        .where(t.run.c.study_uid == study_uid, t.run.c.core == core, is_other, there)
        .order_by(t.run.c.id)
    )


def _under_way(core: str, only: str) -> str:
    return (
        f"{only} gets the results of the run on {core} that is under way: wait for it, retry or"
        " cancel it, or relaunch to every destination"
    )


def require_any(possible: Sequence[object], refused_on: Mapping[str, str]) -> None:
    """A relaunch can be on some core.

    Raises:
        Conflict: On none; says why for each.
    """
    if not possible:
        raise Conflict("; ".join(refused_on.values()))


def partial_targets(targets: Sequence[Target], only: str | None) -> list[Target]:
    """The targets, or of each that has the one destination a target with it alone.

    Raises:
        NotFound: None has it.
    """
    if only is None:
        return list(targets)
    found = [
        replace(target, destinations=[(n, k) for n, k in target.destinations if n == only])
        for target in targets
    ]
    found = [target for target in found if target.destinations]
    if not found:
        cores = ", ".join(target.core for target in targets)
        raise NotFound(f"{only!r} is no destination of {cores}")
    return found


def delivering_of(target: Target, *, results_held: bool) -> Delivering:
    """What a target's deliveries would need."""
    needs = any(kind.takes_instances for _, kind in target.destinations)
    return Delivering(needs_results=needs, results_held=results_held)


def carried_path(path: str, results_of: str, run_id: str) -> str:
    """Where a result is that a new run takes over from an older one."""
    return path.replace(f"results/{results_of}/", f"results/{run_id}/", 1)

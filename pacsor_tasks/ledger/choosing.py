"""Choosing studies by when they came, how they fared, and where they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.reports import REASON
from pacsor_tasks.ledger.store import Store
from pacsor_tasks.ledger.studies import is_latest_of_its_core, iso
from pacsor_tasks.models import DeliveryState, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What studies are meant: all of it has to fit; what is None is not asked for."""

    study_uids: tuple[str, ...] = ()
    #: some of it was received at or after this, epoch seconds
    since: float | None = None
    #: … and before this
    until: float | None = None
    #: of a latest run; or of one of its deliveries
    state: RunState | DeliveryState | None = None
    #: the latest run has a delivery to it; with the state of a delivery, that one is in it
    destination: str | None = None
    core: str | None = None

    def __bool__(self) -> bool:
        given = (self.since, self.until, self.state, self.destination, self.core)
        return bool(self.study_uids) or any(value is not None for value in given)

    @property
    def is_by_run(self) -> bool:
        """How a run fared counts, not only when the study came."""
        return any(value is not None for value in (self.state, self.destination, self.core))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A study that is meant."""

    study_uid: str
    #: None: never
    received_at: float | None
    #: some of its pixels are
    is_held: bool
    #: those whose run is what it was chosen by; None: it was chosen by no run, or is named
    cores: frozenset[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"study_instance_uid": self.study_uid, "received_at": iso(self.received_at)}


class Choosing(Store):
    """Finds studies."""

    def find(self, choice: Choice, limit: int) -> list[Chosen]:
        """At most so many, the earliest received first. Reports that came alone are no studies."""
        held = (
            select(t.revision.c.id)
            .where(
                t.revision.c.study_uid == t.study.c.study_uid,
                t.revision.c.removed_at.is_(None),
                t.revision.c.n_instances > 0,
            )
            .exists()
        )
        query = (
            select(t.study.c.study_uid, t.study.c.created_at, held.label("is_held"))
            .where(*_conditions(choice))
            .order_by(t.study.c.created_at, t.study.c.study_uid)
            .limit(limit)
        )
        with self.read() as c:
            rows = c.execute(query).all()
            cores = _cores(c, choice, [row.study_uid for row in rows])
        return [
            Chosen(
                study_uid=row.study_uid, received_at=row.created_at, is_held=bool(row.is_held),
                cores=None if cores is None else frozenset(cores[row.study_uid]),
            )
            for row in rows
            if cores is None or cores[row.study_uid]  # else it fared otherwise a moment ago
        ]  # fmt: skip


def _cores(
    c: Connection, choice: Choice, study_uids: Sequence[str]
) -> Mapping[str, set[str]] | None:
    """By study, the cores whose runs it was chosen by; None: all of them are meant."""
    if choice.study_uids or not choice.is_by_run:
        return None
    found: dict[str, set[str]] = {uid: set() for uid in study_uids}
    query = select(t.run.c.study_uid, t.run.c.core).where(
        t.run.c.study_uid.in_(study_uids), *_of_run(choice)
    )
    for row in c.execute(query):
        found[row.study_uid].add(row.core)
    return found


def _conditions(choice: Choice) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [_received(choice).exists()]
    if choice.study_uids:
        found.append(t.study.c.study_uid.in_(choice.study_uids))
    if choice.is_by_run:
        run = select(t.run.c.id).where(t.run.c.study_uid == t.study.c.study_uid, *_of_run(choice))
        found.append(run.exists())
    return found


def _received(choice: Choice) -> Select[Any]:
    query = select(t.revision.c.id).where(
        t.revision.c.study_uid == t.study.c.study_uid, t.revision.c.reason != REASON
    )
    if choice.since is not None:
        query = query.where(t.revision.c.created_at >= choice.since)
    if choice.until is not None:
        query = query.where(t.revision.c.created_at < choice.until)
    return query


def _of_run(choice: Choice) -> list[ColumnElement[bool]]:
    """Of a latest run, what fits."""
    found = [is_latest_of_its_core()]
    if choice.core is not None:
        found.append(t.run.c.core == choice.core)
    if isinstance(choice.state, RunState):
        found.append(t.run.c.state == choice.state)
    if choice.destination is not None or isinstance(choice.state, DeliveryState):
        found.append(_delivery(choice).exists())
    return found


def _delivery(choice: Choice) -> Select[Any]:
    query = select(t.delivery.c.id).where(t.delivery.c.run_id == t.run.c.id)
    if choice.destination is not None:
        query = query.where(t.delivery.c.destination == choice.destination)
    if isinstance(choice.state, DeliveryState):
        query = query.where(t.delivery.c.state == choice.state)
    return query

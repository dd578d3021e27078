"""What every part of the ledger shares: the engine, the clock, transactions and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacsor_tasks.errors import LedgerUnavailable
from pacsor_tasks.ledger import statements as prepared
from pacsor_tasks.models import Delivery, Run

Clock = Callable[[], float]

#: First half of the advisory lock of a study, so that no other lock of ours can meet it.
STUDY_LOCK = 0x73747564


class Store:
    """An engine and a clock.

    Args:
        engine: From `open_engine`.
        clock: Epoch seconds, UTC.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[Connection]:
        """One transaction, committed at the end.

        Args:
            lasting: Outlives a power cut. Leases and moves from step to step need not: with them
                the process goes as well, and what is done again finds what was done outside, since
                that is recorded lastingly and whatever was committed before comes with it. That
                spares the disk two thirds of the waits of a study.

        Raises:
            LedgerUnavailable: The database is locked for too long, full or gone.
        """
        try:
            with (
                self.engine.connect().execution_options(lasting=lasting) as connection,
                connection.begin(),
            ):
                if not lasting and connection.dialect.name == "postgresql":
                    connection.execute(text("SET LOCAL synchronous_commit TO off"))
                yield connection
        except (DBAPIError, PoolTimeout) as exc:
            raise _translated(exc) from exc

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view, never waiting for a writer on SQLite.

        Raises:
            LedgerUnavailable: The database is gone.
        """
        try:
            with self.engine.connect().execution_options(read_only=True) as connection:
                yield connection
        except (DBAPIError, PoolTimeout) as exc:
            raise _translated(exc) from exc

    def ping(self) -> None:
        """Prove that the ledger answers.

        Raises:
            LedgerUnavailable: It does not.
        """
        with self.read() as connection:
            connection.execute(text("SELECT 1"))

    def add_event(  # noqa: PLR0913 - one row's worth of columns
        self,
        connection: Connection,
        *,
        study_uid: str,
        kind: str,
        message: str,
        run_id: str | None = None,
        destination: str | None = None,
        by: str | None = None,
    ) -> None:
        """Append one line to a study's timeline, in the caller's transaction.

        `by` names the operator whose doing it was.
        """
        now = self.clock()
        row = {
            "at": now, "study_uid": study_uid, "run_id": run_id, "destination": destination,
            "kind": kind, "message": message, "by": by,
        }  # fmt: skip
        connection.execute(prepared.ADD_EVENT, row)
        connection.execute(prepared.TOUCH_STUDY, {"study": study_uid, "now": now})


def insert_missing(connection: Connection, table: Any) -> Any:
    """An INSERT that leaves existing rows as they are, in the database's own dialect."""
    return _insert(connection.dialect.name, table).on_conflict_do_nothing()


def upsert(connection: Connection, table: Any) -> Any:
    """An INSERT that replaces the row of the same key."""
    return _upsert(connection.dialect.name, table)


@cache
def _upsert(dialect: str, table: Any) -> Any:
    new = _insert(dialect, table)
    key = table.primary_key.columns
    values = {c.name: new.excluded[c.name] for c in table.columns if c.name not in key}
    return new.on_conflict_do_update(index_elements=list(key), set_=values)


def _insert(dialect: str, table: Any) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as pg_insert

        return pg_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)


def loose_names(connection: Connection, column: Column[Any]) -> list[str]:
    """The different values of an indexed column, by one look into the index for each.

    DISTINCT would walk all of it.
    """
    names: list[str] = []
    while True:
        query = select(func.min(column))
        if names:
            query = query.where(column > names[-1])
        name = connection.execute(query).scalar()
        if name is None:
            return names
        names.append(name)


def is_news(work: Run | Delivery, error: str) -> bool:
    """Whether a failed try is worth a line of the timeline: a new reason, or a round number.

    Three days of tries at a peer that is away would else be two thousand lines of each delivery.
    """
    return error != work.error or work.attempts & (work.attempts - 1) == 0


def lock_study(connection: Connection, study_uid: str) -> None:
    """Until the transaction ends, nobody else adds a revision or a run to the study or removes one.

    To be taken before anything else is read. On SQLite every writing transaction is alone anyway;
    on PostgreSQL a statement sees what was committed a moment ago, so that two that first look and
    then write would both find that nobody was there. Advisory, since a lock on the study's row
    would be taken in the opposite order by those who end a step.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(STUDY_LOCK, func.hashtext(study_uid))))


def _translated(exc: DBAPIError | PoolTimeout) -> LedgerUnavailable:
    if isinstance(exc, PoolTimeout):
        return LedgerUnavailable("ledger: no connection is free")
    # Only the driver's first line: what follows, and str(exc), quote the values written.
    said = str(exc.orig).partition("\n")[0]
    name = type(exc.orig).__name__
    if name == "UndefinedColumn" or said.startswith("no such column"):
        said += " (of an older version; the gateway brings it up when it starts)"
    return LedgerUnavailable(f"ledger: {name}: {said}")

"""What every part of the ledger shares: the engine, the clock, transactions and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import Connection, Engine, insert, text, update
from sqlalchemy.exc import DBAPIError

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.ledger import schema as t

Clock = Callable[[], float]


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
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end.

        Raises:
            PeerUnavailable: The database is locked for too long, full or gone.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except DBAPIError as exc:
            raise _translated(exc) from exc

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view, never waiting for a writer on SQLite.

        Raises:
            PeerUnavailable: The database is gone.
        """
        try:
            with self.engine.connect().execution_options(read_only=True) as connection:
                yield connection
        except DBAPIError as exc:
            raise _translated(exc) from exc

    def ping(self) -> None:
        """Prove that the ledger answers.

        Raises:
            PeerUnavailable: It does not.
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
    ) -> None:
        """Append one line to a study's timeline, in the caller's transaction."""
        now = self.clock()
        connection.execute(
            insert(t.event).values(
                at=now,
                study_uid=study_uid,
                run_id=run_id,
                destination=destination,
                kind=kind,
                message=message,
            )
        )
        connection.execute(
            update(t.study).where(t.study.c.study_uid == study_uid).values(updated_at=now)
        )


def insert_missing(connection: Connection, table: Any) -> Any:
    """An INSERT that leaves existing rows as they are, in the database's own dialect."""
    dialect: Literal["sqlite", "postgresql"] = connection.dialect.name  # type: ignore[assignment] # open_engine admits only these
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as pg_insert

        return pg_insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table).on_conflict_do_nothing()


def _translated(exc: DBAPIError) -> PeerUnavailable:
    # Only the driver's sentence: str(exc) would carry the statement and its parameters.
    return PeerUnavailable(f"ledger: {type(exc.orig).__name__}: {exc.orig}")

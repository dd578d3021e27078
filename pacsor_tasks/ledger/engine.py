"""Opening the ledger: SQLite in WAL mode, or PostgreSQL; migrated before first use."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from pacsor_tasks.errors import ConfigError

#: Advisory lock number of a PostgreSQL migration ("pacs" in ASCII).
MIGRATION_LOCK = 0x70616373
BUSY_TIMEOUT_S = 30
#: libpq's own: a server that vanished without a word is noticed in seconds, not in two hours.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def open_engine(url: str) -> Engine:
    """An engine on the ledger; opens no connection yet.

    SQLite: WAL, `synchronous=FULL` (what is committed survives a power cut) but for transactions
    with the option `lasting=False`, every writing one BEGIN IMMEDIATE so that two writers queue
    instead of failing on a lock upgrade.
    Values stay out of error messages, since they may be a peer's words about a patient.

    Raises:
        ConfigError: LEDGER_URL is not a URL of a supported database.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            engine = create_engine(
                parsed, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S}
            )
            _tune_sqlite(engine)
        elif backend == "postgresql":
            engine = create_engine(
                parsed, hide_parameters=True, pool_pre_ping=True, connect_args=_POSTGRESQL
            )
        else:
            raise ConfigError(f"LEDGER_URL: {backend!r} is not supported; use sqlite or postgresql")
    except (ArgumentError, ModuleNotFoundError, ValueError) as exc:
        raise ConfigError(f"LEDGER_URL: not a database URL: {exc}") from exc
    return engine


def migrate(url: str) -> None:
    """Bring the ledger to the newest schema; safe to call from many processes at once.

    Processes of the version before go on beside it as long as they live: migrations only add what
    the older programs do without.

    Raises:
        ConfigError: The database cannot be opened, or is newer than this program.
    """
    engine = open_engine(url)
    try:
        with _migration_lock(engine), engine.connect() as connection:
            config = Config()
            config.set_main_option("script_location", "pacsor_tasks:ledger/migrations")
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            _refuse_newer(connection, config)
            command.upgrade(config, "head")
            connection.commit()
    except (OperationalError, OSError) as exc:
        reason = getattr(exc, "orig", None) or exc
        raise ConfigError(f"LEDGER_URL: the ledger cannot be opened: {reason}") from exc
    except (SQLAlchemyError, CommandError) as exc:
        raise ConfigError(f"LEDGER_URL: the ledger cannot be migrated: {exc}") from exc
    finally:
        engine.dispose()


def _refuse_newer(connection: Connection, config: Config) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = set(MigrationContext.configure(connection).get_current_heads())
    if newer := ", ".join(sorted(found - known)):
        raise ConfigError(
            f"LEDGER_URL: the ledger was brought to revision {newer} by a newer version than this"
            " one; start that version again, or put back the copy of DATA_DIR and of the ledger"
            " that was made before it (docs/operating.md, A new version)"
        )


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        options, info = connection.get_execution_options(), connection.info
        statement = "BEGIN" if options.get("read_only", False) else "BEGIN IMMEDIATE"
        synchronous = "FULL" if options.get("lasting", True) else "NORMAL"
        try:
            # Past SQLAlchemy's own execution, which would take longer than most reads.
            execute = connection.connection.dbapi_connection.execute
            if info.get("synchronous", "FULL") != synchronous:
                execute(f"PRAGMA synchronous={synchronous}")
                info["synchronous"] = synchronous
            execute(statement)
        except sqlite3.Error as exc:
            raise DBAPIError.instance(
                statement, None, exc, sqlite3.Error, hide_parameters=True,
                dialect=connection.dialect,
            ) from exc  # fmt: skip


@contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": MIGRATION_LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": MIGRATION_LOCK})
        return
    database = engine.url.database
    if not database or database == ":memory:":
        yield
        return
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

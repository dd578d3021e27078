"""Fixtures that more than one part of the suite needs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from pacsor_tasks.ledger import Ledger, migrate
from tests.support.postgres import postgres_bin, postgres_server


class Clock:
    """Epoch seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 1_780_000_000.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture(scope="session")
def _postgres() -> Iterator[str | None]:
    if postgres_bin() is None:
        yield None
        return
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty, migrated ledger on each supported database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        migrate(url)
        yield url
        return
    server = request.getfixturevalue("_postgres")
    if server is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    name = f"t{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = server.rsplit("/", 1)[0] + f"/{name}"
    migrate(url)
    yield url


@pytest.fixture
def ledger(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    """A ledger whose time the test moves."""
    opened = Ledger(ledger_url, clock)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """As `ledger`, on SQLite only."""
    url = f"sqlite:///{tmp_path / 'only.sqlite3'}"
    migrate(url)
    opened = Ledger(url, clock)
    yield opened
    opened.close()

"""What the ledger says when something is wrong with it: enough to act on, nothing of a patient."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from sqlalchemy import text

from pacsor_tasks.errors import ConfigError, PeerUnavailable
from pacsor_tasks.ledger import Ledger, migrate
from pacsor_tasks.models import Step
from tests.support.ledgers import add_run


def test_a_peers_words_do_not_reach_the_traceback_of_a_ledger_that_fails(sqlite_ledger: Ledger):
    run = add_run(sqlite_ledger)
    claimed = sqlite_ledger.runs.claim(run.id, Step.FILTER, "w", 10)
    assert claimed is not None
    with sqlite_ledger.engine.begin() as connection:
        connection.execute(text("DROP TABLE event"))
    words = "^".join(["DOE", "JOHN"]) + " is unknown"
    with pytest.raises(PeerUnavailable) as caught:
        sqlite_ledger.runs.park(claimed, 0, words, words)
    assert "no such table: event" in str(caught.value)
    assert words not in "".join(traceback.format_exception(caught.value))


def test_a_ledger_newer_than_the_program_is_a_config_error(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    migrate(url)
    ledger = Ledger(url)
    with ledger.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()
    with pytest.raises(ConfigError, match=r"LEDGER_URL: .* 9999 by a newer version than this"):
        migrate(url)


def test_a_ledger_without_a_free_connection_is_unavailable_not_broken(
    sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    pool = sqlite_ledger.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0)
    held = [sqlite_ledger.engine.connect() for _ in range(15)]
    with pytest.raises(PeerUnavailable, match="no connection is free"):
        sqlite_ledger.ping()
    for connection in held:
        connection.close()

"""A new version over the volumes of an older one: nothing is lost, work goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from pacsor_tasks.errors import ConfigError, PeerUnavailable
from pacsor_tasks.ledger import Ledger, migrate
from pacsor_tasks.ledger.engine import open_engine
from pacsor_tasks.ledger.schema import metadata
from pacsor_tasks.models import Step
from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.support.gateway import gateway
from tests.support.ledger_seed import Seed
from tests.support.ledgers import existing
from tests.support.old_release import PACSOR_LEFTOVERS, leave, migrate_to, old_ledger, tables_of

REVISIONS = ["0001", "0002", "0003", "0004", "0005"]


@pytest.fixture
def empty_url(ledger_url: str) -> str:
    """A database of each kind without a table."""
    if ledger_url.startswith("sqlite"):
        Path(ledger_url.removeprefix("sqlite:///")).unlink()
    else:
        engine = open_engine(ledger_url)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()
    return ledger_url


def rows_of(url: str, only: dict[str, list[str]] | None = None) -> dict[str, list[Any]]:
    """Every row of every table, of the columns named or of all."""
    engine, found = open_engine(url), {}
    tables = tables_of(url).tables
    with engine.connect() as connection:
        for name, table in tables.items():
            names = [c.name for c in table.columns] if only is None else only.get(name, [])
            if name != "alembic_version" and names:
                columns = [table.c[n] for n in names]
                read = connection.execute(select(*columns)).all()
                found[name] = sorted((tuple(row) for row in read), key=repr)
    engine.dispose()
    return found


def columns_of(url: str) -> dict[str, list[str]]:
    """The columns of each table."""
    return {name: [c.name for c in t.columns] for name, t in tables_of(url).tables.items()}


def some_studies(ledger: Ledger) -> None:
    """One that is done, one whose delivery waits for its next try."""
    seed = Seed(ledger)
    seed.done("1.2.3.1")
    (run_id,) = seed.receive("1.2.3.2")
    seed.bring_to(run_id, Step.DELIVER)
    seed.retry(run_id, "storescu", 60, "no answer", 1)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_ledger_of_any_revision_is_brought_up_with_all_its_rows(empty_url: str, revision: str):
    old_ledger(empty_url, some_studies, revision)
    old, columns = rows_of(empty_url), columns_of(empty_url)
    assert len(old["run"]) == 2
    before = Ledger(empty_url)  # `pacsor status` of a new version before its first start
    with pytest.raises(PeerUnavailable, match="older version; the gateway brings it up when it"):
        before.studies.detail("1.2.3.2")
    before.close()
    migrate(empty_url)
    assert rows_of(empty_url, columns) == old
    ledger = Ledger(empty_url)
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    detail = ledger.studies.detail("1.2.3.2")
    assert detail is not None
    states = {d["destination"]: d["state"] for d in detail["runs"][0]["deliveries"]}
    assert states == {"storescu": "retrying", "hl7": "pending"}
    (run_id,) = Seed(ledger).receive("1.2.3.3")  # the numbers go on behind the old ones
    assert existing(ledger, run_id).step is Step.FILTER
    ledger.close()


def test_an_older_process_goes_on_beside_a_ledger_that_was_brought_up(empty_url: str):
    old_ledger(empty_url, some_studies)
    old = tables_of(empty_url)
    migrate(empty_url)
    engine, run, event = open_engine(empty_url), old.tables["run"], old.tables["event"]
    with engine.begin() as connection:  # what a program of then reads and writes
        done = connection.execute(select(run).where(run.c.state == "done")).mappings().one()
        theirs = dict(done) | {"id": "theirs", "state": "queued", "step": "filter", "due_at": 0}
        connection.execute(run.insert(), theirs | {"created_at": time.time()})
        connection.execute(event.insert(), {
            "at": time.time(), "study_uid": "1.2.3.1", "run_id": "theirs", "kind": "run.created",
            "message": "by the version before",
        })  # fmt: skip
    engine.dispose()
    ledger = Ledger(empty_url)
    claimed = ledger.runs.claim("theirs", Step.FILTER, "new", 10)
    assert claimed is not None
    assert ledger.studies.detail("1.2.3.1") is not None
    ledger.close()


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(empty_url: str):
    migrate(empty_url)
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"LEDGER_URL: .* 9999 by a newer version .*that version"):
        migrate(empty_url)
    with engine.connect() as connection:
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
        )
    engine.dispose()


@pytest.mark.parametrize(
    "command",
    [
        ["pacsor_tasks.admin"],
        ["celery", "-q", "-A", "pacsor_tasks", "worker", "-Q", "control", "-c", "1"],
    ],
    ids=["admin", "worker"],
)
def test_a_process_that_meets_a_newer_ledger_says_so_and_ends(tmp_path: Path, command: list[str]):
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    migrate(url)
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}
        | {"DATA_DIR": str(tmp_path), "API_URL": "http://127.0.0.1:1", "TOKEN": "t",
           "PACS_IP": "127.0.0.1", "PACS_PORT": "104", "PACS_AET": "PACS",
           "BROKER_URL": "redis://127.0.0.1:1/0"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "9999 by a newer version" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_migration_that_was_cut_off_begins_where_it_stopped(empty_url: str):
    old_ledger(empty_url, some_studies, "0003")
    migrate_to(empty_url, "0004")
    migrate(empty_url)
    assert len(rows_of(empty_url)["run"]) == 2


@pytest.mark.timeout(180)
def test_a_gateway_goes_on_where_the_older_one_stopped(empty_url: str, tmp_path: Path):
    left = leave(tmp_path / "data", lasting_url(empty_url, tmp_path))
    with MilvueSimulator(token="key") as api, PacsSimulator() as pacs, RisSimulator() as ris:
        environment = {
            "API_URL": api.url, "TOKEN": "key", "DESTINATIONS": "storescu,hl7",
            "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris.port),
            "POLL_INTERVAL": "0.5", "LEDGER_URL": lasting_url(empty_url, tmp_path),
        }  # fmt: skip
        with gateway(tmp_path, environment) as up:
            for study_uid in (left.uploading, left.unrecorded, left.incoming):
                study = up.ended(study_uid)
                delivered = [d["state"] for r in study["runs"] for d in r["deliveries"]]
                assert delivered == ["delivered"] * 2, study
            shown = {
                name: up.ended(getattr(left, name))["runs"][0]["state"]
                for name in ("done", "quarantined", "filtered", "failed")
            }
            assert shown == {
                "done": "done", "quarantined": "failed", "filtered": "filtered", "failed": "failed",
            }  # fmt: skip
            answer = requests.post(f"{up.url}/relaunch/{left.uploading}", timeout=10)
            assert answer.status_code == 202, answer.text
            up.ended(left.uploading, runs=2)
        assert not list((tmp_path / "data/spool/tmp").glob("*.part"))
        for name in PACSOR_LEFTOVERS:
            assert (tmp_path / "data" / name).read_bytes() == b"PACSOR's\n"


def lasting_url(url: str, directory: Path) -> str:
    """The database; SQLite's where the gateway has it."""
    if url.startswith("sqlite"):
        return f"sqlite:///{directory / 'data' / 'ledger.sqlite3'}"
    return url

"""`pacsor status` of what is being received, and `pacsor complete`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.errors import NotFound
from pacsor_tasks.spool import Spool
from tests.support.ledger_seed import Clock, Seed, new_ledger
from tests.support.spools import Site, open_site

UID, KNOWN = "1.2.3", "1.2.4"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name, value in {
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x", "PACS_IP": "127.0.0.1", "PACS_PORT": "104",
        "PACS_AET": "PACS", "DATA_DIR": str(tmp_path), "STUDY_QUIET_SECONDS": "30",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    ledger = new_ledger(tmp_path, Clock())
    Seed(ledger).done(KNOWN)
    ledger.close()
    with open_site(Spool(tmp_path / "spool")) as made:
        yield made


def pacsor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_the_list_begins_with_what_is_being_received(site: Site) -> None:
    site.receive(UID, 2)
    said = pacsor("status").output
    assert f"{UID}: receiving, 2 instances, last " in said
    assert "an association that sent instances is open, at the latest " in said
    assert said.index(UID) < said.index(KNOWN)
    assert UID not in pacsor("status", "--state", "done").output


def test_one_study_is_shown_from_the_spool_and_the_ledger(site: Site) -> None:
    site.received(UID)
    said = pacsor("status", UID).output
    assert "settling, 1 instance, last" in said
    assert "30 s without another instance, due " in said
    site.received(KNOWN)
    site.close(KNOWN)
    said = pacsor("status", KNOWN).output
    assert "waiting for a worker: pacsor.ingest is not done yet since " in said
    assert "delivery.delivered hl7  1 message\n" in said


def test_json_carries_both(site: Site) -> None:
    site.received(UID)
    listed = json.loads(pacsor("status", "--json").output)
    assert [a["study_instance_uid"] for a in listed["receiving"]] == [UID]
    assert [s["study_instance_uid"] for s in listed["studies"]] == [KNOWN]
    one = json.loads(pacsor("status", "--json", UID).output)
    assert (one["study_instance_uid"], len(one["receiving"])) == (UID, 1)


def test_completing_asks_for_it_and_refuses_what_is_not_there(site: Site) -> None:
    assert isinstance(pacsor("complete", UID).exception, NotFound)
    site.received(UID)
    assert pacsor("complete", UID).exit_code == 0
    assert "requested: closing" in pacsor("status", UID).output

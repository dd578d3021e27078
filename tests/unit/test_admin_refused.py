"""Refused associations where the operator sees them: page, API, metrics, health, `status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pacsor_tasks.admin import probes
from pacsor_tasks.admin.metrics import registry
from pacsor_tasks.cli.receiving import print_refused
from pacsor_tasks.disk import MARK
from pacsor_tasks.refusals import Reason, Refusal, Refusals, read
from pacsor_tasks.settings import load
from pacsor_tasks.spool import Spool
from tests.support.admin import HTML, Admin, new_admin
from tests.support.receivers import settings_for


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    refusals = Refusals(made.spool.root)
    for _ in range(3):
        refusals.add(
            Refusal(
                address="10.0.0.9",
                reason=Reason.CALLING_AET,
                calling_aet="<b>X</b>",
                called_aet="MILVUE",
            )
        )
    refusals.add(Refusal(address="10.0.0.8", reason=Reason.TLS, detail="no shared cipher"))
    refusals.flush()
    yield replace(made, deps=replace(made.deps, refused=lambda: read(made.spool.root)))
    made.ledger.close()


def test_the_page_says_who_why_and_how_often(admin: Admin) -> None:
    page = admin.client().get("/refused", headers=HTML)
    assert page.status_code == 200
    assert "&lt;b&gt;X&lt;/b&gt;" in page.text
    assert "<b>X</b>" not in page.text
    assert "the calling AE title is not in the allow list" in page.text
    assert "no shared cipher" in page.text


def test_without_refusals_the_page_says_so(tmp_path: Path) -> None:
    made = new_admin(tmp_path)
    assert "Nobody was refused" in made.client().get("/refused", headers=HTML).text
    made.ledger.close()


def test_programs_get_the_same(admin: Admin) -> None:
    found = admin.client().get("/api/refused").json()
    assert found["totals"] == {"calling_aet": 3, "tls": 1}
    assert {(kind["address"], kind["count"]) for kind in found["refused"]} == {
        ("10.0.0.9", 3), ("10.0.0.8", 1),
    }  # fmt: skip


def test_each_reason_is_a_counter(admin: Admin) -> None:
    name = "pacsor_associations_rejected_total"
    metrics = registry(admin.deps)
    assert metrics.get_sample_value(name, {"reason": "calling_aet"}) == 3
    assert metrics.get_sample_value(name, {"reason": "disk_full"}) == 0


def test_a_disk_too_full_to_receive_is_down(tmp_path: Path) -> None:
    assert probes.disk(tmp_path, reserve_bytes=1).ok
    (tmp_path / MARK).touch()
    found = probes.disk(tmp_path, reserve_bytes=1)
    assert not found.ok
    assert found.detail.startswith("too full to receive: ")


def test_status_lists_the_latest(tmp_path: Path) -> None:
    settings = load(settings_for(tmp_path), None)
    spool = Spool(settings.spool_dir)
    settings.DATA_DIR.mkdir()
    spool.prepare()
    console = Console(record=True, width=200)
    print_refused(console, settings)
    assert console.export_text() == ""
    refusals = Refusals(spool.root)
    for n in range(12):
        refusals.add(
            Refusal(address="10.0.0.9", reason=Reason.TOO_MANY, calling_aet=f"CT{n}", detail="[b]")
        )
    refusals.flush()
    print_refused(console, settings)
    text = console.export_text()
    assert "CT3 at 10.0.0.9: too many associations at once ([b]), 1 time, last" in text
    assert "2 more on the page" in text

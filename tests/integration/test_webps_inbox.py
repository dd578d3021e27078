"""The inbox of received reports: one that cannot be used stops no other one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from pacsor_tasks.errors import LedgerUnavailable
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger import schema as t
from pacsor_tasks.ledger.reports import NewReport
from pacsor_tasks.spool import Spool
from pacsor_tasks.webps.inbox import Inbox
from tests.support.webps import message

UID = "1.2.840.99.7"
GOOD = message(UID, 2)
OURS = f"{uuid.UUID(int=1)}.json"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool with nothing in it."""
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


@pytest.fixture
def inbox(spool: Spool, ledger: Ledger) -> Inbox:
    """An inbox with nothing in it."""
    return Inbox(spool, ledger, ["hl7"])


def waiting(spool: Spool) -> list[Path]:
    return list((spool.root / "reports").iterdir())


def kept_aside(spool: Spool) -> list[Path]:
    return list((spool.root / "quarantine" / "webps").glob("*"))


def refusals(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.reports.read() as c:
        query = select(t.event.c.peer, t.event.c.message).where(t.event.c.kind == "report.refused")
        return [(peer, said) for peer, said in c.execute(query)]


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    "odd",
    [
        message(UID, format=["html"]),
        message(UID, format={}),
        message(UID, report={"title": "LEGRAND", "format": []}),
        message(UID, report=nested(990)),
        message(UID, study={"StudyInstanceUID": nested(990)}),
        b"\xff\xfe LEGRAND",
        None,
    ],
)
def test_what_cannot_be_used_is_kept_aside_and_the_next_is_recorded(
    inbox: Inbox, spool: Spool, ledger: Ledger, odd: object
):
    inbox.put("radio-a", odd)
    inbox.put("radio-a", GOOD)
    with capture_logs() as said:
        assert inbox.record_all() == 1
    assert waiting(spool) == []
    (kept,) = kept_aside(spool)
    ((peer, why),) = refusals(ledger)
    assert peer == "provider radio-a"
    assert why.endswith(f"(kept in quarantine/webps/{kept.name})")
    assert "LEGRAND" not in why
    assert "LEGRAND" not in str(said)
    assert inbox.record_all() == 0


@pytest.mark.parametrize("html", ["<![foo[ x", "<p>a</p><![x]]>", f"&#{'9' * 5000};"])
def test_html_that_is_none_is_recorded(inbox: Inbox, spool: Spool, html: str):
    inbox.put("radio-a", message(UID, format="html", report={"title": html}))
    assert inbox.record_all() == 1
    assert kept_aside(spool) == []


def test_a_message_in_bytes_is_recorded(inbox: Inbox):
    inbox.put("radio-a", json.dumps(GOOD).encode())
    inbox.put("radio-a", json.dumps(GOOD))
    assert inbox.record_all() == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (OURS, b'{"provider": "radio-a", "data": {"id"'),
        (OURS, b""),
        (OURS, b"[]"),
        (OURS, b"[" * 100_000),
        (OURS, b'{"provider": "a\\u0000", "data": {}}'),
        (OURS, b'{"provider": ["a"], "data": {}}'),
        ("not ours.json", json.dumps({"provider": "unknown", "data": GOOD}).encode()),
    ],
)
def test_a_file_that_is_no_message_stops_no_other(
    inbox: Inbox, spool: Spool, ledger: Ledger, name: str, content: bytes
):
    (spool.root / "reports" / name).write_bytes(content)
    inbox.put("radio-a", GOOD)
    assert inbox.record_all() == 1
    assert [path.name for path in kept_aside(spool)] == [name]
    assert [named for named, _ in refusals(ledger)] == ["provider unknown"]


def test_a_file_that_cannot_be_read_waits_alone(inbox: Inbox, spool: Spool, ledger: Ledger):
    (spool.root / "reports" / "directory.json").mkdir()
    (spool.root / "reports" / "nowhere.json").symlink_to("gone")
    inbox.put("radio-a", GOOD)
    with pytest.raises(OSError, match="directory"):
        inbox.record_all()
    assert {path.name for path in waiting(spool)} == {"directory.json", "nowhere.json"}
    assert len(ledger.deliveries.due(stale_s=0, limit=10)) == 1


class Failing:
    """A ledger that records nothing."""

    def __init__(self, exc: Exception) -> None:
        self.reports = self
        self.refusals: list[tuple[str, str]] = []
        self._exc = exc

    def knows(self, run_id: str) -> bool:
        return False

    def add(self, new: NewReport, destinations: object) -> bool:
        raise self._exc

    def refused(self, provider: str, why: str, kept: str) -> None:
        self.refusals.append((provider, why))


def test_what_nobody_thought_of_is_kept_aside_without_its_words(spool: Spool):
    ledger = Failing(KeyError("LEGRAND"))
    inbox = Inbox(spool, ledger, ["hl7"])  # type: ignore[arg-type] # a fake port
    inbox.put("radio-a", GOOD)
    assert inbox.record_all() == 0
    assert ledger.refusals == [
        ("radio-a", "a provider's report: it cannot be used (KeyError)"),
    ]
    assert len(kept_aside(spool)) == 1


def test_a_report_waits_for_a_ledger_that_is_away(spool: Spool):
    inbox = Inbox(spool, Failing(LedgerUnavailable("away")), ["hl7"])  # type: ignore[arg-type]
    inbox.put("radio-a", GOOD)
    with pytest.raises(LedgerUnavailable):
        inbox.record_all()
    assert len(waiting(spool)) == 1


def test_a_part_that_is_not_shown_is_told(inbox: Inbox):
    html = {"title": "Hand", "conclusion": "<p>a</p><script>LEGRAND"}
    inbox.put("radio-a", message(UID, format="html", report=html))
    with capture_logs() as said:
        assert inbox.record_all() == 1
    (line,) = (entry for entry in said if entry["event"] == "report.unshown")
    assert line["parts"] == ["conclusion"]
    assert "LEGRAND" not in str(said)

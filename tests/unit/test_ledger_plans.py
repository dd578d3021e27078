"""The questions asked every second, and by every page, do not walk through whole tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from pacsor_tasks.ledger import Bounds, Ledger
from pacsor_tasks.ledger.reports import NewReport
from pacsor_tasks.models import DeliveryState, PeerKind, PeerName, RunState, Step
from tests.support.ledgers import STUDY, TARGET, add_run

PACS, CORE = PeerName(PeerKind.DESTINATION, "storescu"), PeerName(PeerKind.CORE, "core")


def forgotten(ledger: Ledger, run_id: str) -> None:
    ledger.runs.cancel(run_id, "test")
    for revision in ledger.retention.removable(-1):
        assert ledger.retention.removed(revision)
    assert ledger.forgetting.old(-1) == [STUDY]
    assert ledger.forgetting.forget(STUDY, -1)


ASKED: dict[str, Callable[[Ledger, str], Any]] = {
    "runs.due": lambda ledger, _: ledger.runs.due(stale_s=10, limit=9),
    "runs.due of a core": lambda ledger, _: ledger.runs.due(
        stale_s=10, limit=9, core="core", is_asking=True
    ),
    "runs.cores": lambda ledger, _: ledger.runs.cores(),
    "runs.watch": lambda ledger, _: ledger.runs.watch(),
    "runs.claim": lambda ledger, run_id: ledger.runs.claim(run_id, Step.FILTER, "w", 9),
    "runs.settle": lambda ledger, run_id: ledger.runs.settle(run_id),
    "runs.already_uploaded": lambda ledger, _: ledger.runs.already_uploaded("core", ["1.2"]),
    "deliveries.due": lambda ledger, _: ledger.deliveries.due(stale_s=10, limit=9),
    "deliveries.claim": lambda ledger, run_id: ledger.deliveries.claim(f"{run_id}:hl7", "w", 9),
    "deliveries.due of one": lambda ledger, _: ledger.deliveries.due(
        stale_s=10, limit=9, destination="hl7"
    ),
    "peers.destinations": lambda ledger, _: ledger.peers.destinations(),
    "peers.free_slots": lambda ledger, _: ledger.peers.free_slots(PACS, 2),
    "deliveries.claim a slot": lambda ledger, run_id: ledger.deliveries.claim(
        f"{run_id}:hl7", "w", 9, Bounds(slots=2)
    ),
    "peers.pause": lambda ledger, _: ledger.peers.pause(PACS, "ada", ""),
    "peers.hold_due of a destination": lambda ledger, _: held_due(ledger, PACS),
    "peers.hold_due of a core": lambda ledger, _: held_due(ledger, CORE),
    "peers.answered": lambda ledger, _: (
        ledger.peers.failed(CORE, "refused", 10),
        ledger.peers.answered(CORE),
    ),
    "peers.waiting": lambda ledger, _: ledger.peers.waiting([PACS, CORE]),
    "deliveries.of_run": lambda ledger, run_id: ledger.deliveries.of_run(run_id),
    "intake.knows": lambda ledger, _: ledger.intake.knows("t1"),
    "intake.relaunch": lambda ledger, _: ledger.intake.relaunch(STUDY, [TARGET]),
    "studies.page": lambda ledger, _: ledger.studies.page(),
    "studies.page of a state": lambda ledger, _: ledger.studies.page(state=RunState.FAILED),
    "studies.detail": lambda ledger, _: ledger.studies.detail(STUDY),
    "studies.touched_since": lambda ledger, _: ledger.studies.touched_since(1),
    "studies.oldest": lambda ledger, _: ledger.studies.oldest_unfinished_at(),
    "forgetting.forget": forgotten,
    "retention.tokens": lambda ledger, _: ledger.retention.tokens(["t1"]),
}
#: Pages walk studies in the order shown and stop at their limit; the peers are a handful.
SHORT = ("USING INDEX ix_study_updated_at", "SCAN peer")


def is_short(step: str) -> bool:
    return any(part in step for part in SHORT)


def held_due(ledger: Ledger, peer: PeerName) -> None:
    ledger.peers.failed(peer, "refused", 10)
    ledger.peers.hold_due(1000)


@pytest.mark.parametrize("name", ASKED)
def test_it_is_found_by_an_index(sqlite_ledger: Ledger, name: str):
    run = add_run(sqlite_ledger)
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            statements.append((statement, parameters))

    event.listen(sqlite_ledger.engine, "before_cursor_execute", note)
    ASKED[name](sqlite_ledger, run.id)
    event.remove(sqlite_ledger.engine, "before_cursor_execute", note)
    assert statements
    with sqlite_ledger.engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            walked = [row[-1] for row in plan if row[-1].startswith("SCAN")]
            assert [step for step in walked if not is_short(step)] == [], statement


def test_a_page_of_one_state_looks_only_at_the_runs_of_each_study(sqlite_ledger: Ledger):
    statements: list[tuple[str, Any]] = []
    event.listen(
        sqlite_ledger.engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, parameters, *_: statements.append((statement, parameters)),
    )
    sqlite_ledger.studies.page(state=RunState.DONE)
    page = next(s for s in statements if "FROM study" in s[0])
    with sqlite_ledger.engine.connect() as connection:
        plan = list(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {page[0]}", page[1]))
    assert any("ix_run_study_uid_state (study_uid=? AND state=?)" in row[-1] for row in plan)


def test_a_sweep_asks_no_more_for_all_the_reports_ever_received(sqlite_ledger: Ledger):
    for number in range(30):
        made = NewReport(run_id=f"{number:08}-r", study_uid=f"1.2.{number}", provider="radio-a")
        sqlite_ledger.reports.add(made, ["hl7"])
        delivery = sqlite_ledger.deliveries.claim(f"{made.run_id}:hl7", "w", 10)
        assert delivery is not None
        sqlite_ledger.deliveries.finish(delivery, DeliveryState.DELIVERED, "")
        assert sqlite_ledger.runs.settle(made.run_id)
        run = sqlite_ledger.runs.claim(made.run_id, Step.CLEANUP, "w", 10)
        assert run is not None
        sqlite_ledger.runs.advance(run, Step.END)
    add_run(sqlite_ledger)
    assert sqlite_ledger.runs.cores() == ["core"]

"""What outlives a power cut: all that was done outside, and nothing that would only cost time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from pacsor_tasks.ledger import Answer, Ledger
from pacsor_tasks.models import DeliveryState, InstanceOutcome, Run, Step
from tests.support.ledgers import add_results, add_run, bring_to

FULL, NORMAL = 2, 1


def synchronous(ledger: Ledger, *, lasting: bool) -> int:
    with ledger.runs.write(lasting=lasting) as c:
        return int(c.exec_driver_sql("PRAGMA synchronous").scalar_one())


def test_a_connection_that_was_lax_is_strict_again_for_what_must_last(sqlite_ledger: Ledger):
    found = [synchronous(sqlite_ledger, lasting=lasting) for lasting in (True, False, True)]
    assert found == [FULL, NORMAL, FULL]


def written(ledger: Ledger, action: Callable[[], Any]) -> set[int]:
    """With which durability the action's statements ran."""
    found = set()

    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE")):
            dbapi = connection.connection.dbapi_connection
            found.add(dbapi.execute("PRAGMA synchronous").fetchone()[0])

    event.listen(ledger.engine, "before_cursor_execute", note)
    action()
    event.remove(ledger.engine, "before_cursor_execute", note)
    return found


def uploaded(ledger: Ledger) -> Callable[[], Any]:
    run = bring_to(ledger, add_run(ledger), Step.UPLOAD)
    instances = ledger.runs.instances(run.id, list(InstanceOutcome))
    return lambda: ledger.runs.record_uploaded(run, instances)


def answered(ledger: Ledger) -> Callable[[], Any]:
    run = at_deliver(ledger)
    delivery = ledger.deliveries.claim(f"{run.id}:storescu", "w", 9)
    assert delivery is not None
    answers = [
        Answer(result.id, 0, "Success", True) for result in ledger.deliveries.unsent(delivery)
    ]
    return lambda: ledger.deliveries.record_answers(delivery, answers)


def delivered(ledger: Ledger) -> Callable[[], Any]:
    run = at_deliver(ledger)
    delivery = ledger.deliveries.claim(f"{run.id}:hl7", "w", 9)
    assert delivery is not None
    return lambda: ledger.deliveries.finish(delivery, DeliveryState.DELIVERED, "acknowledged")


def numbered(ledger: Ledger) -> Callable[[], Any]:
    run = at_deliver(ledger)
    return lambda: ledger.deliveries.keep_control_id(f"{run.id}:hl7", "20260102030405000001")


def claimed(ledger: Ledger) -> Callable[[], Any]:
    run = add_run(ledger)
    return lambda: ledger.runs.claim(run.id, Step.FILTER, "w", 9)


def moved(ledger: Ledger) -> Callable[[], Any]:
    run = add_run(ledger)
    held = ledger.runs.claim(run.id, Step.FILTER, "w", 9)
    assert held is not None
    return lambda: ledger.runs.advance(held, Step.UPLOAD, ("filter.done", "all pass"))


def at_deliver(ledger: Ledger) -> Run:
    run = bring_to(ledger, add_run(ledger), Step.DELIVER)
    add_results(ledger, run)
    return run


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(uploaded, FULL, id="else it would be uploaded a second time"),
        pytest.param(answered, FULL, id="else it would be stored a second time"),
        pytest.param(delivered, FULL, id="else the message would be sent a second time"),
        pytest.param(numbered, FULL, id="else a retry would have another MSH-10"),
        pytest.param(claimed, NORMAL, id="with the power the worker went as well"),
        pytest.param(moved, NORMAL, id="the step is done again and finds nothing to do"),
    ],
)
def test_what_was_done_outside_is_written_through(
    sqlite_ledger: Ledger, made: Callable[[Ledger], Callable[[], Any]], expected: int
):
    assert written(sqlite_ledger, made(sqlite_ledger)) == {expected}

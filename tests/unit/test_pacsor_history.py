"""What PACSOR's versions changed or broke: the page that names a test for each, and what no other
file tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import structlog

from pacsor_tasks import guard
from pacsor_tasks.errors import Rejected
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import Delivery, DeliveryState, Step
from pacsor_tasks.outcomes import Ended, RetryPolicy
from tests.support.ledgers import add_run, bring_to

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrating-from-pacsor.md").read_text()
NAMED = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(\w+)`", PAGE)
VERSIONS = ["2.4.0", "2.5.0", "2.5.1", "2.5.2", "2.6.0", "2.6.1", "2.7.0", "2.8.0", "2.9.0",
            "2.10.0", "2.10.1", "2.10.2", "2.11.0"]  # fmt: skip


@cache
def names_of_tests(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    functions = (node for node in ast.walk(ast.parse(path.read_text())))
    return frozenset(n.name for n in functions if isinstance(n, ast.FunctionDef))


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_a_test_that_the_page_names_is_there(file: str, test: str):
    assert test.startswith("test_")
    assert test in names_of_tests(file), f"{file} has no {test}"


def test_every_version_is_on_the_page_and_every_row_has_a_test():
    rows = re.findall(r"^\| (2\.[^|]*?) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE)
    assert [what for _, what, tests in rows if "::" not in tests] == []
    named = {version for versions, _, _ in rows for version in re.findall(r"2\.\d+\.\d+", versions)}
    assert sorted(named) == sorted(VERSIONS)


@pytest.mark.parametrize(
    ("outcome", "state", "error"),
    [
        (Ended(DeliveryState.DELIVERED, "2 instances"), "delivered", None),
        (Rejected("AR: unknown patient class"), "quarantined", "AR: unknown patient class"),
    ],
)
def test_the_end_of_each_delivery_is_a_line_of_the_log_and_of_the_timeline(
    sqlite_ledger: Ledger, outcome: Ended | Rejected, state: str, error: str | None
):
    def action(_: Delivery) -> Ended:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    run = bring_to(sqlite_ledger, add_run(sqlite_ledger), Step.DELIVER)
    merge = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[merge]) as logs:
        guard.deliver(sqlite_ledger, RetryPolicy(horizon_s=1000), f"{run.id}:hl7", action)
    (line,) = [entry for entry in logs if entry["event"] == "delivery.ended"]
    assert (line["destination"], line["study_uid"]) == ("hl7", run.study_uid)
    assert (line["run_id"], line["state"], line["attempts"]) == (run.id, state, 1)
    delivery = sqlite_ledger.deliveries.get(f"{run.id}:hl7")
    assert delivery is not None
    assert (delivery.state, delivery.error) == (state, error)
    detail = sqlite_ledger.studies.detail(run.study_uid)
    assert detail is not None
    assert any(state in event["kind"] and "hl7" in str(event) for event in detail["events"])

"""A short chaos run on each ledger: `make chaos MINUTES=60 SEED=…` is the long one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.chaos.__main__ import table
from tests.chaos.harness import Plan, run
from tests.support.peers import require_program
from tests.support.postgres import postgres_bin

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(420),
    pytest.mark.xdist_group("gateway"),
]


@pytest.mark.parametrize(
    ("ledger", "seed", "minutes"), [("sqlite", 20260619, 0.75), ("postgresql", 20260620, 0.5)]
)
def test_nothing_is_lost_misplaced_or_stuck_whatever_breaks(
    tmp_path: Path, ledger: str, seed: int, minutes: float
):
    """CHAOS_SEED in the environment replaces the seed."""
    for program in ("storescp", "storescu", "redis-server"):
        require_program(program)
    if ledger == "postgresql" and postgres_bin() is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    plan = Plan(seed=int(os.environ.get("CHAOS_SEED", seed)), minutes=minutes, ledger=ledger,
                pause_s=2)  # fmt: skip
    report = run(plan, tmp_path / "site")
    (tmp_path / "report.json").write_text(json.dumps(report.to_json(), indent=1))
    assert not report.violations, table(report)
    assert report.counts["instances acknowledged"] > 0

"""SIGKILL under load, again and again. PACSOR_KILLS=500 for more of it, or
`python -m benchmarks.kill_receiver`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.kill_receiver import kill_test


def test_whatever_moment_the_receiver_is_killed_at_nothing_answered_is_lost(
    tmp_path: Path,
) -> None:
    n_kills = int(os.environ.get("PACSOR_KILLS", "20"))
    with kill_test(seed=n_kills, directory=tmp_path) as test:
        report = test.run(n_kills)
    assert report.n_kills == n_kills
    assert report.n_answered > n_kills
    assert report.n_partials > 0, "no kill met an instance on its way"


def test_the_receiver_as_it_is_started_in_earnest_is_killed(tmp_path: Path) -> None:
    with kill_test(seed=3, is_shipped=True, directory=tmp_path) as test:
        assert test.run(1).n_answered > 0

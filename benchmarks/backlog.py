"""What a backlog costs: studies that are received while the AI is away.

    python -m benchmarks.backlog [--studies 5000] [--write-docs]

A whole gateway whose AI does not answer; small studies come in as fast as they are taken, and stay.
After each part: memory of Redis and of the workers, the size of the ledger, and how long the
questions take that the sweep asks every second and a page asks when it is opened.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import docs
from benchmarks.pipeline_load import Load
from benchmarks.pipeline_stage import Stage, require_peers, stage
from pacsor_tasks.ledger import Ledger
from tests.support.net import free_port

QUEUES = ("ingest", "transfer", "deliver", "control")
PARTS = 5
#: With a backlog Redis holds at the most so much more than its queues, bytes.
MOST_REDIS_BYTES = 3_000_000
#: No question of the sweep takes longer, milliseconds.
MOST_MS = 50.0
N_ASKED = 5


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    require_peers()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="backlog-") as root:
        settings = {"STUDY_QUIET_SECONDS": "1", "API_URL": f"http://127.0.0.1:{free_port()}"}
        with stage(Path(root), settings) as running:
            load = Load(running.gateway.port, Path(root), 2, kilobytes=10)
            rows = [_look(running, 0)]
            for part in range(1, PARTS + 1):
                n = options.studies * part // PARTS
                load.start(n - len(load.answered), 0, lambda: options.studies).join()
                _until_in_ledger(running, n)
                rows.append(_look(running, n))
                print(f"{n} studies wait", file=sys.stderr)
    text, checks = _report(rows)
    print(text)
    print("\n".join(checks))
    if options.write_docs:
        docs.write("backlog", text)


def _until_in_ledger(running: Stage, n: int) -> None:
    """Every study has its run, and the queues are empty: what there was to try was tried."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with running.ledger() as ledger, running.redis() as client:
            (runs,) = ledger.execute("SELECT count(*) FROM run").fetchone()
            if runs >= n and not any(client.llen(queue) for queue in QUEUES):
                return
        time.sleep(1)
    raise TimeoutError(f"{runs} of {n} runs")


def _look(running: Stage, n: int) -> dict[str, Any]:
    with running.redis() as client:
        redis_bytes, n_keys = client.info("memory")["used_memory"], client.dbsize()
        queued = sum(int(client.llen(queue)) for queue in QUEUES)
    resident = running.resident_bytes()
    return {
        "n": n, "redis_bytes": redis_bytes, "keys": n_keys, "queued": queued,
        "ledger_bytes": running.ledger_bytes(), "receiver": resident.get("receiver", 0),
        "worker": sum(size for role, size in resident.items() if role.startswith("worker")),
        "ms": _asked(running),
    }  # fmt: skip


def _asked(running: Stage) -> Mapping[str, float]:
    """Milliseconds of each question, the best of a few."""
    path = running.gateway.directory / "data" / "ledger.sqlite3"
    ledger = Ledger(f"sqlite:///{path}")
    questions: dict[str, Callable[[], object]] = {
        "runs due": lambda: ledger.runs.due(stale_s=math.inf, limit=500),
        "deliveries due": lambda: ledger.deliveries.due(stale_s=math.inf, limit=500),
        "hold": lambda: ledger.peers.hold_due(math.inf),
        "page": ledger.studies.page,
        "totals": ledger.studies.totals,
    }
    try:
        return {name: min(_ms(ask) for _ in range(N_ASKED)) for name, ask in questions.items()}
    finally:
        ledger.close()


def _ms(ask: Callable[[], object]) -> float:
    started = time.perf_counter()
    ask()
    return 1000 * (time.perf_counter() - started)


def _report(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    questions = list(rows[0]["ms"])
    lines = [
        f"| {r['n']:,} | {r['redis_bytes'] / 1e6:.1f} | {r['keys']} | {r['queued']}"
        f" | {r['ledger_bytes'] / 1e6:.1f} | {r['worker'] / 1e6:.0f}"
        f" | {r['receiver'] / 1e6:.0f} | " + " | ".join(f"{r['ms'][q]:.1f}" for q in questions)
        + " |"
        for r in rows
    ]  # fmt: skip
    head = (
        "| studies that wait | Redis MB | Redis keys | queued messages | ledger MB | workers MB"
        " | receiver MB | " + " | ".join(f"{q} ms" for q in questions) + " |\n"
        "|" + "---|" * (7 + len(questions))
    )
    grown = rows[-1]["redis_bytes"] - rows[0]["redis_bytes"]
    slowest = max(rows[-1]["ms"][q] for q in questions[:3])
    return head + "\n" + "\n".join(lines), [
        f"{'PASS' if grown <= MOST_REDIS_BYTES else 'MISS'}  Redis grew by {grown / 1e6:.1f} MB"
        f" (at most {MOST_REDIS_BYTES / 1e6:.0f})",
        f"{'PASS' if slowest <= MOST_MS else 'MISS'}  the sweep's slowest question: {slowest:.1f}"
        f" ms (at most {MOST_MS:.0f})",
    ]


if __name__ == "__main__":
    main()

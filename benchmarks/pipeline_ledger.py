"""One study after the other through every task in one process: what the ledger is asked.

    python -m benchmarks.pipeline_ledger N [--profile FILE]

With the settings of the environment; the peers must be there, workers and beat need not. Prints one
line of JSON: statements, writes and reads (transactions) per study, and the statements by their
beginnings.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import shutil
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import event

from pacsor_tasks import tasks, wiring
from pacsor_tasks.app import app
from pacsor_tasks.ledger import migrate
from pacsor_tasks.ports import Ports
from pacsor_tasks.settings import load
from pacsor_tasks.spool import Manifest
from tests.support.studies import make_study, study_uid_of

WARM = 3
#: Rows and columns of an instance: 1 MB.
SIDE = 724


def main() -> None:
    """Run the studies and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int)
    parser.add_argument("--profile", type=Path, help="gets what cProfile saw")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    migrate(load().ledger_url)
    app.conf.task_always_eager = True
    ports = wiring.ports()
    ready = [_received(ports, n) for n in range(WARM + options.n)]
    for study_uid, paths in ready[:WARM]:
        tasks.ingest.apply(args=(study_uid, paths))
    counted = _Counted(ports)
    profile = cProfile.Profile(time.process_time) if options.profile else None
    started, cpu = time.perf_counter(), time.process_time()
    with profile or nullcontext():
        for study_uid, paths in ready[WARM:]:
            tasks.ingest.apply(args=(study_uid, paths))
    if profile is not None:
        profile.dump_stats(options.profile)
    said = counted.per_study(options.n)
    said["seconds"] = (time.perf_counter() - started) / options.n
    said["cpu_s"] = (time.process_time() - cpu) / options.n
    states = ports.ledger.studies.counts()["runs"]
    said["done"] = states["done"]
    print(json.dumps(said))


class _Counted:
    """Statements and transactions from now on."""

    def __init__(self, ports: Ports) -> None:
        self.statements: Counter[str] = Counter()
        self.transactions: Counter[str] = Counter()
        engine = ports.ledger.engine
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", lambda _: self.transactions.update(["writes"]))
        event.listen(engine, "rollback", lambda _: self.transactions.update(["reads"]))

    def _statement(self, _c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            table = next((w for w in statement.split() if w in TABLES), "")
            self.statements[f"{statement.split()[0]} {table}"] += 1

    def per_study(self, n: int) -> dict[str, Any]:
        """What was counted, by study."""
        return {
            "statements": sum(self.statements.values()) / n,
            "writes": self.transactions["writes"] / n,
            "reads": self.transactions["reads"] / n,
            "by_kind": {kind: count / n for kind, count in self.statements.most_common()},
        }


TABLES = {
    "study", "revision", "instance", "run", "run_instance", "upload", "command", "result",
    "delivery", "delivery_instance", "event", "peer",
}  # fmt: skip


def _received(ports: Ports, number: int) -> tuple[str, list[str]]:
    """A study as the receiver leaves it: in `ready/`, with its manifest."""
    scratch = ports.spool.root / f"made-{number}"
    files = make_study(scratch, 2, side=SIDE)
    study_uid, token = study_uid_of(files), f"t{number}"
    directory = ports.spool.revision_dir(study_uid, token)
    directory.parent.mkdir(parents=True)
    shutil.move(scratch, directory)
    told = Manifest(
        study_uid=study_uid, token=token, reason="quiet", first_at="2026-01-02T03:04:05Z",
        last_at="2026-01-02T03:04:06Z", n_instances=len(files), size_bytes=1,
    )  # fmt: skip
    (directory / "revision.json").write_text(told.to_json())
    return study_uid, ports.spool.instance_paths(study_uid, token)


if __name__ == "__main__":
    main()

"""Cleanup: the results were delivered; what was received stays for a relaunch."""

from __future__ import annotations

import math
import time
from itertools import islice
from pathlib import Path

from pacsor_tasks.models import Run
from pacsor_tasks.outcomes import Advance
from pacsor_tasks.ports import Ports


def cleanup(run: Run, ports: Ports) -> Advance:
    """Remove this run's results, and only this run's: another core's stay."""
    ports.spool.remove_results(run.id)
    elapsed_s = ports.ledger.clock() - run.created_at
    return Advance(("run.done", f"done in {elapsed_s:.1f} s"))


#: One pass ends after so long, seconds; the next one goes on.
PASS_S = 600.0
#: Results of a run that is not in the ledger stay so long, seconds.
UNKNOWN_S = 86400.0
#: Directories looked up in one query.
LOOKUP = 500


def apply_retention(ports: Ports) -> int:
    """Remove the pixels of studies finished longer ago than the retention says.

    Returns:
        How many revisions were removed.
    """
    _remove_leftover_results(ports)
    _remove_leftover_revisions(ports)
    _remove_old_messages(ports)
    deadline, removed = time.monotonic() + PASS_S, 0
    while removable := ports.ledger.retention.removable(ports.retention_s):
        for revision in removable:
            # Recorded first: what a crash in between leaves is a leftover of the next pass.
            if ports.ledger.retention.removed(revision):
                ports.spool.remove_revision(revision.study_uid, revision.token)
                removed += 1
            if time.monotonic() > deadline:
                return removed
    return removed


def forget_old(ports: Ports) -> int:
    """Remove studies from the ledger that are long over and whose pixels are gone.

    Returns:
        How many studies were forgotten.
    """
    age_s = ports.ledger_retention_s
    if math.isinf(age_s):
        return 0
    deadline, forgotten = time.monotonic() + PASS_S, 0
    ports.ledger.forgetting.forget_peer_events(age_s)
    while old := ports.ledger.forgetting.old(age_s):
        # A transaction each: nobody who works waits for more than one study's rows.
        gone = sum(ports.ledger.forgetting.forget(uid, age_s) for uid in old)
        forgotten += gone
        if not gone or time.monotonic() > deadline:
            break
    return forgotten


def _remove_leftover_revisions(ports: Ports) -> None:
    ready = ports.spool.all_ready()
    while batch := list(islice(ready, LOOKUP)):
        was_removed = ports.ledger.retention.tokens([token for _, token in batch])
        for study_uid, token in batch:
            if was_removed.get(token):
                ports.spool.remove_revision(study_uid, token)


def _remove_old_messages(ports: Ports) -> None:
    # Patient data like the pixels, so they go when those may.
    run_ids = ports.spool.old_messages(ports.ledger.clock() - ports.retention_s)
    for start in range(0, len(run_ids), LOOKUP):
        batch, retention = run_ids[start : start + LOOKUP], ports.ledger.retention
        for run_id in (*retention.disposable(batch), *retention.unknown(batch)):
            ports.spool.remove_messages(run_id)


def _remove_leftover_results(ports: Ports) -> None:
    # Runs that failed or were cancelled have no cleanup step of their own.
    results = ports.spool.root / "results"
    run_ids = [path.name for path in results.iterdir()]
    for start in range(0, len(run_ids), LOOKUP):
        batch, retention = run_ids[start : start + LOOKUP], ports.ledger.retention
        for run_id in retention.disposable(batch):
            ports.spool.remove_results(run_id)
        for run_id in retention.unknown(batch):
            # Linked for a relaunch that did not come about, if not a moment ago.
            if _age_s(results / run_id, ports) > UNKNOWN_S:
                ports.spool.remove_results(run_id)


def _age_s(path: Path, ports: Ports) -> float:
    try:
        return ports.ledger.clock() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0

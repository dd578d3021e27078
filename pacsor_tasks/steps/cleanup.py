"""Cleanup: the results were delivered; what was received stays for a relaunch."""

from __future__ import annotations

from pacsor_tasks.models import Run
from pacsor_tasks.outcomes import Advance
from pacsor_tasks.ports import Ports


def cleanup(run: Run, ports: Ports) -> Advance:
    """Remove this run's results, and only this run's: another core's stay."""
    ports.spool.remove_results(run.id)
    elapsed_s = ports.ledger.clock() - run.created_at
    return Advance(("run.done", f"done in {elapsed_s:.1f} s"))


def apply_retention(ports: Ports) -> int:
    """Remove the pixels of studies finished longer ago than the retention says.

    Returns:
        How many revisions were removed.
    """
    _remove_leftover_results(ports)
    removable = ports.ledger.retention.removable(ports.retention_s)
    for revision in removable:
        # Recorded first: a crash in between leaves files that the next pass over the spool finds.
        ports.ledger.retention.removed(revision)
        ports.spool.remove_revision(revision.study_uid, revision.token)
    return len(removable)


def _remove_leftover_results(ports: Ports) -> None:
    # Runs that failed or were cancelled have no cleanup step of their own.
    run_ids = [path.name for path in (ports.spool.root / "results").iterdir()]
    for start in range(0, len(run_ids), 500):
        for run_id in ports.ledger.retention.disposable(run_ids[start : start + 500]):
            ports.spool.remove_results(run_id)

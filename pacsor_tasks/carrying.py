"""Results on disk that a relaunch begins with: found, and linked for the run to come."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.ledger.relaunches import Carried, carried_path
from pacsor_tasks.ledger.starts import Holdings
from pacsor_tasks.ports import Ports
from pacsor_tasks.spool import fsync_dir


def are_held(there: Holdings, ports: Ports) -> bool:
    """Whether every result of the newest upload is on disk still."""
    return next(_holders(there, ports), None) is not None


def linked(there: Holdings, ports: Ports) -> Carried:
    """The results linked into the directory of a run to come, if some run holds them all.

    Before the ledger knows that run: what was taken over must not go with the older run's.

    Raises:
        PeerUnavailable: The spool cannot be written.
    """
    for results_of in _holders(there, ports):
        run_id = str(uuid.uuid4())
        try:
            _link_all(results_of, run_id, ports)
        except FileNotFoundError:  # removed a moment ago
            ports.spool.remove_results(run_id)
        except OSError as exc:
            ports.spool.remove_results(run_id)
            raise PeerUnavailable(f"the spool cannot be written: {exc.strerror}") from exc
        else:
            return Carried(there.downloaded, results_of, run_id)
    return Carried(there.downloaded)


def drop(carried: Iterable[Carried], run_ids: Sequence[str], ports: Ports) -> None:
    """Remove what was linked for runs that did not come about."""
    for one in carried:
        if one.run_id and one.run_id not in run_ids:
            ports.spool.remove_results(one.run_id)


def _holders(there: Holdings, ports: Ports) -> Iterator[str]:
    """The runs whose results are all on disk, the newest first.

    Those of an older download only when it brought what the newest did: were a command asked for
    since, or had one failed, a relaunch would silently deliver less.
    """
    brought = None
    for run_id in there.downloaded:
        outcomes = ports.ledger.deliveries.outcomes(run_id)
        told = {command: outcome for command, (outcome, _) in outcomes.items()}
        brought = told if brought is None else brought
        paths = ports.ledger.intake.result_paths(run_id)
        if told == brought and all(ports.file(path).is_file() for path in paths):
            yield run_id


def _link_all(results_of: str, run_id: str, ports: Ports) -> None:
    directories: set[Path] = set()
    for path in ports.ledger.intake.result_paths(results_of):
        target = ports.file(carried_path(path, results_of, run_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(ports.file(path), target)
        directories.add(target.parent)
    for directory in directories:
        fsync_dir(directory)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)

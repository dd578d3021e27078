"""Ingest: a stable directory of the outbox becomes a revision and one run per core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.errors import BadResponse, Permanent
from pacsor_tasks.ledger import NewInstance, NewRevision
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.ports import Ports


def ingest(study_uid: str, paths: Sequence[str], ports: Ports) -> list[str]:
    """Record a revision and its runs. Idempotent by the directory's token.

    Args:
        study_uid: StudyInstanceUID.
        paths: The instances, relative to the spool, all in one directory of `ready/`. None, when a
            study came again with nothing new: then whatever the outbox holds of it is recorded.
        ports: The process's ports.

    Returns:
        The ids of the revision's runs, for launching; none when it holds nothing new.

    Raises:
        Permanent: The paths are not those of one revision of this study.
    """
    if paths:
        return ingest_token(study_uid, _token(study_uid, paths), ports)
    waiting = [token for uid, token in ports.spool.outbox() if uid == study_uid]
    return [run_id for token in waiting for run_id in ingest_token(study_uid, token, ports)]


def ingest_token(study_uid: str, token: str, ports: Ports) -> list[str]:
    """As `ingest`, by the directory's token: what is on disk counts, not what a message says."""
    reason, notes = _told(study_uid, token, ports)
    new = NewRevision(
        study_uid=study_uid,
        token=token,
        reason=reason,
        instances=[
            _instance(study_uid, path, ports)
            for path in ports.spool.instance_paths(study_uid, token)
        ],
        notes=notes,
    )
    run_ids = ports.ledger.intake.add_revision(new, ports.targets)
    ports.spool.acknowledge(token)
    return run_ids


def _token(study_uid: str, paths: Sequence[str]) -> str:
    parents = {PurePosixPath(path).parent.parts for path in paths}
    if len(parents) != 1:
        raise Permanent(f"study {study_uid}: its {len(paths)} paths are not of one directory")
    parts = parents.pop()
    if len(parts) != 3 or parts[:2] != ("ready", study_uid):
        raise Permanent(f"study {study_uid}: {'/'.join(parts)} is not one of its revisions")
    return parts[2]


def _told(study_uid: str, token: str, ports: Ports) -> tuple[str, list[str]]:
    """Why the revision counted as stable, and what happened on the way."""
    try:
        manifest = ports.spool.manifest(study_uid, token)
    except Permanent as exc:
        # The instances are what counts: without its manifest the study must not be stuck for ever.
        return "unknown", [str(exc)]
    return manifest.reason, [_note(event) for event in manifest.events]


def _note(event: Mapping[str, Any]) -> str:
    kind = event.get("kind", "note")
    return f"{kind}: " + ", ".join(f"{k} {v}" for k, v in event.items() if k != "kind")


def _instance(study_uid: str, path: str, ports: Ports) -> NewInstance:
    file = ports.file(path)
    size = file.stat().st_size
    try:
        header = _header_of(study_uid, file)
    except BadResponse as exc:
        return NewInstance(
            sop_instance_uid=file.stem,
            sop_class_uid="",
            series_uid="",
            transfer_syntax_uid="",
            path=path,
            size_bytes=size,
            error=str(exc),
        )
    return NewInstance(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_uid=header.series_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=path,
        size_bytes=size,
    )


def _header_of(study_uid: str, file: Path) -> InstanceHeader:
    header = read_header(file)
    if header.study_uid != study_uid:
        raise BadResponse(f"its StudyInstanceUID is {header.study_uid}")
    return header

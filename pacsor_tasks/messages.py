"""A study's message to a RIS as it was sent, or as it would be: for an operator to look at.

It is a patient's: whoever shows it answers for who sees it, and nothing of it is logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pacsor_tasks.errors import ConfigError, NotFound, NotReady, PacsorError
from pacsor_tasks.hl7.example import example_message
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.models import InstanceOutcome, RunState
from pacsor_tasks.ports import Hl7Content, Ports
from pacsor_tasks.steps.compose import compose, composed, metadata_of, missing_identity

#: MSH-10 of a message that was not made to be sent.
PREVIEW_ID = "PREVIEW"
READABLE = (InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE, InstanceOutcome.PENDING)
#: Before these are over there is no prediction to ask for.
TOO_EARLY = frozenset({RunState.QUEUED, RunState.FILTERING, RunState.UPLOADING})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Shown:
    """A message and what became of it."""

    destination: str
    #: of the run it tells of; None for the example
    run_id: str | None
    #: these bytes were made to be sent, else they would be made now
    is_made: bool
    message: bytes
    #: what the RIS answered last, without frame
    answer: bytes | None
    #: the delivery as the API shows it
    delivery: Mapping[str, Any]
    #: what should be known of it
    notes: tuple[str, ...] = ()


def shown(study_uid: str, destination: str, ports: Ports, run_id: str | None = None) -> Shown:
    """The message of a study's latest run, or of one run, to a RIS.

    Raises:
        NotFound: No such study, run, delivery or HL7 destination; or its instances are gone.
        BadResponse: An instance cannot be read.
    """
    content = ports.hl7.get(destination)
    study = ports.ledger.studies.detail(study_uid)
    if study is None:
        raise NotFound(f"no study {study_uid}")
    for run in study["runs"]:
        delivery = next((d for d in run["deliveries"] if d["destination"] == destination), None)
        if delivery is not None and run_id in {None, run["id"]}:
            break
    else:
        raise NotFound(f"study {study_uid} has no message to {destination}")
    file = ports.spool.message_file(run["id"], destination)
    message, answer = _read(file), _read(file.with_suffix(".ack"))
    if message is not None:
        return Shown(
            destination=destination, run_id=run["id"], is_made=True, message=message,
            answer=answer, delivery=delivery,
        )  # fmt: skip
    if content is None:
        raise NotFound(f"{destination} is not a configured HL7 destination")
    made, notes = _would_be(run["id"], content, ports)
    return Shown(
        destination=destination, run_id=run["id"], is_made=False, message=made, answer=None,
        delivery=delivery, notes=notes,
    )  # fmt: skip


def example(destination: str, content: Hl7Content) -> Shown:
    """An invented study's message as a destination would get it."""
    now = datetime.now().astimezone()
    return Shown(
        destination=destination,
        run_id=None,
        is_made=False,
        message=example_message(content.options, control_id=PREVIEW_ID, at=now),
        answer=None,
        delivery={},
        notes=("an invented study, with a report",),
    )


def _would_be(run_id: str, content: Hl7Content, ports: Ports) -> tuple[bytes, tuple[str, ...]]:
    run = ports.ledger.runs.get(run_id)
    if run is None:
        raise NotFound(f"run {run_id} is not in the ledger")
    try:
        metadata = metadata_of(run_id, content, ports, READABLE)
    except ConfigError as exc:
        raise NotFound(str(exc)) from exc
    notes = _notes(metadata, content)
    if run.state in TOO_EARLY:
        why_not = "the study is not with the AI yet"
    else:
        try:
            return compose(run, content, PREVIEW_ID, lambda: 0.0, ports).message, tuple(notes)
        except NotReady:
            why_not = "the AI is not ready"
        except PacsorError as exc:
            why_not = str(exc)
    notes.append(f"without findings: {why_not}")
    return composed(metadata, content, PREVIEW_ID, "").message, tuple(notes)


def _notes(metadata: StudyMetadata, content: Hl7Content) -> list[str]:
    missing = ", ".join(missing_identity(metadata))
    notes = [f"the study has no {missing}"] if missing else []
    if missing and content.holds_incomplete:
        notes.append("it is held for that (HL7_INCOMPLETE_IDENTITY=hold)")
    if not content.is_enabled:
        notes.append("HL7 is switched off (ENABLE_HL7)")
    return notes


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None

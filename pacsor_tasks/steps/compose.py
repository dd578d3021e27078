"""What one run has to say to one RIS: the study's data, the AI's findings, and the message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pacsor_tasks.asides import Late
from pacsor_tasks.core_api import CommandForbidden, UnknownStudy
from pacsor_tasks.errors import ConfigError, NotReady
from pacsor_tasks.hl7.findings import inference_text
from pacsor_tasks.hl7.message import build_message
from pacsor_tasks.hl7.metadata import StudyMetadata, read_study_metadata
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.models import InstanceOutcome, PeerKind, PeerName, Run
from pacsor_tasks.ports import Hl7Content, Ports
from pacsor_tasks.steps.common import core_of
from pacsor_tasks.steps.report import metadata_of_received, received_report, report_for

#: What a RIS finds the patient and the order by.
IDENTITY = {"PatientID": "patient_id", "AccessionNumber": "accession_number"}


# No repr: the message is a patient's.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Composed:
    """A message and what is to be said of it."""

    message: bytes
    #: of IDENTITY, what the study's header does not say
    missing: tuple[str, ...]


def compose(
    run: Run, content: Hl7Content, control_id: str, waited_s: Callable[[], float], ports: Ports
) -> Composed:
    """Make the run's message.

    Args:
        run: Whose results it tells.
        content: Of the destination.
        control_id: MSH-10.
        waited_s: How long the message has waited for results that are still `running`.
        ports: Where things are.

    Raises:
        NotReady: They are worth waiting for.
        Retryable, Rejected, BadResponse: As the API client.
        ConfigError: No instance of the run is held.
    """
    if (received := received_report(run.id, ports)) is not None:
        metadata = metadata_of_received(received, content, ports)
        return composed(metadata, content, control_id, "", received.report)
    metadata = metadata_of(run.id, content, ports)
    inference = inference_text(
        _findings(run, content.detections_command, content, waited_s, ports),
        _findings(run, content.measures_command, content, waited_s, ports),
        content.language,
    )
    report = report_for(run, core_of(run, ports), content, waited_s, ports)
    return composed(metadata, content, control_id, inference, report)


def composed(
    metadata: StudyMetadata,
    content: Hl7Content,
    control_id: str,
    inference: str,
    report: Report | None = None,
) -> Composed:
    """Make a message of what is known."""
    message = build_message(
        metadata,
        content.options,
        control_id=control_id,
        at=datetime.now().astimezone(),
        inference=inference,
        report=report,
    )
    return Composed(message=message, missing=missing_identity(metadata))


def missing_identity(metadata: StudyMetadata) -> tuple[str, ...]:
    """What the RIS would look for and not find."""
    return tuple(name for name, field in IDENTITY.items() if not getattr(metadata, field))


def metadata_of(
    run_id: str,
    content: Hl7Content,
    ports: Ports,
    outcomes: Sequence[InstanceOutcome] = (InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE),
) -> StudyMetadata:
    """The study's data from the first instance that went to the AI, or is of these outcomes.

    Raises:
        ConfigError: None is held.
        BadResponse: It cannot be read.
    """
    if (received := received_report(run_id, ports)) is not None:
        return metadata_of_received(received, content, ports)
    sent = ports.ledger.runs.instances(run_id, outcomes)
    if not sent:
        raise ConfigError("no instance of the run is held to take the study's data from")
    return read_study_metadata(ports.file(sent[0].path), default_issuer=content.default_issuer)


def _findings(
    run: Run,
    command: str | None,
    content: Hl7Content,
    waited_s: Callable[[], float],
    ports: Ports,
) -> Mapping[str, Any] | None:
    core = core_of(run, ports)
    source = core.findings
    if command is None or source is None or command not in core.commands:
        return None
    try:
        # The core's own breaker: that the AI is away must not be held against the RIS.
        peer = PeerName(PeerKind.CORE, core.name)
        found = ports.asides.ask(
            str(peer),
            (run.id, command, content.language),
            lambda: ports.breaker.call(
                peer,
                lambda: source.findings(run.study_uid, command, content.language.lower()),
            ),
        )
    except Late:
        raise  # nobody said that there are none
    except (CommandForbidden, UnknownStudy):
        return None  # the message goes without them: contract §2.5
    except NotReady:
        if waited_s() < content.results_timeout_s:
            raise
        return None
    answer: Mapping[str, Any] = found.model_dump()
    return answer

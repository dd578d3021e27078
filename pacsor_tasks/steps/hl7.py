"""HL7: one ORU^R01 per run to one RIS, built once and sent until it is acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pacsor_tasks.errors import ConfigError, NotFound, NotReady
from pacsor_tasks.hl7 import ack, mllp
from pacsor_tasks.hl7.findings import inference_text
from pacsor_tasks.hl7.message import build_message, new_control_id
from pacsor_tasks.hl7.metadata import read_study_metadata
from pacsor_tasks.milvue.outcomes import CommandForbidden, UnknownStudy
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    InstanceOutcome,
    PeerKind,
    PeerName,
    Run,
)
from pacsor_tasks.outcomes import Ended, Wait
from pacsor_tasks.ports import Ports
from pacsor_tasks.spool import write_durably
from pacsor_tasks.steps.common import core_of, require_lease
from pacsor_tasks.steps.poll import pause_s


def send_message(delivery: Delivery, ports: Ports) -> Ended | Wait:
    """Send the run's message and match its acknowledgement.

    The bytes, MSH-10 and timestamp included, are made once and kept until delivered, so that the
    RIS can tell a repetition.

    Raises:
        Retryable, Rejected: As MLLP and the ACK say.
        ConfigError: The destination is no longer configured.
    """
    ris = ports.ris.get(delivery.destination)
    if ris is None:
        raise ConfigError(f"destination {delivery.destination} is not configured")
    file = ports.spool.results_dir(delivery.run_id, "hl7") / f"{delivery.destination}.hl7"
    control_id = ports.ledger.deliveries.keep_control_id(
        delivery.id, new_control_id(datetime.now().astimezone())
    )
    if not file.is_file():
        try:
            inference = _inference(delivery, ports)
        except NotReady:
            return Wait(pause_s(ports.poll, _waited_s(delivery, ports)), "the AI's JSON results")
        # Whole and lasting before it is sent: a retry must find the bytes the RIS may have.
        write_durably(file, _build(delivery, control_id, inference, ports))
    require_lease(delivery, ports)
    message = file.read_bytes()
    answer = ports.breaker.call(
        PeerName(PeerKind.DESTINATION, ris.name),
        lambda: mllp.exchange(ris.host, ris.port, message, timeout_s=ris.timeout_s),
    )
    accepted = ack.check(answer, control_id)
    ports.ledger.deliveries.record_sent(delivery.id)
    return Ended(DeliveryState.DELIVERED, f"message {control_id} acknowledged ({accepted.code})")


def _inference(delivery: Delivery, ports: Ports) -> str:
    run = _run(delivery, ports)
    detections = _findings(run, ports.hl7.detections_command, delivery, ports)
    measures = _findings(run, ports.hl7.measures_command, delivery, ports)
    return inference_text(detections, measures, ports.hl7.language)


def _findings(
    run: Run, command: str | None, delivery: Delivery, ports: Ports
) -> Mapping[str, Any] | None:
    core = core_of(run, ports)
    if command is None or command not in core.commands:
        return None
    try:
        # The core's own breaker: that the AI is away must not be held against the RIS.
        found = ports.breaker.call(
            PeerName(PeerKind.CORE, core.name),
            lambda: core.client.findings(run.study_uid, command, ports.hl7.language.lower()),
        )
    except (CommandForbidden, UnknownStudy):
        return None  # the message goes without them: contract §2.5
    except NotReady:
        if _waited_s(delivery, ports) < ports.hl7.results_timeout_s:
            raise
        return None
    content: Mapping[str, Any] = found.model_dump()
    return content


def _build(delivery: Delivery, control_id: str, inference: str, ports: Ports) -> bytes:
    sent = ports.ledger.runs.instances(
        delivery.run_id, [InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE]
    )
    if not sent:
        raise ConfigError("no instance of the run is held to take the study's data from")
    metadata = read_study_metadata(
        ports.file(sent[0].path), default_issuer=ports.hl7.default_issuer
    )
    return build_message(
        metadata,
        ports.hl7.options,
        control_id=control_id,
        at=datetime.now().astimezone(),
        inference=inference,
    )


def _run(delivery: Delivery, ports: Ports) -> Run:
    run = ports.ledger.runs.get(delivery.run_id)
    if run is None:
        raise NotFound(f"run {delivery.run_id} is not in the ledger")
    return run


def _waited_s(delivery: Delivery, ports: Ports) -> float:
    now = ports.ledger.clock()
    return now - (delivery.active_since or now)

"""HL7: one ORU^R01 per run to one RIS, built once and sent until it is acknowledged."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pacsor_tasks.errors import ConfigError, NotFound, NotReady, PacsorError
from pacsor_tasks.hl7.ack import Ack
from pacsor_tasks.hl7.message import new_control_id
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    PeerKind,
    PeerName,
    Run,
)
from pacsor_tasks.outcomes import Ended, Wait
from pacsor_tasks.ports import Hl7Content, Ports
from pacsor_tasks.spool import write_durably
from pacsor_tasks.steps.common import (
    images_first,
    nothing_to_tell,
    paced,
    require_lease,
    waited_s,
)
from pacsor_tasks.steps.compose import compose, metadata_of, missing_identity
from pacsor_tasks.steps.poll import pause_s

#: Of an answer, so much is kept to be shown.
KEPT_ANSWER_BYTES = 64 * 1024


def send_message(delivery: Delivery, ports: Ports) -> Ended | Wait:
    """Send the run's message and match its acknowledgement.

    The bytes, MSH-10 and timestamp included, are made once and kept until delivered, so that the
    RIS can tell a repetition.

    Raises:
        Retryable, Rejected: As MLLP and the ACK say.
        ConfigError: The destination is no longer configured.
    """
    content = ports.hl7.get(delivery.destination)
    if content is None or delivery.destination not in ports.ris:
        raise ConfigError(f"destination {delivery.destination} is not configured")
    if not content.is_enabled:
        return Ended(DeliveryState.SKIPPED, "HL7 is switched off (ENABLE_HL7)")
    before = nothing_to_tell(delivery, ports)
    if before is None and content.after_images:
        before = images_first(delivery, ports, "HL7_AFTER_IMAGES")
    if before is not None:
        return before
    file = ports.spool.message_file(delivery.run_id, delivery.destination)
    control_id = ports.ledger.deliveries.keep_control_id(
        delivery.id, new_control_id(datetime.now().astimezone())
    )
    if not file.is_file():
        why_not = _made(delivery, content, control_id, file, ports)
        if why_not is not None:
            return why_not

    def send(_: object) -> Ended:
        require_lease(delivery, ports)
        accepted = _accepted(delivery, control_id, file, ports)
        ports.ledger.deliveries.record_sent(delivery.id)
        said = f"message {control_id} acknowledged ({accepted.code})"
        return Ended(DeliveryState.DELIVERED, said + _note(delivery, content, ports))

    return paced(delivery.destination, ports, send)


def _accepted(delivery: Delivery, control_id: str, file: Path, ports: Ports) -> Ack:
    ris, message = ports.ris[delivery.destination], file.read_bytes()
    answered = file.with_suffix(".ack")
    answered.unlink(missing_ok=True)
    return ports.breaker.call(
        PeerName(PeerKind.DESTINATION, ris.name),
        lambda: ports.mllp.deliver(
            ris, message, control_id, lambda data: _keep_answer(answered, data)
        ),
    )


def _note(delivery: Delivery, content: Hl7Content, ports: Ports) -> str:
    try:
        missing = missing_identity(metadata_of(delivery.run_id, content, ports))
    except PacsorError:
        return ""  # its instances are gone, and the message is sent
    return f"; the study has no {', '.join(missing)}" if missing else ""


def _made(
    delivery: Delivery, content: Hl7Content, control_id: str, file: Path, ports: Ports
) -> Wait | Ended | None:
    """Write the message; why there is none, or None."""

    run = _run(delivery, ports)
    try:
        made = compose(run, content, control_id, lambda: waited_s(delivery, ports), ports)
    except NotReady:
        return Wait(pause_s(ports.poll, waited_s(delivery, ports)), "the AI's JSON results")
    missing = ", ".join(made.missing)
    if missing and content.holds_incomplete:
        return Ended(
            DeliveryState.QUARANTINED,
            f"held: the study has no {missing} (HL7_INCOMPLETE_IDENTITY=hold)",
        )
    # Whole and lasting before it is sent: a retry must find the bytes the RIS may have.
    file.parent.mkdir(mode=0o750, exist_ok=True)
    write_durably(file, made.message)
    return None


def _keep_answer(file: Path, data: bytes) -> None:
    # Only to be shown: that the disk is full must not make the RIS get the message again.
    with suppress(OSError):
        file.write_bytes(data[:KEPT_ANSWER_BYTES])


def _run(delivery: Delivery, ports: Ports) -> Run:
    run = ports.ledger.runs.get(delivery.run_id)
    if run is None:
        raise NotFound(f"run {delivery.run_id} is not in the ledger")
    return run

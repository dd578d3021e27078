"""Webhook: one event per run to one URL, the same bytes until they are taken."""

from __future__ import annotations

from typing import Any

from pacsor_tasks.errors import ConfigError, NotFound
from pacsor_tasks.hl7.metadata import read_study_metadata
from pacsor_tasks.ledger import iso
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    InstanceOutcome,
    PeerKind,
    PeerName,
)
from pacsor_tasks.outcomes import Ended, Wait
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.common import images_first, nothing_to_tell, paced, require_lease
from pacsor_tasks.webhook import RESULTS, VERSION, Webhook, encoded, post


def post_event(delivery: Delivery, ports: Ports) -> Ended | Wait:
    """Tell a URL that a run's results are there.

    Raises:
        Retryable, Rejected, BadResponse: As the webhook.
        ConfigError: The destination is no longer configured.
    """
    to = ports.webhooks.get(delivery.destination)
    if to is None:
        raise ConfigError(f"destination {delivery.destination} is not configured")
    before = nothing_to_tell(delivery, ports)
    if before is None and to.after_images:
        before = images_first(delivery, ports, "WEBHOOK_AFTER_IMAGES")
    if before is not None:
        return before
    body = encoded(event_of(delivery, to, ports))

    def send(_: object) -> Ended:
        require_lease(delivery, ports)
        status = ports.breaker.call(
            PeerName(PeerKind.DESTINATION, to.name),
            lambda: post(to, RESULTS, delivery.id, body),
        )
        ports.ledger.deliveries.record_sent(delivery.id)
        return Ended(DeliveryState.DELIVERED, f"event taken (HTTP {status})")

    return paced(delivery.destination, ports, send)


def event_of(delivery: Delivery, to: Webhook, ports: Ports) -> dict[str, Any]:
    """The event, made of what the ledger has, so that it is the same each time.

    Raises:
        NotFound: The run is not in the ledger.
        ConfigError, BadResponse: Patient data is to be in it, and cannot be read.
    """
    run = ports.ledger.runs.get(delivery.run_id)
    if run is None:
        raise NotFound(f"run {delivery.run_id} is not in the ledger")
    outcomes, wanted = ports.ledger.deliveries.outcomes(run.id), delivery.selection.commands
    event: dict[str, Any] = {
        "version": VERSION,
        "event": RESULTS,
        "id": delivery.id,
        "study_instance_uid": run.study_uid,
        "core": run.core,
        "run_id": run.id,
        "run_created_at": iso(run.created_at),
        "commands": [
            {"name": name, "outcome": outcome}
            for name, (outcome, _) in outcomes.items()
            if not wanted or name in wanted
        ],
        "results": [
            {
                "command": result.command,
                "sop_class_uid": result.sop_class_uid,
                "sop_instance_uid": result.sop_instance_uid,
            }
            for result in ports.ledger.deliveries.results(delivery)
        ],
    }
    if to.include:
        event["patient"] = _patient(run.id, to.include, ports)
    return event


def _patient(run_id: str, names: tuple[str, ...], ports: Ports) -> dict[str, str]:
    sent = ports.ledger.runs.instances(
        run_id, [InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE]
    )
    if not sent:
        raise ConfigError("no instance of the run is held to take the patient's data from")
    metadata = read_study_metadata(ports.file(sent[0].path), default_issuer="")
    return {name: getattr(metadata, name) for name in names}

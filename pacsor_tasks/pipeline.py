"""The canvas: the steps' task names in order, and the one door into the queues.

Chains tasks by name, so that whoever launches needs none of the pipeline's code.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis
from celery import Signature, chain, group
from kombu.exceptions import OperationalError

from pacsor_tasks.app import app
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.models import Delivery, DestinationKind, Step

STEPS: dict[Step, str] = {
    Step.FILTER: "pacsor.filter",
    Step.UPLOAD: "pacsor.upload",
    Step.POLL: "pacsor.poll",
    Step.DOWNLOAD: "pacsor.download",
    Step.FAN_OUT: "pacsor.fan_out",
}
DELIVER: dict[DestinationKind, str] = {
    DestinationKind.STORESCU: "pacsor.store",
    DestinationKind.STOW: "pacsor.store",
    DestinationKind.FOLDER: "pacsor.store",
    DestinationKind.HL7: "pacsor.hl7",
    DestinationKind.WEBHOOK: "pacsor.webhook",
}
CLEANUP = "pacsor.cleanup"
INGEST = "pacsor.ingest"
POLL_DUE = "pacsor.poll_due"
#: What publishing raises when the broker is away.
BROKER_ERRORS = (OperationalError, redis.RedisError, OSError)


def launch(run_id: str, from_step: Step, deliveries: Sequence[Delivery]) -> None:
    """Publish the rest of a run's chain: its steps from here on, then a group of its deliveries.

    Safe to repeat: every task asks the ledger whether it is its turn.

    Raises:
        PeerUnavailable: The broker is away; the sweep launches the run later.
    """
    if from_step is Step.CLEANUP:
        _publish(_task(CLEANUP, run_id))
        return
    ahead = [name for step, name in STEPS.items() if step.position >= from_step.position]
    tasks = [_task(name, run_id) for name in ahead]
    fan = [_task(DELIVER[delivery.kind], delivery.id) for delivery in deliveries]
    _publish(chain(*tasks, group(fan)) if fan else chain(*tasks))


def launch_delivery(delivery_id: str, kind: DestinationKind) -> None:
    """Publish one delivery.

    Raises:
        PeerUnavailable: The broker is away; the sweep launches it later.
    """
    _publish(_task(DELIVER[kind], delivery_id))


def launch_polls(run_ids: Sequence[str]) -> None:
    """Publish one task that asks for the predictions of many runs on one connection.

    Raises:
        PeerUnavailable: The broker is away.
    """
    _publish(_task(POLL_DUE, list(run_ids)))


def enqueue_ingest(study_uid: str, paths: Sequence[str]) -> None:
    """Publish a stable study's instance paths (relative to the spool).

    Raises:
        PeerUnavailable: The broker is away; the study stays in the outbox.
    """
    _publish(_task(INGEST, study_uid, list(paths)))


def _task(name: str, *args: object) -> Signature:
    return app.signature(name, args=args, immutable=True)


def _publish(signature: Signature) -> None:
    try:
        signature.apply_async()
    except BROKER_ERRORS as exc:
        raise PeerUnavailable(f"broker: {type(exc).__name__}") from exc

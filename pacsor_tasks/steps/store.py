"""Store: the results of a run to one PACS by C-STORE."""

from __future__ import annotations

import math
import threading
import time

from pacsor_tasks.dicom.scu import StoreItem, store
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.errors import ConfigError, Retryable
from pacsor_tasks.ledger import Answer
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName
from pacsor_tasks.outcomes import Ended
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.common import LEASE_LOST
from pacsor_tasks.words import counted

#: Answers that come within so long are recorded in one transaction, seconds.
TOGETHER_S = 0.1


def store_results(delivery: Delivery, ports: Ports) -> Ended:
    """Send what the PACS does not have yet, one row per instance.

    Raises:
        PeerUnavailable, Rejected: As the SCU; what was stored before stays recorded.
        ConfigError: The destination is no longer configured.
    """
    pacs = ports.pacs.get(delivery.destination)
    if pacs is None:
        raise ConfigError(f"destination {delivery.destination} is not configured")
    if not delivery.total:
        return Ended(DeliveryState.SKIPPED, "nothing to store: the AI returned no DICOM instance")
    items = [
        StoreItem(
            key=result.id,
            path=ports.file(result.path),
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            transfer_syntax_uid=result.transfer_syntax_uid,
        )
        for result in ports.ledger.deliveries.unsent(delivery)
    ]

    if items:
        peer = PeerName(PeerKind.DESTINATION, pacs.name)
        with _Recorder(delivery, ports) as recorder:
            ports.breaker.call(peer, lambda: store(pacs, items, recorder.note))
    return Ended(
        DeliveryState.DELIVERED,
        f"{counted(delivery.total, 'instance')} stored at {pacs.called_aet}",
    )


class _Recorder:
    """Records answers in the ledger: the first at once, then those of a moment together.

    Whoever dies with some of them unrecorded sends those instances once more.
    """

    def __init__(self, delivery: Delivery, ports: Ports) -> None:
        self._delivery = delivery
        self._ports = ports
        self._answers: list[Answer] = []
        self._recorded_at = -math.inf
        self._lock = threading.Lock()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._record()

    def note(self, item: StoreItem, status: int, meaning: str) -> None:
        """Take an answer.

        Raises:
            Retryable: The delivery was cancelled, or another worker goes on with it.
        """
        is_delivered = classify(status) is Verdict.DELIVERED
        with self._lock:
            self._answers.append(Answer(item.key, status, meaning, is_delivered))
            if time.monotonic() - self._recorded_at >= TOGETHER_S:
                self._record()

    def _record(self) -> None:
        answers, self._answers = self._answers, []
        if answers and not self._ports.ledger.deliveries.record_answers(self._delivery, answers):
            raise Retryable(LEASE_LOST)
        self._recorded_at = time.monotonic()

"""Store: the results of a run to one PACS by C-STORE."""

from __future__ import annotations

from pacsor_tasks.dicom.scu import StoreItem, store
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName
from pacsor_tasks.outcomes import Ended
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.common import require_lease
from pacsor_tasks.words import counted


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

    def record(item: StoreItem, status: int, meaning: str) -> None:
        ports.ledger.deliveries.record_answer(
            delivery.id,
            item.key,
            (status, meaning),
            delivered=classify(status) is Verdict.DELIVERED,
        )
        require_lease(delivery, ports)

    if items:
        peer = PeerName(PeerKind.DESTINATION, pacs.name)
        ports.breaker.call(peer, lambda: store(pacs, items, record))
    return Ended(
        DeliveryState.DELIVERED,
        f"{counted(delivery.total, 'instance')} stored at {pacs.called_aet}",
    )

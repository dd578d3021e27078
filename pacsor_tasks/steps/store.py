"""Store: results of a run to one destination that takes instances: a PACS, DICOMweb, a folder."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pacsor_tasks import folder
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import OnAnswer, StoreItem
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.dicomweb import stow
from pacsor_tasks.errors import ConfigError, Retryable
from pacsor_tasks.ledger import Answer
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName, Result
from pacsor_tasks.outcomes import Ended, Wait
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.common import LEASE_LOST, paced
from pacsor_tasks.words import counted

#: Answers that come within so long are recorded in one transaction, seconds.
TOGETHER_S = 0.1


class Store(NamedTuple):
    """How instances get to one destination."""

    #: instances, what is told of each answer, what is called before each
    send: Callable[[Sequence[StoreItem], OnAnswer, Callable[[], None]], None]
    #: "stored at …"
    done: str


def store_results(delivery: Delivery, ports: Ports) -> Ended | Wait:
    """Send what the destination does not have yet, one row per instance.

    Raises:
        PeerUnavailable, Rejected: As whatever sends; what was stored before stays recorded.
        ConfigError: The destination is no longer configured.
    """
    results = ports.ledger.deliveries.unsent(delivery)
    to = _store_of(delivery, results, ports)
    if not delivery.total:
        chosen = delivery.selection
        why = f"no {chosen} among them" if chosen else "the AI returned no DICOM instance"
        return Ended(DeliveryState.SKIPPED, f"nothing to store: {why}")
    done = Ended(DeliveryState.DELIVERED, f"{counted(delivery.total, 'instance')} {to.done}")
    items = [
        StoreItem(
            key=result.id,
            path=ports.file(result.path),
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            transfer_syntax_uid=result.transfer_syntax_uid,
        )
        for result in results
    ]

    def send(take_turn: Callable[[], None]) -> Ended:
        peer = PeerName(PeerKind.DESTINATION, delivery.destination)
        with _Recorder(delivery, ports) as recorder:
            ports.breaker.call(peer, lambda: to.send(items, recorder.note, take_turn))
        return done

    return paced(delivery.destination, ports, send) if items else done


def _store_of(delivery: Delivery, results: Sequence[Result], ports: Ports) -> Store:
    name = delivery.destination
    if (pacs := ports.pacs.get(name)) is not None:
        return Store(partial(scu.store, pacs), f"stored at {pacs.called_aet}")
    if (server := ports.stow.get(name)) is not None:
        return Store(partial(stow.store, server), f"stored at {server.endpoint.host}")
    if (directory := ports.folders.get(name)) is not None:
        run = ports.ledger.runs.get(delivery.run_id)
        filing = folder.Filing(
            study_uid=delivery.study_uid,
            core=run.core if run is not None else "unknown",
            run_id=delivery.run_id,
            commands={result.id: result.command for result in results},
        )
        return Store(partial(folder.store, directory, filing), f"written to {directory.path}")
    raise ConfigError(f"destination {name} is not configured")


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

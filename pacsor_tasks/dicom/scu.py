"""The C-STORE SCU: a delivery of instances to one PACS, over one association where that is enough.

An instance goes as its file has it when the PACS accepts its transfer syntax, else re-encoded to an
uncompressed one. One refused instance does not stop the others; a lost connection does. What was
not stored is said at the end by the exception's type.

Source: DICOM PS3.4 Annex B, PS3.7 §9.1.1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks.dicom.association import associate
from pacsor_tasks.dicom.data_sets import StoreItem, name_of
from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.scu_contexts import choose, propose
from pacsor_tasks.dicom.senders import Jobs, send_all
from pacsor_tasks.dicom.statuses import NO_CONTEXT, Verdict, classify
from pacsor_tasks.dicom.wire import Pacs
from pacsor_tasks.errors import LedgerUnavailable, PeerUnavailable, Rejected

__all__ = ["OnAnswer", "Pacs", "StoreItem", "echo", "store"]

log = structlog.get_logger(__name__)


OnAnswer = Callable[[StoreItem, int, str], None]


def store(pacs: Pacs, items: Sequence[StoreItem], on_answer: OnAnswer) -> None:
    """Deliver instances to a PACS.

    Args:
        pacs: Where to.
        items: What; sent in this order as far as one association takes them.
        on_answer: Called with item, status and its meaning as soon as an instance is settled: by
            the PACS's answer, or by us: 0x0122 when no context takes it, 0x0117 when its file
            cannot be sent. `statuses.classify` says what a status means for the delivery.

    Raises:
        PeerUnavailable: Something was not stored that may be later.
        Rejected: Something was refused for good, and nothing is left that may be stored later; or
            the PACS rejected the association for good.
        BadResponse: The PACS broke the protocol.
        Retryable: Disk trouble here.
    """
    started = time.monotonic()
    tally = _Tally(pacs, len(items), on_answer)
    try:
        _store(pacs, items, tally)
    except LedgerUnavailable:
        raise  # of whoever keeps the answers
    except PeerUnavailable as exc:
        raise PeerUnavailable(f"{exc}; {tally.delivered} of {tally.total} stored") from exc
    finally:
        log.info(
            "store.sent",
            destination=pacs.name,
            n=tally.delivered,
            failed=tally.total - tally.delivered,
            seconds=round(time.monotonic() - started, 3),
        )
    tally.raise_if_incomplete()


def echo(pacs: Pacs) -> None:
    """Prove that the PACS answers us, by a C-ECHO.

    Raises:
        PeerUnavailable: It does not, for the time being.
        Rejected: It will not talk to us.
        BadResponse: What answers does not speak DICOM.
    """
    with associate(pacs, [Pair(Verification, ImplicitVRLittleEndian)]) as association:
        if not association.contexts:
            raise Rejected(f"{pacs} does not accept C-ECHO")
        status = association.echo()
    if status:
        raise Rejected(f"{pacs} answered C-ECHO with 0x{status:04X} ({meaning(status)})")


@dataclass
class _Tally:
    """What became of the instances so far."""

    pacs: Pacs
    total: int
    on_answer: OnAnswer
    delivered: int = 0
    #: first complaint of each kind that is not a delivery, and how many
    complaints: dict[Verdict, str] = field(default_factory=dict)
    counts: dict[Verdict, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, item: StoreItem, status: int, why: str | None = None) -> None:
        """Note an instance's status; `why` is ours where the PACS was not asked.

        One at a time, from whichever thread.
        """
        with self._lock:
            self._settle(item, status, why or meaning(status))

    def _settle(self, item: StoreItem, status: int, words: str) -> None:
        verdict = classify(status)
        if verdict is Verdict.DELIVERED:
            self.delivered += 1
        else:
            self.counts[verdict] = self.counts.get(verdict, 0) + 1
            self.complaints.setdefault(
                verdict, f"0x{status:04X} ({words}), SOP Instance {item.sop_instance_uid}"
            )
        self.on_answer(item, status, words)

    def raise_if_incomplete(self) -> None:
        if (n := self.delivered + sum(self.counts.values())) != self.total:
            raise PeerUnavailable(f"{self.pacs}: {self.total - n} instances were left out")
        for verdict, error in (
            (Verdict.RETRYABLE, PeerUnavailable),
            (Verdict.PERMANENT, Rejected),
        ):
            if verdict in self.counts:
                raise error(
                    f"{self.pacs}: {sum(self.counts.values())} of {self.total} not stored;"
                    f" first {self.complaints[verdict]}"
                )


def _store(pacs: Pacs, items: Sequence[StoreItem], tally: _Tally) -> None:
    """One association after the other, until everything is sent or refused."""
    answers: dict[Pair, bool] = {}
    waiting = list(items)
    while waiting:
        proposal = propose((item.pair for item in waiting), answers)
        if not proposal:
            break
        with associate(pacs, proposal) as association:
            answers |= {pair: pair in association.contexts for pair in proposal}
            chosen = [(i, choose(i.pair, association.contexts, answers)) for i in waiting]
            waiting = [item for item, pair in chosen if pair is None]
            jobs = Jobs((item, pair) for item, pair in chosen if pair is not None)
            send_all(pacs, association, jobs, tally.settle)
    for item in waiting:
        tally.settle(item, NO_CONTEXT, _not_accepted(item))


def _not_accepted(item: StoreItem) -> str:
    return (
        f"no presentation context accepted for {name_of(item.sop_class_uid)}"
        f" in {name_of(item.transfer_syntax_uid)}"
    )

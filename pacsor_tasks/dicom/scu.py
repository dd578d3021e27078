"""The C-STORE SCU: a delivery of instances to one PACS, over one association where that is enough.

An instance goes as its file has it when the PACS accepts its transfer syntax, else re-encoded to an
uncompressed one. One refused instance does not stop the others; a lost connection does. What was
not stored is said at the end by the exception's type.

Source: DICOM PS3.4 Annex B, PS3.7 §9.1.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks.dicom.association import associate
from pacsor_tasks.dicom.data_sets import StoreItem, name_of
from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.scu_contexts import choose, propose
from pacsor_tasks.dicom.senders import Hooks, Jobs, send_all
from pacsor_tasks.dicom.statuses import NO_CONTEXT
from pacsor_tasks.dicom.tally import OnAnswer, Tally
from pacsor_tasks.dicom.wire import Pacs
from pacsor_tasks.errors import LedgerUnavailable, PeerUnavailable, Rejected

__all__ = ["OnAnswer", "Pacs", "StoreItem", "echo", "store"]

log = structlog.get_logger(__name__)


def store(
    pacs: Pacs,
    items: Sequence[StoreItem],
    on_answer: OnAnswer,
    before_each: Callable[[], None] | None = None,
) -> None:
    """Deliver instances to a PACS.

    Args:
        pacs: Where to.
        items: What; sent in this order as far as one association takes them.
        on_answer: Called with item, status and its meaning as soon as an instance is settled: by
            the PACS's answer, or by us: 0x0122 when no context takes it, 0x0117 when its file
            cannot be sent. `statuses.classify` says what a status means for the delivery.
        before_each: Called before each instance is sent, with no answer outstanding; in several
            threads at once where there are several associations. What it raises ends the delivery.

    Raises:
        PeerUnavailable: Something was not stored that may be later.
        Rejected: Something was refused for good, and nothing is left that may be stored later; or
            the PACS rejected the association for good.
        BadResponse: The PACS broke the protocol.
        Retryable: Disk trouble here.
    """
    started = time.monotonic()
    tally = Tally(pacs, len(items), on_answer)
    try:
        _store(pacs, items, tally, before_each or _at_once)
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


def _at_once() -> None:
    pass


def _store(
    pacs: Pacs, items: Sequence[StoreItem], tally: Tally, before_each: Callable[[], None]
) -> None:
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
            send_all(pacs, association, jobs, Hooks(tally.settle, before_each))
    for item in waiting:
        tally.settle(item, NO_CONTEXT, _not_accepted(item))


def _not_accepted(item: StoreItem) -> str:
    return (
        f"no presentation context accepted for {name_of(item.sop_class_uid)}"
        f" in {name_of(item.transfer_syntax_uid)}"
    )

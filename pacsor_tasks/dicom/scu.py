"""The C-STORE SCU: a delivery of instances to one PACS, over one association where that can be.

An instance goes as its file has it when the PACS accepts its transfer syntax, else re-encoded to an
uncompressed one. One refused instance does not stop the others; a lost connection does. What was
not stored is said at the end by the exception's type.

Source: DICOM PS3.4 Annex B, PS3.7 §9.1.1.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from pacsor_tasks.dicom.association import Association, Packed, associate
from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.headers import data_set_offset, data_set_start
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.scu_contexts import choose, propose
from pacsor_tasks.dicom.statuses import NO_CONTEXT, UNSENDABLE, Verdict, classify
from pacsor_tasks.dicom.transcode import transcode
from pacsor_tasks.dicom.wire import Pacs
from pacsor_tasks.errors import BadResponse, PeerUnavailable, Permanent, Rejected, Retryable

__all__ = ["OnAnswer", "Pacs", "StoreItem", "echo", "store"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreItem:
    """One instance to deliver."""

    #: the caller's own
    key: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    #: as in the file
    transfer_syntax_uid: str

    @property
    def pair(self) -> Pair:
        """What it needs a presentation context for."""
        return Pair(self.sop_class_uid, self.transfer_syntax_uid)


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

    def settle(self, item: StoreItem, status: int, why: str | None = None) -> None:
        """Note an instance's status; `why` is ours where the PACS was not asked."""
        words = why or meaning(status)
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
            waiting = _send_what_fits(association, waiting, answers, tally)
    for item in waiting:
        tally.settle(item, NO_CONTEXT, _not_accepted(item))


def _send_what_fits(
    association: Association,
    waiting: Sequence[StoreItem],
    answers: dict[Pair, bool],
    tally: _Tally,
) -> list[StoreItem]:
    """Send the instances that an accepted context takes; the others come back."""
    left = []
    with _Sender(association, tally) as sender:
        for item in waiting:
            pair = choose(item.pair, association.contexts, answers)
            if pair is None:
                left.append(item)
            else:
                sender.send(item, pair)
        sender.finish()
    return left


class _Sender:
    """Sends one instance after the other, each made ready while the one before is answered.

    An instance is settled before the next one goes out, so that who settles it can stop there.
    """

    def __init__(self, association: Association, tally: _Tally) -> None:
        self._association = association
        self._tally = tally
        #: sent and not yet answered
        self._awaited: StoreItem | None = None
        #: the data set under way
        self._data: BinaryIO | None = None

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        if self._data is not None:
            self._data.close()

    def send(self, item: StoreItem, pair: Pair) -> None:
        """Send an instance, once the one before is settled."""
        if item.transfer_syntax_uid != pair.transfer_syntax_uid:
            self.finish()  # re-encoding may take long: what was answered is not held back by it
        try:
            packed = self._packed(item, pair)
        except _UnsendableError as exc:
            self.finish()
            self._tally.settle(item, UNSENDABLE, str(exc))
            return
        self.finish()
        self._association.send(packed)
        self._awaited = item

    def finish(self) -> None:
        """Settle what was sent last."""
        if self._awaited is not None:
            item, self._awaited = self._awaited, None
            self._tally.settle(item, self._association.answer())

    def _packed(self, item: StoreItem, pair: Pair) -> Packed:
        if self._data is not None:
            self._data.close()
        self._data = data = _opened(item, pair.transfer_syntax_uid)
        try:
            size = os.fstat(data.fileno()).st_size - data.tell()
            return self._association.pack(pair, item.sop_instance_uid, data, size)
        except OSError as exc:
            raise Retryable(f"an instance cannot be read: {exc.strerror}") from exc


class _UnsendableError(Permanent):
    """An instance's file cannot be sent. Its bytes have not touched the wire."""


def _opened(item: StoreItem, transfer_syntax_uid: str) -> BinaryIO:
    """The data set in a transfer syntax, at its start."""
    try:
        return _open(item, transfer_syntax_uid)
    except Permanent as exc:
        raise _UnsendableError(str(exc)) from exc
    except OSError as exc:
        raise Retryable(f"an instance cannot be opened: {exc.strerror}") from exc


def _open(item: StoreItem, transfer_syntax_uid: str) -> BinaryIO:
    if item.transfer_syntax_uid == transfer_syntax_uid:
        return _open_as_it_is(item)
    syntax, _ = data_set_offset(item.path)
    _require_syntax(item, syntax)
    with ExitStack() as stack:
        # Unnamed, and on the spool's disk: /tmp may be memory.
        copy = stack.enter_context(tempfile.TemporaryFile(dir=item.path.parent))
        transcode(item.path, transfer_syntax_uid, copy)
        copy.seek(0)
        stack.pop_all()
    return copy


def _open_as_it_is(item: StoreItem) -> BinaryIO:
    with ExitStack() as stack:
        try:
            data: BinaryIO = stack.enter_context(item.path.open("rb", buffering=0))
        except OSError as exc:
            raise BadResponse(f"the file cannot be read: {exc.strerror}") from exc
        syntax, start = data_set_start(data)
        _require_syntax(item, syntax)
        data.seek(start)
        stack.pop_all()
    return data


def _require_syntax(item: StoreItem, syntax: str) -> None:
    if syntax != item.transfer_syntax_uid:
        raise Permanent(f"the file is {_name(syntax)}, not {_name(item.transfer_syntax_uid)}")


def _not_accepted(item: StoreItem) -> str:
    return (
        f"no presentation context accepted for {_name(item.sop_class_uid)}"
        f" in {_name(item.transfer_syntax_uid)}"
    )


def _name(uid: str) -> str:
    return UID(uid).name

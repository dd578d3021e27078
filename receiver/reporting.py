"""Storage Commitment, the pynetdicom side: N-ACTION in, N-EVENT-REPORT out.

The report goes over the association that asked while that is open, else over one of our own to the
address that STORAGE_COMMITMENT_PEERS has for its AE title, where we propose ourselves as the SCP.

Source: DICOM PS3.4 §J.3.2, §J.3.3; PS3.7 §D.3.3.4 (role selection).
"""

from __future__ import annotations

import time
from io import BytesIO
from typing import NamedTuple, Protocol

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from pacsor_tasks.errors import BadResponse, PeerUnavailable
from receiver.commitment import Judgement, Reference

SOP_CLASS = "1.2.840.10008.1.20.1"
#: The one instance there is of it (PS3.4 §J.3.5).
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
REQUEST_COMMITMENT = 1
ALL_HELD, SOME_FAILED = 1, 2
#: How long the peer may take to connect, and to answer.
CONNECT_S, ANSWER_S = 10.0, 15.0
PAUSE_S = 0.005
MESSAGE_ID = 7


class Where(Protocol):
    """An application entity's address."""

    @property
    def ae_title(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Asked(NamedTuple):
    """What an N-ACTION asks for."""

    transaction_uid: str
    references: tuple[Reference, ...]


def read_request(information: Dataset) -> Asked:
    """The action information of an N-ACTION. Source: PS3.4 Table J.3-1.

    Raises:
        BadResponse: Something is missing.
    """
    try:
        references = tuple(
            Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        )
        asked = Asked(str(information.TransactionUID), references)
    except (AttributeError, TypeError, ValueError) as exc:
        raise BadResponse("not a request for storage commitment") from exc
    if not asked.transaction_uid or not references:
        raise BadResponse("a request for storage commitment of nothing")
    return asked


def report_of(transaction_uid: str, judgement: Judgement) -> tuple[int, Dataset]:
    """Event type and event information. Source: PS3.4 Table J.3-2."""
    report = Dataset()
    report.TransactionUID = transaction_uid
    if judgement.held:
        report.ReferencedSOPSequence = [_item(reference) for reference in judgement.held]
    if not judgement.failed:
        return ALL_HELD, report
    report.FailedSOPSequence = [_item(reference) for reference, _ in judgement.failed]
    for item, (_, reason) in zip(report.FailedSOPSequence, judgement.failed, strict=True):
        item.FailureReason = reason
    return SOME_FAILED, report


def report_here(association: Association, event_type: int, report: Dataset) -> bool:
    """Send the report over the association that asked; not by its own thread.

    pynetdicom's `send_n_event_report` would take a release, or another request, for the answer,
    or wait for one until its timeout.

    Returns:
        Whether the peer has taken it.
    """
    checkpoint = association._reactor_checkpoint
    checkpoint.clear()
    try:
        deadline = time.monotonic() + ANSWER_S
        if not _is_held_up(association, deadline):
            return False
        _send(association, event_type, report)
        while time.monotonic() < deadline:
            context_id, message = association.dimse.get_msg(block=False)
            if isinstance(message, N_EVENT_REPORT) and not message.is_valid_request:
                return message.Status == 0x0000
            if message is not None and context_id is not None:
                association._serve_request(message, context_id)
            elif not association.is_established or association.dul.peek_next_pdu() is not None:
                return False  # it is released or aborted, or about to be
            else:
                time.sleep(PAUSE_S)
        return False
    finally:
        checkpoint.set()


def report_there(where: Where, own_aet: str, event_type: int, report: Dataset) -> None:
    """Send the report over an association of our own.

    Raises:
        PeerUnavailable: No association, or no answer that takes the report.
    """
    ae = AE(own_aet)
    ae.connection_timeout = CONNECT_S
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_S
    ae.add_requested_context(SOP_CLASS, list(SYNTAXES))
    association = ae.associate(
        where.host,
        where.port,
        ae_title=where.ae_title,
        ext_neg=[build_role(SOP_CLASS, scp_role=True)],
    )
    if not association.is_established:
        raise PeerUnavailable(f"{where.ae_title} takes no association for the report")
    try:
        status, _ = association.send_n_event_report(report, event_type, SOP_CLASS, SOP_INSTANCE)
    except (RuntimeError, ValueError) as exc:
        raise PeerUnavailable(f"{where.ae_title}: {exc}") from exc
    finally:
        if association.is_established:
            association.release()
    if status.get("Status") != 0x0000:
        raise PeerUnavailable(f"{where.ae_title} did not take the report")


def _is_held_up(association: Association, deadline: float) -> bool:
    """Wait until the association's thread stands at its checkpoint, all it had to say said."""
    n_seen = 0
    while association.is_established and time.monotonic() < deadline:
        # Twice: the thread is marked so for a moment after it has passed, too.
        n_seen = n_seen + 1 if association._is_paused else 0
        if n_seen == 2:
            return association.dul.peek_next_pdu() is None
        time.sleep(PAUSE_S)
    return False


def _send(association: Association, event_type: int, report: Dataset) -> None:
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == SOP_CLASS)
    syntax = context.transfer_syntax[0]
    request = N_EVENT_REPORT()
    request.MessageID = MESSAGE_ID
    request.AffectedSOPClassUID = SOP_CLASS
    request.AffectedSOPInstanceUID = SOP_INSTANCE
    request.EventTypeID = event_type
    encoded = encode(report, syntax.is_implicit_VR, syntax.is_little_endian)
    request.EventInformation = BytesIO(encoded or b"")
    association.dimse.send_msg(request, int(context.context_id or 0))


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item

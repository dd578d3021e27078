"""The words of association negotiation: what is proposed, what came back, why not.

The PDUs are encoded and decoded by pynetdicom.

Source: DICOM PS3.8 §7.1, §9.3.2 to §9.3.4; PS3.7 Annex D.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

from pacsor_tasks.dicom.wire import Pacs
from pacsor_tasks.errors import BadResponse, PacsorError, PeerUnavailable, Rejected

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID = "2.25.317231649913190185948559524244763366943"
IMPLEMENTATION_VERSION = "PACSOR_TASKS"
#: Largest PDU we take and send (bytes). Measured best: 64 to 128 kB.
MAX_PDU_BYTES = 131072
#: Context ids are the odd numbers of one byte.
MAX_CONTEXTS = 128
#: What pynetdicom raises on PDUs that break PS3.8.
_UNDECODABLE = (
    ValueError, TypeError, LookupError, AttributeError, NotImplementedError, struct.error,
)  # fmt: skip


class Pair(NamedTuple):
    """What a presentation context is proposed for."""

    sop_class_uid: str
    transfer_syntax_uid: str


def associate_rq(pacs: Pacs, contexts: Mapping[int, Pair]) -> bytes:
    """The A-ASSOCIATE-RQ PDU that proposes the contexts, by id."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = pacs.calling_aet
    primitive.called_ae_title = pacs.called_aet
    proposed = []
    for context_id, pair in contexts.items():
        context = build_context(pair.sop_class_uid, pair.transfer_syntax_uid)
        context.context_id = context_id
        proposed.append(context)
    primitive.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    primitive.user_information = [length, implementation, version]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def read_acceptance(pdu: bytearray, contexts: Mapping[int, Pair]) -> tuple[dict[Pair, int], int]:
    """What an A-ASSOCIATE-AC PDU says of the proposed contexts.

    Returns:
        The context id of every accepted pair, and the peer's largest PDU in bytes, 0 for no limit.

    Raises:
        BadResponse: It cannot be decoded.
    """
    try:
        answer = A_ASSOCIATE_AC()
        answer.decode(bytes(pdu))
        primitive = answer.to_primitive()
    except _UNDECODABLE as exc:
        raise BadResponse("its A-ASSOCIATE-AC cannot be decoded") from exc
    accepted: dict[Pair, int] = {}
    for context in primitive.presentation_context_definition_results_list:
        pair = contexts.get(context.context_id or 0)
        # A peer may not choose a syntax that was not proposed; one that does has not accepted.
        if pair and context.result == 0 and context.transfer_syntax == [pair.transfer_syntax_uid]:
            accepted[pair] = context.context_id or 0
    return accepted, primitive.maximum_length_received or 0


def rejection(pacs: Pacs, pdu: bytearray) -> PacsorError:
    """The error that says why an association was rejected. Source: PS3.8 Table 9-21."""
    _, result, source, reason = pdu[6:10] if len(pdu) >= 10 else (0, 1, 0, 0)
    suffix = pacs.name.partition("-")[2]
    number = f"_{suffix}" if suffix.isdigit() else ""
    why = {
        (1, 2): "it does not know the application context",
        (1, 3): f"it does not know the calling AE title {pacs.calling_aet!r}: register it there,"
        f" or set MILVUE_AET{number}",
        (1, 7): f"{pacs.called_aet!r} is not its AE title: set PACS_AET{number}",
        (2, 2): "it does not support the protocol version",
        (3, 1): "it is congested",
        (3, 2): "it has reached its limit of associations",
    }.get((source, reason), "no reason given")
    message = f"{pacs} rejected the association: {why}"
    # Source 3 is a lack of resources, whichever result a peer gives with it.
    return PeerUnavailable(message) if result == 2 or source == 3 else Rejected(message)

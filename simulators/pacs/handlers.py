"""What the simulated PACS does with an association, an echo and an instance."""

from __future__ import annotations

import io
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event as DicomEvent
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass, VerificationServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AssociationSocket

from pacsor_tasks.errors import BadResponse
from simulators.journal import Event, Journal
from simulators.pacs.switches import PacsSwitches
from simulators.part10 import file_name, read_head, text
from simulators.switches import Switches

UNCOMPRESSED = frozenset(
    map(
        str,
        (
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
        ),
    )
)
#: reject → (result, source, reason). Source: DICOM PS3.8 §9.3.4.
REJECTIONS: dict[str, tuple[int, int, int]] = {
    "permanent": (1, 1, 1),
    "calling_aet": (1, 1, 3),
    "called_aet": (1, 1, 7),
    "transient": (2, 2, 1),
    "congestion": (2, 3, 1),
    "local_limit": (2, 3, 2),
}
#: Answer to an instance that is no DICOM. Source: DICOM PS3.4 §B.2.3 (Cannot understand).
CANNOT_UNDERSTAND = 0xC000


class PacsJournal(Journal):
    """Events ``association``, ``store``, ``echo`` and ``aborted``, and counts per instance."""

    def stores(self, **fields: Any) -> list[Event]:
        """The C-STORE requests with these fields, e.g. ``status=0``."""
        return self.events("store", **fields)

    def counts(self) -> Counter[str]:
        """How often each SOP Instance UID was answered with success."""
        return Counter(event["sop_instance_uid"] for event in self.stores(status=0))


class Handlers:
    """The event handlers of one simulated PACS.

    Args:
        switches: Asked per association, echo and instance.
        journal: Told of everything.
        folder: Called for the folder where instances are kept.
    """

    def __init__(
        self,
        switches: Switches[PacsSwitches],
        journal: PacsJournal,
        folder: Callable[[], Path],
    ) -> None:
        self._switches = switches
        self._journal = journal
        self._folder = folder
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[Association, socket.socket] = {}
        self._stored: Counter[Association] = Counter()

    def bindings(self) -> list[evt.EventHandlerType]:
        """The handlers as the server takes them."""
        return [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, self._echo),
        ]

    def drop_all(self) -> None:
        """Release whoever is kept waiting and cut every connection."""
        self._stop.set()
        with self._lock:
            associations = list(self._open)
        for association in associations:
            self._drop(association)

    def _opened(self, event: DicomEvent) -> None:
        wrapper = cast(AssociationSocket, event.assoc.dul.socket)
        connection = cast(socket.socket, wrapper.socket)
        # with Nagle's algorithm on, every answer would wait 40 ms for a delayed ACK
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open[event.assoc] = connection

    def _closed(self, event: DicomEvent) -> None:
        with self._lock:
            self._open.pop(event.assoc, None)
            self._stored.pop(event.assoc, None)

    def _aborted(self, event: DicomEvent) -> None:
        self._journal.add("aborted", calling_aet=_calling_aet(event.assoc))

    def _requested(self, event: DicomEvent) -> None:
        association = event.assoc
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        proposed = request.presentation_context_definition_list
        calling_aet = str(request.calling_ae_title).strip()
        switches = self._switches.take(operation="associate", calling_aet=calling_aet)
        self._journal.add(
            "association",
            calling_aet=calling_aet,
            called_aet=str(request.called_ae_title).strip(),
            contexts=[
                {"sop_class_uid": str(cx.abstract_syntax), "transfer_syntaxes": _syntaxes(cx)}
                for cx in proposed
            ],
            reject=switches.reject,
        )
        if switches.silent == "associate":
            self._wait(association, None)
            association.acse.send_abort(0)
            association.is_aborted = True
            self._drop(association)
        elif switches.reject is not None:
            association.acse.send_reject(*REJECTIONS[switches.reject])
            association.kill()
        else:
            association.acceptor.supported_contexts = accepted_contexts(proposed, switches)

    def _store(self, event: DicomEvent) -> int:
        association, request = event.assoc, cast(C_STORE, event.request)
        sop_instance_uid = str(request.AffectedSOPInstanceUID)
        calling_aet = _calling_aet(association)
        switches = self._switches.take(
            operation="store", calling_aet=calling_aet, sop_instance_uid=sop_instance_uid
        )
        fields = {
            "calling_aet": calling_aet,
            "sop_instance_uid": sop_instance_uid,
            "sop_class_uid": str(request.AffectedSOPClassUID),
            "transfer_syntax_uid": str(event.context.transfer_syntax),
        }
        ending = self._ending(association, switches)
        if ending is not None:
            self._journal.add("store", **fields, study_uid=None, status=None, ending=ending)
            self._end(association, ending)
            return 0x0000  # never sent: the association is over
        self._wait(association, switches.delay_s)
        data = event.encoded_dataset()
        study_uid, status = _study_uid(data), switches.status
        if study_uid is None:
            status = CANNOT_UNDERSTAND
        if status == 0 or status & 0xF000 == 0xB000:
            self._keep(data, sop_instance_uid, switches)
            self._stored[association] += 1
        self._journal.add("store", **fields, study_uid=study_uid, status=status)
        return status

    def _echo(self, event: DicomEvent) -> int:
        self._journal.add("echo", calling_aet=_calling_aet(event.assoc))
        return 0x0000

    def _ending(self, association: Association, switches: PacsSwitches) -> str | None:
        """How the association ends in place of an answer, if the switches say so."""
        n_stored = self._stored[association]
        if switches.silent == "store":
            return "silence"
        if switches.abort_after is not None and n_stored >= switches.abort_after:
            return "abort"
        if switches.drop_after is not None and n_stored >= switches.drop_after:
            return "drop"
        return None

    def _end(self, association: Association, ending: str) -> None:
        if ending == "abort":
            association.abort()
            return
        if ending == "silence":
            self._wait(association, None)
        self._drop(association)

    def _keep(self, data: bytes, sop_instance_uid: str, switches: PacsSwitches) -> None:
        if not switches.keep_files:
            return
        path = self._folder() / f"{file_name(sop_instance_uid)}.dcm"
        partial = path.with_suffix(f".{threading.get_ident()}.part")
        partial.write_bytes(data)
        partial.replace(path)

    def _wait(self, association: Association, duration_s: float | None) -> None:
        """Wait, but not beyond the peer's hanging up or our stopping. None waits for those only."""
        step_s, waited_s = 0.05, 0.0
        while duration_s is None or waited_s < duration_s:
            pause_s = step_s if duration_s is None else min(step_s, duration_s - waited_s)
            # Sta1: no association and no transport connection. Source: DICOM PS3.8 §9.2.1
            is_gone = association.dul.state_machine.current_state == "Sta1"
            if is_gone or self._stop.wait(pause_s):
                return
            waited_s += pause_s

    def _drop(self, association: Association) -> None:
        with self._lock:
            connection = self._open.get(association)
        if connection is None:
            return
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the peer was faster


def accepted_contexts(
    proposed: list[PresentationContext], switches: PacsSwitches
) -> list[PresentationContext]:
    """What to accept of a proposal: storage and echo, in the proposer's order of preference."""
    offers: dict[str, list[str]] = {}
    for context in proposed:
        sop_class_uid = str(context.abstract_syntax)
        service = uid_to_service_class(sop_class_uid)
        is_known = issubclass(service, StorageServiceClass | VerificationServiceClass)
        if is_known and sop_class_uid not in switches.refuse_sop_classes:
            offer = offers.setdefault(sop_class_uid, [])
            offer += [uid for uid in _syntaxes(context) if uid not in offer]
    refused = set(switches.refuse_transfer_syntaxes)
    for sop_class_uid, offer in offers.items():
        offers[sop_class_uid] = [
            uid
            for uid in offer
            if uid not in refused and (not switches.uncompressed_only or uid in UNCOMPRESSED)
        ]
    # an acceptor without a transfer syntax in common answers "transfer syntaxes not supported"
    unmatched = "1.2.840.10008.1.2.999"
    return [build_context(uid, offer or [unmatched]) for uid, offer in offers.items()]


def _syntaxes(context: PresentationContext) -> list[str]:
    return [str(uid) for uid in context.transfer_syntax]


def _calling_aet(association: Association) -> str:
    return str(association.requestor.ae_title).strip()


def _study_uid(data: bytes) -> str | None:
    try:
        return text(read_head(io.BytesIO(data)), 0x0020000D)
    except BadResponse:
        return None

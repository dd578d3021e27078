"""The pynetdicom side of admission: hears of connections and requests, rejects, keeps count."""

from __future__ import annotations

import threading
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT

from pacsor_tasks.refusals import Reason, Refusal, Refusals
from receiver.admission import REJECTIONS, Admission, is_own_check, plain_address
from receiver.allow_list import Caller
from receiver.pending import Pending
from receiver.seats import Seat


class Gate:
    """Lets associations in. Used by all their threads.

    Args:
        admission: The policy.
        refusals: Where refusals are told.
        associate_timeout_s: How long one may take to ask.
        most_pending: Connections that have not asked yet, at once.
    """

    def __init__(
        self,
        admission: Admission,
        refusals: Refusals,
        *,
        associate_timeout_s: float,
        most_pending: int,
    ) -> None:
        self.admission = admission
        self.refusals = refusals
        self.associate_timeout_s = associate_timeout_s
        self.pending = Pending(most_pending)
        self._guard = threading.Lock()
        self._seats: dict[Association, Seat] = {}

    @property
    def handlers(self) -> list[tuple[Any, Any]]:
        """What to bind to the server."""
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_RELEASED, self._on_end),
            (evt.EVT_ABORTED, self._on_end),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]

    def connected(self, address: Any, connection: Any) -> None:
        """Somebody has connected; or a connection that is known goes on as this one, over TLS."""
        dropped = self.pending.add(address, connection)
        if dropped is not None:
            self.refuse(dropped[0], Reason.NO_REQUEST, "hung up on, to make room for others")

    def refuse(self, address: str, reason: Reason, detail: str = "") -> None:
        """Tell of a connection that never became an association."""
        self.refusals.add(Refusal(address=plain_address(address), reason=reason, detail=detail))

    def tend(self) -> None:
        """See to what happens without anybody's doing. Call about once a second."""
        for association in list(self._seats):
            if not association.is_alive():  # ended without a word
                self._free(association)
        for address, _ in self.pending.expire(self.associate_timeout_s):
            self.refuse(address, Reason.NO_REQUEST)
        # So that the disk's state changes, and is told, also when nobody sends.
        self.admission.is_disk_full()
        self.refusals.flush()

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            association.is_aborted = True
            association.kill()
            return
        self.pending.done((association.requestor.address, association.requestor.port))
        caller = Caller(
            calling_aet=_printable(request.calling_ae_title),
            called_aet=_printable(request.called_ae_title),
            address=plain_address(str(association.requestor.address)),
        )
        answer: Seat | Reason = Reason.UNAVAILABLE
        try:
            answer = self.admission.admit(caller, str(request.application_context_name))
        finally:
            # pynetdicom swallows what is raised here, and would go on to accept.
            if isinstance(answer, Seat):
                with self._guard:
                    self._seats[association] = answer
            else:
                self._reject(association, caller, answer)

    def _reject(self, association: Association, caller: Caller, reason: Reason) -> None:
        if not is_own_check(caller):
            self.refusals.add(
                Refusal(
                    address=caller.address,
                    reason=reason,
                    calling_aet=caller.calling_aet,
                    called_aet=caller.called_aet,
                )
            )
        association.acse.send_reject(*REJECTIONS[reason])
        # As pynetdicom's own rejections do: waits for the words to be sent, and the peer to leave.
        association.kill()

    def _on_end(self, event: evt.Event) -> None:
        self._free(event.assoc)

    def _on_closed(self, event: evt.Event) -> None:
        association = event.assoc
        requestor = association.requestor
        waited_s = self.pending.done((requestor.address, requestor.port))
        if waited_s is not None and waited_s >= self.associate_timeout_s * 0.9:
            self.refuse(str(requestor.address), Reason.NO_REQUEST)
        if requestor.primitive is None:
            # Its thread waits for a request until the timeout: nothing will come.
            association.dul.to_user_queue.put(A_P_ABORT())
        self._free(association)

    def _free(self, association: Association) -> None:
        with self._guard:
            seat = self._seats.pop(association, None)
        if seat is not None:
            seat.free()


def _printable(ae_title: str | None) -> str:
    title = (ae_title or "").strip()
    return title if title.isprintable() else ascii(title)[1:-1]

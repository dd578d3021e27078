"""The reading path under pynetdicom: event-driven, and C-STORE data straight into its file.

    socket ─poll─► one buffer ─► Inbound ─┬─ P-DATA of a C-STORE ─► writev to the partial file
                                          └─ everything else ─────► pynetdicom, as if it had read it

This is the one place that knows pynetdicom's internals. Negotiation, state machine, timers, abort,
release and every service but C-STORE stay its own; for a release of it that is not in
`KNOWN_VERSIONS`, so does the reading (slower, and a whole instance in memory).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pynetdicom
import structlog
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler

from receiver.buffered_socket import BUFFER_BYTES, BufferedSocket
from receiver.handlers import Arrival, StoreRequest
from receiver.inbound import Accepted, Inbound
from receiver.lane import Lane, Lanes
from receiver.pdata import Malformed
from receiver.pouring import Stop
from receiver.waking import Checkpoint, SteadyTimer, TellingQueue

log = structlog.get_logger(__name__)

#: Releases whose internals this module was written against; tests/unit/test_transport_internals.py
#: lists what it relies on.
KNOWN_VERSIONS = frozenset({"3.0.4"})
#: Messages that wait for pynetdicom before no more are read: a peer must await its answers.
MAX_BACKLOG = 32
HUNG_UP = "the peer hung up"

#: Begins a C-STORE of an association.
Begin = Callable[[Association, StoreRequest], Arrival]


def request_handler(begin: Begin) -> Callable[..., RequestHandler]:
    """What serves a connection: the reading path above if pynetdicom is known, else its own.

    Args:
        begin: Called for each C-STORE, by the association's reading thread.
    """
    version = pynetdicom.__version__
    if version in KNOWN_VERSIONS and hasattr(os, "eventfd"):
        return partial(StreamingHandler, begin=begin)
    log.warning(
        "transport.slow",
        message="instances are read by pynetdicom itself: slower, and each in memory",
        pynetdicom=version,
        known=sorted(KNOWN_VERSIONS),
    )
    return RequestHandler


class StreamingHandler(RequestHandler):
    """Makes pynetdicom's association for a connection, then changes how it reads."""

    def __init__(self, *args: Any, begin: Begin) -> None:
        self._begin = begin
        super().__init__(*args)

    def _create_association(self) -> Association:
        association = super()._create_association()
        self._fit(association)
        return association

    def _fit(self, association: Association) -> None:
        dul = StreamingDul(association, partial(self._begin, association))
        association.dul = dul
        # The two setters hand their values to the timers of the new provider.
        association.acse_timeout = association.acse_timeout
        association.network_timeout = association.network_timeout
        dul.socket = BufferedSocket(association, client_socket=self.request)
        checkpoint = Checkpoint(lambda: is_due(association))
        association._reactor_checkpoint = cast(threading.Event, checkpoint)
        association.dimse.msg_queue = TellingQueue(checkpoint.look)
        dul.to_user_queue = TellingQueue(checkpoint.look)
        dul.on_end = checkpoint.look


def is_due(association: Association) -> bool:
    """Whether an association's own thread has anything to do."""
    dul = association.dul
    return bool(
        association._kill
        or association.dimse.msg_queue.queue
        or dul.to_user_queue.queue
        or not dul.is_alive()
        or dul.idle_timer_expired()
    )


class StreamingDul(DULServiceProvider):
    """pynetdicom's upper layer service, with another way to read.

    Args:
        association: Whose it is.
        begin: Called for each C-STORE.
    """

    socket: BufferedSocket

    def __init__(self, association: Association, begin: Callable[[StoreRequest], Arrival]) -> None:
        super().__init__(association)
        self._run_loop_delay = 0
        # Their limits are set by the association.
        self._idle_timer, self.artim_timer = SteadyTimer(None), SteadyTimer(None)
        self._begin = begin
        self.on_end: Callable[[], None] = lambda: None
        self.inbound = Inbound(self)
        self.to_provider_queue = TellingQueue(self._wake)
        self._accepted: dict[int, Accepted] = {}
        self._peer_maximum: int | None = None
        self._is_told = False
        self._lanes = Lanes()

    @property
    def must_wait(self) -> bool:
        """Whether nothing may be read now."""
        association = self.assoc
        if len(association.dimse.msg_queue.queue) > MAX_BACKLOG:
            return True
        # The peer may be faster than the thread that has just accepted the association.
        is_open = self.state_machine.current_state == "Sta6"
        return is_open and not association.is_established

    # --- what `Inbound` needs

    @property
    def peer_maximum(self) -> int:
        """Longest PDU the peer takes, bytes; 0: any."""
        if self._peer_maximum is None:
            self._peer_maximum = int(self.assoc.requestor.maximum_length or 0)
        return self._peer_maximum

    def accepted(self, context_id: int) -> Accepted | None:
        """The context of that id; None if it was not accepted."""
        if context_id not in self._accepted:
            context = self.assoc._accepted_cx.get(context_id)
            if context is None:
                return None
            self._accepted[context_id] = Accepted(
                str(context.abstract_syntax), str(context.transfer_syntax[0])
            )
        return self._accepted[context_id]

    def begin(self, request: StoreRequest) -> Arrival:
        """A C-STORE begins."""
        arrival = self._begin(request)
        self._lanes.follow(arrival)
        return arrival

    def pass_on(self, context_id: int, control: int, data: bytes) -> None:
        """Let pynetdicom have a PDV, as if it had read it."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        self._recv_pdu.put(P_DATA_TF(primitive))
        self.event_queue.put("Evt10")

    def reply(self, pdus: bytes) -> None:
        """Send. Only this thread ever does.

        Raises:
            OSError: The connection is broken, or the peer takes nothing for the idle timeout.
        """
        self.socket.send_all(pdus)

    # --- what pynetdicom calls

    def run_reactor(self) -> None:
        """As pynetdicom's; nothing stays behind."""
        try:
            super().run_reactor()
        except Exception as exc:  # noqa: BLE001 - it may be anything: it is told, and handled here
            # pynetdicom's state machine lets what it makes of a peer's bytes end the thread: a
            # context that was not accepted, an answer to an association that is over already.
            self._tell("association.malformed", f"{type(exc).__name__} in pynetdicom")
            self.assoc.is_established, self.assoc._kill = False, True
            self.socket.close()
        finally:
            self.inbound.abandon()
            self._lanes.close()
            self.socket.wake.close()
            self.on_end()

    def kill_dul(self) -> None:
        """As pynetdicom's, at once."""
        super().kill_dul()
        self._wake()

    def stop_dul(self) -> bool:
        """As pynetdicom's, which waits for the thread."""
        if self.state_machine.current_state == "Sta1":
            self.kill_dul()
        return bool(super().stop_dul())

    def _read_pdu_data(self) -> None:
        sock = self.socket
        state = self.state_machine.current_state
        if state == "Sta13":
            # The association is over: whatever still comes is only waited out.
            sock.clear()
            self._fill()
        elif sock.has_pdu or self._fill():
            if state == "Sta6":
                self._pump()
            elif sock.has_pdu:
                self._read_other()

    def _pump(self) -> None:
        """Take what was read, and go on for as long as more comes and nothing else is to be done.

        Afterwards nothing is unread, or it begins with a PDU that is not P-DATA.
        """
        self._idle_timer.stop()  # the caller starts it anew
        sock = self.socket
        while True:
            stop = self._store()
            if stop is Stop.HUNG_UP or (stop is Stop.IDLE and not sock.unread):
                return
            if not self._take():
                return
            if sock.unread:
                if sock.has_pdu:
                    self._read_other()
                return
            if self._has_other_work or not self._more():
                return

    @property
    def _has_other_work(self) -> bool:
        """Whether something is to be done before more is waited for: an answer, an abort."""
        return bool(self.event_queue.queue or self.to_provider_queue.queue or self._kill_thread)

    def _take(self) -> bool:
        """Take what was read, in Python; whether the association goes on."""
        try:
            self.socket.consume(self.inbound.take(self.socket.unread))
        except Malformed as exc:
            self._give_up(str(exc))
            return False
        except OSError as exc:
            self._hung_up(_why(exc))
            return False
        return True

    def _store(self) -> Stop | None:
        """Let what comes be stored by a lane. Why it went no further; None if there is none."""
        lane = self._lane_now()
        if lane is None:
            return None
        turn = self.socket.store(lane)
        if turn.stop is Stop.SOCKET_FAILED:
            self._hung_up(os.strerror(turn.errno))
            return Stop.HUNG_UP
        try:
            if turn.unsent:
                self.reply(turn.unsent)
        except OSError as exc:
            self._hung_up(_why(exc))
            return Stop.HUNG_UP
        if turn.stop is Stop.HUNG_UP and self.socket.unread:
            # Not a whole message: Python looks at it, and sees the end again.
            return None
        if turn.stop is Stop.HUNG_UP:
            self._hung_up(HUNG_UP)
        return turn.stop

    def _lane_now(self) -> Lane | None:
        """What takes the message that comes next, if it is like the one before."""
        # Who is woken while data come has been woken already: so no lane waits before a look.
        is_its_turn = self.inbound.is_between_messages and not self._has_other_work
        if not (is_its_turn and self.socket.may_store):
            return None
        return self._lanes.now(self.peer_maximum)

    def _more(self) -> bool:
        """Read on: into the buffer, or into the file. Whether that is worth another look."""
        if not (self.inbound.may_pour and self.socket.may_pour):
            return bool(self._fill())
        try:
            stop = self.inbound.pour(self.socket)
        except OSError as exc:
            self._hung_up(_why(exc))
            return False
        if stop is Stop.HUNG_UP:
            self._hung_up(HUNG_UP)
        elif stop is Stop.IDLE and self.socket.unread:
            # A part of a head.
            self.socket.consume(self.inbound.take(self.socket.unread))
        return stop not in (Stop.HUNG_UP, Stop.IDLE)

    def _fill(self) -> bool:
        """Read. If nothing will come any more, the state machine is told."""
        try:
            n_bytes = self.socket.fill()
        except OSError as exc:
            n_bytes, reason = 0, _why(exc)
        else:
            reason = HUNG_UP
        if n_bytes == 0:
            self._hung_up(reason)
        return bool(n_bytes)

    def _hung_up(self, reason: str) -> None:
        if self.socket.unread or not self.inbound.is_between_messages:
            self._tell("association.cut", reason)
        self.inbound.abandon()
        self.event_queue.put("Evt17")

    def _read_other(self) -> None:
        """Let pynetdicom read the PDU that is in the buffer."""
        if self.socket.pdu_bytes > BUFFER_BYTES:
            self._give_up(f"a PDU of {self.socket.pdu_bytes} bytes")
        else:
            super()._read_pdu_data()

    def _give_up(self, reason: str) -> None:
        self._tell("association.malformed", reason)
        self.inbound.abandon()
        self.socket.clear()
        self.event_queue.put("Evt19")

    def _tell(self, event: str, reason: str) -> None:
        if not self._is_told:
            self._is_told = True
            requestor = self.assoc.requestor
            log.warning(event, reason=reason, peer=f"{requestor.address}:{requestor.port}")

    def _wake(self) -> None:
        if self.socket is not None:
            self.socket.wake.set()


def _why(exc: OSError) -> str:
    return exc.strerror or str(exc) or type(exc).__name__

"""What the reading path relies on in pynetdicom: a release that changes it is not to be listed."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pynetdicom
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationSocket, RequestHandler
from structlog.testing import capture_logs

from receiver import transport
from receiver.scp import SharedContext
from tests.support.instances import CR

SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
#: Every method that is overridden, called or relied on to call what is overridden.
SIGNATURES: dict[Callable[..., Any], str] = {
    RequestHandler._create_association: "(self) -> 'Association'",
    RequestHandler.__init__: (
        "(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any,"
        " server: 'BaseServer') -> None"
    ),
    AssociationSocket.__init__: (
        "(self, assoc: 'Association', client_socket: socket.socket | None = None,"
        " address: pynetdicom.transport.AddressInformation | None = None) -> None"
    ),
    AssociationSocket.recv: "(self, nr_bytes: int) -> bytearray",
    AssociationSocket.send: "(self, bytestream: bytes) -> None",
    AssociationSocket.close: "(self) -> None",
    DULServiceProvider.__init__: "(self, assoc: 'Association') -> None",
    DULServiceProvider.run_reactor: "(self) -> None",
    DULServiceProvider.kill_dul: "(self) -> None",
    DULServiceProvider.stop_dul: "(self) -> bool",
    DULServiceProvider.idle_timer_expired: "(self) -> bool",
    DULServiceProvider._read_pdu_data: "(self) -> None",
    DULServiceProvider._is_transport_event: "(self) -> bool",
    DULServiceProvider._process_recv_primitive: "(self) -> bool",
    Association._run_reactor: "(self) -> None",
    Association.kill: "(self) -> None",
    DIMSEServiceProvider.receive_primitive: "(self, primitive: 'P_DATA') -> None",
    P_DATA_TF.__init__: "(self, primitive: 'P_DATA | None' = None) -> None",
    # … and what a report of ours goes by, over the association that asked for it.
    DULServiceProvider.peek_next_pdu: "(self) -> '_UserQueuePrimitives | None'",
    DIMSEServiceProvider.get_msg: (
        "(self, block: bool = False) -> tuple[None, None] | tuple[int, 'C_ECHO | C_FIND | C_GET"
        " | C_MOVE | C_STORE | N_ACTION | N_CREATE | N_DELETE | N_EVENT_REPORT | N_GET | N_SET']"
    ),
    DIMSEServiceProvider.send_msg: (
        "(self, primitive: 'C_CANCEL | DimseServiceType', context_id: int) -> None"
    ),
    Association._serve_request: (
        "(self, msg: 'C_ECHO | C_FIND | C_GET | C_MOVE | C_STORE | N_ACTION | N_CREATE | N_DELETE"
        " | N_EVENT_REPORT | N_GET | N_SET', context_id: int) -> None"
    ),
}
#: Where pynetdicom calls what is overridden, and what it does around it.
LINES: dict[Callable[..., Any], list[str]] = {
    DULServiceProvider.run_reactor: [
        "self.assoc._dul_ready.set()",
        "time.sleep(self._run_loop_delay)",
        "if self._kill_thread:",
        "if self._process_recv_primitive():",
        "elif self._is_transport_event():",
        "self._idle_timer.restart()",
        "event = self.event_queue.get(block=False)",
        "self.state_machine.do_action(event)",
    ],
    DULServiceProvider._is_transport_event: [
        'if self.state_machine.current_state == "Sta13":',
        "if self.socket and self.socket.ready:",
        "self._read_pdu_data()",
        "self.socket.close()",
    ],
    DULServiceProvider._read_pdu_data: [
        "bytestream.extend(self.socket.recv(6))",
        "bytestream += self.socket.recv(pdu_length)",
        "self._recv_pdu.put(pdu)",
    ],
    DULServiceProvider.stop_dul: ["while self.is_alive():"],
    Association._run_reactor: [
        "while not self._kill:",
        "self._is_paused = True",
        "self._reactor_checkpoint.wait()",
        "self._is_paused = False",
        "context_id, msg = self.dimse.get_msg(block=False)",
        "if self.is_established and self.acse.is_release_requested():",
        "if self.acse.is_aborted():",
        "if not self.dul.is_alive():",
        "if self.dul.idle_timer_expired():",
    ],
    RequestHandler._create_association: [
        "sock = AssociationSocket(assoc, client_socket=self.request)",
        "assoc.set_socket(sock)",
        "assoc.acceptor.supported_contexts = deepcopy(self.server.contexts)",
    ],
}


def test_the_installed_release_is_known() -> None:
    assert pynetdicom.__version__ in transport.KNOWN_VERSIONS


@pytest.mark.parametrize("method", SIGNATURES, ids=lambda m: m.__qualname__)
def test_a_method_is_called_as_before(method: Callable[..., Any]) -> None:
    assert str(inspect.signature(method)) == SIGNATURES[method]


@pytest.mark.parametrize("method", LINES, ids=lambda m: m.__qualname__)
def test_a_method_does_what_is_relied_on_in_that_order(method: Callable[..., Any]) -> None:
    source, at = inspect.getsource(method), 0
    for line in LINES[method]:
        at = source.find(line, at)
        assert at >= 0, line


def test_negotiation_only_reads_the_contexts_that_all_associations_share() -> None:
    supported: list[PresentationContext] = [
        SharedContext.of(build_context(uid, SYNTAXES)) for uid in (CR, Verification)
    ]
    before = [deepcopy(vars(shared)) for shared in supported]
    proposed = [build_context(uid, SYNTAXES[1:]) for uid in (CR, "1.2.3")]
    for n, context in enumerate(proposed):
        context.context_id = 2 * n + 1
    copied = deepcopy(supported)
    found, _ = negotiate_as_acceptor(proposed, copied, {UID(CR): (True, True)})
    assert [(context.result, context.transfer_syntax[0]) for context in found] == [
        (0x00, SYNTAXES[1]),
        (0x03, SYNTAXES[1]),
    ]
    assert [vars(shared) for shared in supported] == before
    assert all(ours is theirs for ours, theirs in zip(supported, copied, strict=True))


def test_an_association_has_the_attributes_that_are_replaced_and_read() -> None:
    association = Association(AE(), MODE_ACCEPTOR)
    assert isinstance(association._reactor_checkpoint, type(threading.Event()))
    assert association._accepted_cx == {}
    assert association._kill is False
    assert association._is_paused is False
    assert association.is_established is False
    assert association.dimse.msg_queue.queue is not None
    assert association.requestor.maximum_length is None or association.requestor.maximum_length
    # The setters hand their values on to whatever provider is there.
    dul = association.dul = DULServiceProvider(association)
    association.acse_timeout, association.network_timeout = 7, 8
    assert (dul.artim_timer.timeout, dul._idle_timer.timeout) == (7, 8)
    assert association.acse.dul is association.dimse.dul is dul


def test_the_upper_layer_has_the_attributes_that_are_replaced_and_read() -> None:
    dul = DULServiceProvider(Association(AE(), MODE_ACCEPTOR))
    for name in ("event_queue", "to_provider_queue", "to_user_queue", "_recv_pdu"):
        assert getattr(dul, name).empty()
    assert dul._run_loop_delay > 0
    assert dul._kill_thread is False
    assert dul.state_machine.current_state == "Sta1"
    dul._idle_timer.timeout = 0
    dul._idle_timer.start()
    dul._idle_timer.stop()
    assert isinstance(dul.idle_timer_expired(), bool)


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_clock_ends_no_association(
    step_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = Association(AE(), MODE_ACCEPTOR)
    dul = association.dul = transport.StreamingDul(association, lambda _: pytest.fail("no C-STORE"))
    association.acse_timeout = association.network_timeout = 60
    now = time.time()
    for timer in (dul._idle_timer, dul.artim_timer):
        timer.start()
        monkeypatch.setattr(time, "time", lambda: now + step_s)
        assert not timer.expired
        assert 0 < timer.remaining <= 60
        timer.stop()
        assert not timer.expired
        timer.timeout = -1
        assert timer.expired


def test_what_is_overridden_is_a_property() -> None:
    assert isinstance(AssociationSocket.ready, property)
    assert isinstance(AssociationSocket.event_queue, property)


def test_events_mean_what_they_did_while_an_association_is_open() -> None:
    # P-DATA came; the connection was closed; what came is no PDU
    assert TRANSITION_TABLE["Evt10", "Sta6"] == "DT-2"
    assert TRANSITION_TABLE["Evt17", "Sta6"] == "AA-4"
    assert TRANSITION_TABLE["Evt19", "Sta6"] == "AA-8"
    assert TRANSITION_TABLE["Evt17", "Sta13"] == "AR-5"
    assert TRANSITION_TABLE["Evt18", "Sta13"] == "AA-2"


def test_a_pdv_that_is_passed_on_is_the_one_that_came() -> None:
    primitive = P_DATA()
    primitive.presentation_data_value_list.append((5, b"\x03command"))
    assert P_DATA_TF(primitive).encode() == b"\x04\0\0\0\0\x0d\0\0\0\x09\x05\x03command"


def test_a_release_that_is_not_known_reads_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynetdicom, "__version__", "3.99.0")
    with capture_logs() as lines:
        handler = transport.request_handler(lambda *_: pytest.fail("not called"))
    assert handler is RequestHandler
    assert [(line["event"], line["pynetdicom"]) for line in lines] == [("transport.slow", "3.99.0")]

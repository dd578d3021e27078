"""The pynetdicom side: contexts, handlers, sockets, start and stop. No rule of the gateway here."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast
from weakref import WeakSet

import structlog
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.presentation import PresentationContext

from receiver import reporting
from receiver.associations import OpenAssociation
from receiver.commitments import Commitments
from receiver.doorway import GuardedServer
from receiver.gate import Gate
from receiver.handlers import Answer, Arrival, StoreRequest, store
from receiver.incoming import Incoming
from receiver.profiles import Context
from receiver.transport import request_handler

log = structlog.get_logger(__name__)

LISTEN_BACKLOG = 128
POLL_S = 0.25
#: for the A-ABORT PDUs to leave
ABORT_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScpOptions:
    """How the SCP listens."""

    host: str
    port: int
    ae_title: str
    contexts: Sequence[Context]
    max_pdu_bytes: int
    #: seconds of silence after which an association is aborted; 0: never
    idle_timeout_s: float
    #: None: plain DICOM
    tls: ssl.SSLContext | None = None
    #: an association that is released has sent its studies whole
    is_release_complete: bool = False


class Scp:
    """One SCP on a port that its sibling processes share.

    Args:
        options: How it listens.
        incoming: Where the instances go.
        gate: Who is let in.
        commitments: Storage Commitment; None: not offered.
    """

    def __init__(
        self,
        options: ScpOptions,
        incoming: Incoming,
        gate: Gate,
        commitments: Commitments | None = None,
    ) -> None:
        self.options = options
        self.incoming = incoming
        self.gate = gate
        self.commitments = commitments
        self._open: dict[Association, OpenAssociation] = {}
        self._guard = threading.Lock()
        # pynetdicom's default handlers describe every message: costly, and dumps say too much.
        _config.LOG_HANDLER_LEVEL = "none"
        self._server = self._make_server()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="listener", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to accept associations."""
        self._thread.start()

    def tend(self) -> None:
        """Take away the marks of associations that ended without a word. Call now and then."""
        for association in list(self._open):
            if not association.is_alive():
                self._forget(association)
        self.gate.tend()
        if self.commitments is not None:
            self.commitments.tend()

    def stop(self, grace_s: float) -> int:
        """Stop accepting, let associations finish, then abort them.

        Args:
            grace_s: Seconds they may take.

        Returns:
            How many were aborted.
        """
        socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        deadline = time.monotonic() + grace_s
        while self._established() and time.monotonic() < deadline:
            time.sleep(0.05)
        rest = self._established()
        for association in rest:
            association.abort(block=False)
        time.sleep(ABORT_S if rest else 0)
        return len(rest)

    def _established(self) -> list[Association]:
        # A connection that has not become an association has nothing to finish.
        return [a for a in self._server.active_associations if a.is_established]

    def _make_server(self) -> _Server:
        options = self.options
        ae = AE(ae_title=options.ae_title)
        ae.maximum_associations = sys.maxsize  # the gate counts, over all processes
        ae.acse_timeout = self.gate.associate_timeout_s
        ae.maximum_pdu_size = options.max_pdu_bytes
        ae.network_timeout = options.idle_timeout_s or None
        for context in options.contexts:
            # pynetdicom takes the first of *these* that the peer offers, so their order decides.
            ae.add_supported_context(context.sop_class_uid, list(context.transfer_syntax_uids))
        if self.commitments is not None:
            ae.add_supported_context(reporting.SOP_CLASS, list(reporting.SYNTAXES))
        server = ae.make_server(
            (options.host, options.port),
            contexts=[SharedContext.of(context) for context in ae.supported_contexts],
            evt_handlers=[
                (evt.EVT_C_ECHO, lambda _: 0x0000),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_RELEASED, self._on_end),
                (evt.EVT_ABORTED, self._on_end),
                *self.gate.handlers,
                *(self.commitments.handlers if self.commitments else ()),
            ],
            server_class=_Server,
            request_handler=request_handler(self._begin),
        )
        assert isinstance(server, _Server)  # noqa: S101 - for mypy: make_server returns a union
        server.gate, server.tls = self.gate, options.tls
        return server

    def _begin(self, association: Association, request: StoreRequest) -> Arrival:
        return Arrival(self.incoming, request, self._opened(association))

    def _on_store(self, event: evt.Event) -> int | Dataset:
        request, context = cast(C_STORE, event.request), event.context
        # A view of the one buffer that pynetdicom filled: no copy, however large the instance.
        with (request.DataSet or BytesIO()).getbuffer() as data_set:
            answer = store(
                self.incoming,
                StoreRequest(
                    sop_class_uid=str(request.AffectedSOPClassUID),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID),
                    abstract_syntax_uid=str(context.abstract_syntax),
                    transfer_syntax_uid=str(context.transfer_syntax),
                ),
                data_set,
                self._opened(event.assoc),
            )
        return _response(answer)

    def _opened(self, association: Association) -> OpenAssociation:
        with self._guard:
            if association not in self._open:
                requestor = association.requestor
                self._open[association] = OpenAssociation(
                    self.incoming.process,
                    calling_aet=str(requestor.ae_title).strip(),
                    peer=f"{requestor.address}:{requestor.port}",
                )
            return self._open[association]

    def _on_end(self, event: evt.Event) -> None:
        # Called in the association's own thread, after its last C-STORE. `tend` makes up for a
        # failure here: pynetdicom swallows it.
        was_released = event.event is evt.EVT_RELEASED
        self._forget(event.assoc, is_complete=was_released and self.options.is_release_complete)

    def _forget(self, association: Association, *, is_complete: bool = False) -> None:
        with self._guard:
            ended = self._open.pop(association, None)
        if ended is not None:
            # What was refused comes again: then the study is not whole.
            if is_complete and not ended.n_refused:
                ended.close_complete()
            else:
                ended.close()
            log.info(
                "association.ended",
                calling_aet=ended.calling_aet,
                peer=ended.peer,
                n_stored=ended.n_stored,
                n_refused=ended.n_refused,
            )


class SharedContext(PresentationContext):
    """A supported context of all associations: pynetdicom copies them for each, and reads only."""

    @classmethod
    def of(cls, context: PresentationContext) -> SharedContext:
        """One that says the same."""
        shared = cls()
        vars(shared).update(vars(context))
        return shared

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedContext:
        """Itself. Copies were a sixth of the time that an association takes to open."""
        return self


class _Server(GuardedServer):
    """A listening socket that several processes may share, and accepted ones without delay."""

    request_queue_size = LISTEN_BACKLOG
    daemon_threads = True

    def server_bind(self) -> None:
        cast(socket.socket, self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        # Nagle's algorithm against delayed ACKs would cost 40 ms per instance.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without one, half a PDU and then silence would hold the reading thread forever.
        connection.settimeout(self.ae.network_timeout)
        return connection, address


class PeerInLog(logging.Filter):
    """Makes pynetdicom's complaints one line per connection, with the peer they are about."""

    def __init__(self) -> None:
        super().__init__()
        self._told: WeakSet[Association] = WeakSet()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the first complaint pass; stack traces and what follows from it are dropped."""
        if record.exc_info:
            return False
        thread = threading.current_thread()
        association = thread.assoc if isinstance(thread, DULServiceProvider) else thread
        if not isinstance(association, Association):
            return True
        if association in self._told:
            return False
        self._told.add(association)
        with suppress(AttributeError, ValueError):
            requestor = association.requestor
            record.msg = f"{record.getMessage()} (peer {requestor.address}:{requestor.port})"
            record.args = ()
        return True


def quiet_library() -> None:
    """Keep the libraries' own lines short and free of data. Call after logging is configured."""
    names = [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "pynetdicom"]
    peer_in_log = PeerInLog()
    for name in names:
        # Filters do not apply to the records of child loggers, so each gets it.
        logging.getLogger(name).addFilter(peer_in_log)
    # What is wrong with a UID is ours to say; pydicom's warnings would show values, and cost time.
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


def _response(answer: Answer) -> int | Dataset:
    if not answer.status:
        return 0x0000
    response = Dataset()
    response.Status = int(answer.status)
    response.ErrorComment = answer.status.meaning
    return response

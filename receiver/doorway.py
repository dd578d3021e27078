"""Connections from `accept` to pynetdicom: counted as pending, and secured in their own thread."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import structlog
from pynetdicom.transport import ThreadedAssociationServer

from pacsor_tasks.refusals import Reason
from receiver.admission import is_loopback, plain_address
from receiver.tls import NoTls, let_go, shake_hands, wrapped

if TYPE_CHECKING:
    from receiver.gate import Gate

log = structlog.get_logger(__name__)


class GuardedServer(ThreadedAssociationServer):
    """A server that a gate watches over. Set `gate`, and `tls` if wanted, before it serves."""

    gate: Gate
    #: None: plain DICOM
    tls: ssl.SSLContext | None = None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take the connection note of; somebody else's may have to go for it."""
        self.gate.connected(client_address, request)
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: the handshake, then the association."""
        if self.tls is not None:
            request = self._secured(self.tls, request, client_address)
            if request is None:
                return
        super().finish_request(request, client_address)

    def _secured(
        self, tls: ssl.SSLContext, request: Any, client_address: Any
    ) -> ssl.SSLSocket | None:
        secured = None
        try:
            secured = wrapped(tls, request)
            self.gate.connected(client_address, secured)
            shake_hands(secured, self.gate.associate_timeout_s)
        except NoTls as exc:
            self._tell(exc, plain_address(client_address[0]))
            if secured is not None:
                let_go(secured)
            # Only now: who is let go is still one of those that are waited for.
            self.gate.pending.done(client_address)
            return None
        return secured

    def _tell(self, exc: NoTls, address: str) -> None:
        # Health checks connect and hang up, or have no certificate: no sender of this machine's.
        if exc.is_silent or (exc.has_no_certificate and is_loopback(address)):
            log.debug("tls.none", address=address, reason=str(exc))
        else:
            self.gate.refuse(address, Reason.TLS, str(exc))

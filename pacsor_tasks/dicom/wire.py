"""A PACS at the other end of a TCP connection: whole PDUs in, buffers out, every wait bounded."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pacsor_tasks.dicom.dimse import Buffer
from pacsor_tasks.errors import BadResponse, PeerUnavailable

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7
#: The largest PDU a peer may send us (bytes). Its answers are a few hundred bytes long.
MAX_INCOMING_BYTES = 1 << 20
#: Taken from the kernel at once.
RECEIVE_BYTES = 1 << 16
#: Buffers one system call takes.
IOV_MAX = 1024
#: Seconds a last word (A-ABORT) may take.
FAREWELL_S = 1.0

#: PS3.8 Table 9-26, source 2.
_ABORT_REASONS = {
    1: "unrecognised PDU",
    2: "unexpected PDU",
    4: "unrecognised PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacs:
    """A PACS and how long it may take."""

    #: the destination's name: `storescu`, `storescu-2`, …
    name: str
    host: str
    port: int
    called_aet: str
    calling_aet: str
    #: seconds to connect, and again to answer the association request or its release
    connect_timeout_s: float
    #: seconds without progress while an instance is sent, and again to its answer
    timeout_s: float
    #: associations at once for one delivery, if it answers slowly
    associations: int = 1
    #: None: plain DICOM
    tls: ssl.SSLContext | None = None
    #: name in its certificate; None: the host
    tls_name: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


class Wire:
    """The connection. Socket errors leave it as PeerUnavailable, named after the PACS."""

    def __init__(self, pacs: Pacs, connection: socket.socket) -> None:
        self._pacs = pacs
        self._socket = connection
        connection.setblocking(False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writable.register(connection, select.POLLOUT)
        #: what came after the last whole PDU
        self._pending = bytearray()

    def send(self, parts: Sequence[Buffer], timeout_s: float) -> None:
        """Send buffers in order, none copied.

        Args:
            parts: Any number of any size.
            timeout_s: How long the peer may take nothing at all.

        Raises:
            PeerUnavailable: The peer takes nothing, or the connection is lost.
        """
        left = list(parts)
        try:
            while left:
                try:
                    sent = self._socket.sendmsg(left[:IOV_MAX])
                except BlockingIOError:
                    _wait(self._writable, timeout_s)
                    continue
                done = 0
                while done < len(left) and sent >= len(left[done]):
                    sent -= len(left[done])
                    done += 1
                del left[:done]
                if sent:
                    left[0] = memoryview(left[0])[sent:]
        except OSError as exc:
            raise self._translated(exc, "did not take data", timeout_s) from exc

    def receive(self, timeout_s: float) -> tuple[int, bytearray]:
        """The next PDU: its type and its whole bytes, header included.

        Args:
            timeout_s: For the whole PDU, however it trickles in.

        Raises:
            PeerUnavailable: No PDU in time, connection lost, or the peer aborted.
            BadResponse: What answers does not speak the DICOM upper layer.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._fill(6, deadline)
            kind, length = self._pending[0], int.from_bytes(self._pending[2:6], "big")
            if not 1 <= kind <= 7 or length > MAX_INCOMING_BYTES:
                raise BadResponse(f"{self._pacs} does not speak DICOM")
            self._fill(6 + length, deadline)
        except OSError as exc:
            raise self._translated(exc, "did not answer", timeout_s) from exc
        pdu = self._pending[: 6 + length]
        del self._pending[: 6 + length]
        if kind == ABORT:
            raise PeerUnavailable(f"{self._pacs} aborted the association{_why(pdu)}")
        return kind, pdu

    def farewell(self, pdu: bytes) -> None:
        """Say a last word if the peer still takes it."""
        try:
            self._socket.settimeout(FAREWELL_S)
            self._socket.sendall(pdu)
        except OSError:
            pass  # the connection is closed next anyway

    def cut(self) -> None:
        """End the connection, from any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _fill(self, size: int, deadline: float) -> None:
        while len(self._pending) < size:
            _wait(self._readable, deadline - time.monotonic())
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue  # the kernel had thought there was something
            if not data:
                raise ConnectionError("closed the connection")
            self._pending += data

    def _translated(self, exc: OSError, complaint: str, timeout_s: float) -> PeerUnavailable:
        if isinstance(exc, TimeoutError) and not exc.errno:
            return PeerUnavailable(f"{self._pacs} {complaint} within {timeout_s:g} s")
        # An errno has a strerror; our own ConnectionError has only its words.
        what = f"lost the connection: {exc.strerror}" if exc.strerror else str(exc)
        return PeerUnavailable(f"{self._pacs} {what}")


class TlsWire(Wire):
    """The same over TLS, where nothing can be polled for: its session reads and writes ahead."""

    def send(self, parts: Sequence[Buffer], timeout_s: float) -> None:
        """As `Wire.send`; the buffers are copied together, since each write makes a TLS record."""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(b"".join(parts))
        except OSError as exc:
            raise self._translated(exc, "did not take data", timeout_s) from exc

    def _fill(self, size: int, deadline: float) -> None:
        while len(self._pending) < size:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("closed the connection")
            self._pending += data


def _wait(poll: select.poll, timeout_s: float) -> None:
    if timeout_s <= 0 or not poll.poll(math.ceil(timeout_s * 1000)):
        raise TimeoutError


@contextmanager
def connect(pacs: Pacs) -> Iterator[Wire]:
    """A connection to the PACS, closed on the way out.

    A name with several addresses gets the connect timeout for each of them.

    Raises:
        PeerUnavailable: No such host, refused, no answer in time, or no TLS session.
    """
    try:
        connection = socket.create_connection((pacs.host, pacs.port), pacs.connect_timeout_s)
    except TimeoutError as exc:
        raise PeerUnavailable(
            f"{pacs}: no TCP connection within {pacs.connect_timeout_s:g} s"
        ) from exc
    except OSError as exc:
        raise PeerUnavailable(f"{pacs}: no TCP connection: {exc.strerror or exc}") from exc
    # With Nagle's algorithm every instance would wait for the peer's delayed ACK (40 ms).
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pacs.tls is None:
        with connection:
            yield Wire(pacs, connection)
        return
    with connection, _secured(pacs, pacs.tls, connection) as secured:
        yield TlsWire(pacs, secured)


def _secured(pacs: Pacs, context: ssl.SSLContext, connection: socket.socket) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(connection, server_hostname=pacs.tls_name or pacs.host)
    except TimeoutError as exc:
        raise PeerUnavailable(f"{pacs}: no TLS within {pacs.connect_timeout_s:g} s") from exc
    except OSError as exc:
        reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise PeerUnavailable(f"{pacs}: no TLS: {reason or exc}") from exc


def _why(pdu: bytearray) -> str:
    source, reason = pdu[8:10] if len(pdu) >= 10 else (0, 0)
    return f" ({_ABORT_REASONS.get(reason, 'no reason given')})" if source == 2 else ""

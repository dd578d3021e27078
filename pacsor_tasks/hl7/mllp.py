"""MLLP over TCP: one message out, its acknowledgement back, every wait bounded.

Sockets of our own, since the libraries' clients have no time limits or read an acknowledgement
with a single `recv`. Source: contract §3.4 to §3.6; HL7 Transport Specification: MLLP, Release 1.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7.ack import AckMismatch
from pacsor_tasks.tls import Tls

START, END, CR = 0x0B, 0x1C, 0x0D
#: An acknowledgement is a few hundred bytes; some repeat the message.
MAX_ACK_BYTES = 1024 * 1024
#: A peer slower than this over the whole message is taken for stuck, bytes/s.
MIN_SEND_RATE = 32 * 1024
#: How long the CR after the end byte is waited for, seconds: the acknowledgement is whole without.
LAST_CR_WAIT_S = 0.5
#: Little is left in the kernel when the wait for the answer begins: it would eat into that time.
SEND_BUFFER_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_NOISE = b"\r\n\t \0"


def exchange(
    host: str, port: int, message: bytes, *, timeout_s: float, tls: Tls | None = None
) -> bytes:
    """Send one message on a connection of its own and return what the peer answered.

    Args:
        host: Name or address of the peer, IPv6 included.
        port: Its MLLP port.
        message: Without frame.
        tls: How it proves who it is; None: no TLS.
        timeout_s: Seconds to connect; again at most that long without progress while sending (and
            in all, the time the message takes at 32 kB/s more); again for the whole answer.

    Returns:
        The content of the answer's frame.

    Raises:
        PeerUnavailable: No connection, no (whole) answer in time, or the connection broke.
        AckMismatch: The answer is not one MLLP frame.
    """
    with Connection(host, port, timeout_s=timeout_s, tls=tls) as connection:
        return connection.exchange(message)


def connect_check(host: str, port: int, timeout_s: float, tls: Tls | None = None) -> None:
    """Connect and hang up.

    Raises:
        PeerUnavailable: Nobody listens there, or TLS fails.
    """
    with Connection(host, port, timeout_s=timeout_s, tls=tls):
        pass


class Connection:
    """A connection to one MLLP peer, with one message under way at a time.

    After an exception its state is not known: close it.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float, tls: Tls | None = None) -> None:
        self._peer = f"RIS {f'[{host}]' if ':' in host.strip('[]') else host}:{port}"
        self._timeout_s = timeout_s
        name, deadline = host.strip("[]"), time.monotonic() + timeout_s
        with self._translated("no connection"):
            self._socket = _connect(name, port, deadline)
        if tls is not None:
            with self._translated("no TLS session"):
                self._allow(deadline - time.monotonic())
                self._socket = _secured(self._socket, tls, name)

    def __enter__(self) -> Self:
        """Nothing to do: it is connected."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up. More than once is harmless."""
        self._socket.close()

    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing came that nobody asked for."""
        try:
            readable, _, _ = select.select([self._socket], [], [], 0)
        except (OSError, ValueError):
            return False
        return not readable

    def exchange(self, message: bytes) -> bytes:
        """Send one message and wait for its answer; see the function of the same name."""
        with self._translated("the message was not taken"):
            self._send(bytes((START,)) + message + bytes((END, CR)))
        return self._receive()

    def _send(self, frame: bytes) -> None:
        deadline = time.monotonic() + self._timeout_s + len(frame) / MIN_SEND_RATE
        rest = memoryview(frame)
        while rest:
            self._allow(min(self._timeout_s, deadline - time.monotonic()))
            rest = rest[self._socket.send(rest[:_CHUNK_BYTES]) :]

    def _receive(self) -> bytes:
        frame = Frame()
        deadline = time.monotonic() + self._timeout_s
        while not frame.has_last_cr:
            try:
                with self._translated(frame.progress):
                    self._allow(deadline - time.monotonic())
                    data = self._socket.recv(_CHUNK_BYTES)
                    if not data:
                        raise ConnectionAbortedError("the peer closed the connection")
            except PeerUnavailable:
                if frame.content is None:
                    raise
                break
            was_whole = frame.content is not None
            frame.feed(data)
            if frame.content is not None and not was_whole:
                deadline = min(deadline, time.monotonic() + LAST_CR_WAIT_S)
        assert frame.content is not None  # noqa: S101 - the loop ends no other way
        return frame.content

    def _allow(self, seconds: float) -> None:
        if seconds <= 0:
            raise TimeoutError
        self._socket.settimeout(seconds)

    @contextmanager
    def _translated(self, waiting_for: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as exc:
            raise PeerUnavailable(
                f"{self._peer}: {waiting_for} within {self._timeout_s:g} s"
            ) from exc
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            raise PeerUnavailable(f"{self._peer}: {waiting_for} ({reason})") from exc


class Frame:
    """One frame, put together from the pieces in which it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        #: what stands between the frame's bytes; None until its end has come
        self.content: bytes | None = None
        self.has_last_cr = False

    @property
    def progress(self) -> str:
        """What is still missing, for the error message."""
        if not self._buffer:
            return "no acknowledgement"
        return f"no end of the acknowledgement, of which {len(self._buffer)} bytes came,"

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            AckMismatch: Too long, not a frame, or more than one.
        """
        self._buffer += data
        if len(self._buffer) > MAX_ACK_BYTES:
            raise AckMismatch(f"the answer is longer than {MAX_ACK_BYTES} bytes")
        self._drop_noise()
        end = self._buffer.find(END, self._searched)
        self._searched = len(self._buffer) if end < 0 else end
        if end < 0:
            return
        rest = self._buffer[end + 1 :]
        if self._buffer.find(START, 1, end) >= 0 or rest.strip(_NOISE):
            # Which of them is about our message, and did the peer see one message or two?
            raise AckMismatch("the answer is more than one MLLP frame")
        self.content = bytes(self._buffer[1:end])
        self.has_last_cr = CR in rest

    def _drop_noise(self) -> None:
        """Blank bytes before a frame are a habit of some peers; anything else is not MLLP."""
        if self._searched:
            return
        self._buffer = self._buffer.lstrip(_NOISE)
        if self._buffer and self._buffer[0] != START:
            raise AckMismatch("the answer is not an MLLP frame")


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Try the host's addresses in turn, so that a dead first one leaves time for the others."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error: OSError = TimeoutError()
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        share_s = (deadline - time.monotonic()) / (len(addresses) - number)
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            connection.settimeout(max(share_s, 0.001))
            connection.connect(address)
            # A frame's last bytes must not wait for the peer's delayed TCP acknowledgement.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as exc:
            connection.close()
            error = exc
        else:
            return connection
    raise error


def _secured(connection: socket.socket, tls: Tls, host: str) -> ssl.SSLSocket:
    try:
        return tls.context().wrap_socket(connection, server_hostname=tls.name or host)
    except BaseException:
        connection.close()
        raise

"""MLLP over TCP: one message out, its acknowledgement back, every wait bounded.

Sockets of our own, since the libraries' clients have no time limits or read an acknowledgement
with a single `recv`. Source: contract §3.4 to §3.6; HL7 Transport Specification: MLLP, Release 1.
"""

from __future__ import annotations

import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7.ack import ACCEPTED, AckMismatch, parse_ack
from pacsor_tasks.hl7.frames import CR, END, START, Frames
from pacsor_tasks.tls import Tls

#: A peer slower than this over the whole message is taken for stuck, bytes/s.
MIN_SEND_RATE = 32 * 1024
#: How long the CR after the end byte is waited for, seconds: the acknowledgement is whole without.
LAST_CR_WAIT_S = 0.5
#: How long what a peer said before it stopped reading is read, seconds.
EARLY_ANSWER_WAIT_S = 0.5
#: Little is left in the kernel when the wait for the answer begins: it would eat into that time.
SEND_BUFFER_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


def exchange(
    host: str, port: int, message: bytes, *, timeout_s: float, tls: Tls | None = None
) -> bytes:
    """Send one message on a connection of its own and return what the peer answered.

    Args:
        host: Name or address of the peer, IPv6 included.
        port: Its MLLP port.
        message: Without frame.
        tls: How it proves who it is; None: no TLS.
        timeout_s: Seconds to find the host's address and connect; again at most that long without
            progress while sending (and in all, the time the message takes at 32 kB/s more); again
            for the whole answer.

    Returns:
        The content of the answer's frame; of a commit and an application acknowledgement that
        come together, the latter's. Also a refusal by a peer that did not read the whole message.

    Raises:
        PeerUnavailable: No connection, no (whole) answer in time, or the connection broke.
        AckMismatch: The answer is neither.
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
        try:
            with self._translated("the message was not taken"):
                self._send(bytes((START,)) + message + bytes((END, CR)))
        except PeerUnavailable:
            refusal = self._early_refusal(_control_id(message))
            self.close()  # half a message is on its way
            if refusal is None:
                raise
            return refusal
        return self._receive(_control_id(message))

    def _send(self, frame: bytes) -> None:
        deadline = time.monotonic() + self._timeout_s + len(frame) / MIN_SEND_RATE
        rest = memoryview(frame)
        while rest:
            self._allow(min(self._timeout_s, deadline - time.monotonic()))
            rest = rest[self._socket.send(rest[:_CHUNK_BYTES]) :]

    def _early_refusal(self, control_id: str) -> bytes | None:
        """What a peer said that refuses a message, a too large one say, and reads no further.

        An acceptance of what was not sent whole means nothing.
        """
        frames = Frames()
        deadline = time.monotonic() + EARLY_ANSWER_WAIT_S
        with suppress(OSError, AckMismatch):
            while not frames.is_whole:
                self._read(frames, deadline)
        with suppress(AckMismatch):
            answer = frames.counting(control_id)
            ack = parse_ack(answer)
            if ack.control_id == control_id and ack.code not in ACCEPTED:
                return answer
        return None

    def _receive(self, control_id: str) -> bytes:
        frames = Frames()
        deadline = time.monotonic() + self._timeout_s
        while not frames.is_whole:
            try:
                with self._translated(frames.progress):
                    was_empty = not frames.contents
                    self._read(frames, deadline)
            except PeerUnavailable:
                if not frames.contents:
                    raise
                break
            if frames.contents and was_empty:
                deadline = min(deadline, time.monotonic() + LAST_CR_WAIT_S)
        return frames.counting(control_id)

    def _read(self, frames: Frames, deadline: float) -> None:
        self._allow(deadline - time.monotonic())
        data = self._socket.recv(_CHUNK_BYTES)
        if not data:
            raise ConnectionAbortedError("the peer closed the connection")
        frames.feed(data)

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


def _control_id(message: bytes) -> str:
    """MSH-10 of a message of ours; empty if it has none."""
    header = message.split(b"\r", 1)[0].split(b"|")
    return header[9].decode("utf-8", "replace") if len(header) > 9 else ""


Resolve = Callable[..., list[tuple[Any, ...]]]


def addresses(
    host: str, port: int, timeout_s: float, resolve: Resolve = socket.getaddrinfo
) -> Sequence[tuple[Any, ...]]:
    """A host's addresses as `getaddrinfo` gives them, which knows no time limit itself.

    Raises:
        TimeoutError: The name service does not answer. A thread is left that waits for it.
        OSError, UnicodeError: There is no such host.
    """
    with suppress(socket.gaierror):
        # An address needs no name service, and no thread.
        return resolve(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(resolve(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as exc:
            answers.put(exc)

    threading.Thread(target=look_up, name="mllp-resolve", daemon=True).start()
    try:
        found = answers.get(timeout=max(timeout_s, 0.001))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Try the host's addresses in turn, so that a dead first one leaves time for the others."""
    found = addresses(host, port, deadline - time.monotonic())
    error: OSError = TimeoutError()
    for number, (family, kind, protocol, _, address) in enumerate(found):
        share_s = (deadline - time.monotonic()) / (len(found) - number)
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

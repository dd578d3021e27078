"""A DICOM connection that is read without ever blocking, into one buffer.

In the place of pynetdicom's, which asks every millisecond whether there is something to read.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from typing import Protocol, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from pacsor_tasks.native import native
from receiver.lane import Lane, Turn
from receiver.pdata import HEAD_BYTES, Position
from receiver.pouring import Poured, Sink, Stop
from receiver.waking import Wake

#: What one look may bring, and the longest PDU that is not P-DATA: an A-ASSOCIATE-RQ of 128
#: contexts with 40 transfer syntaxes each has about 150 kB. A CT or MR image fits as a whole.
BUFFER_BYTES = 5 << 17
#: When so much came at once there is more, and larger writes are cheaper.
MUCH_BYTES = 1 << 15
#: What is poured into a file at once at most, before others look.
POUR_BYTES = 1 << 24
#: Milliseconds without an event until the reading thread looks at its timers.
PATIENCE_MS = 250
#: … and until it goes on when it may not read yet.
SHORT_MS = 2
#: "Not now", of a socket that does not block: plain, or over TLS.
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Reader(Protocol):
    """What the socket needs to know of its association's upper layer service."""

    @property
    def must_wait(self) -> bool:
        """Whether nothing may be read now."""


class BufferedSocket(AssociationSocket):
    """A connection and what has been read of it. Used by one thread, but for `wake`."""

    def __init__(self, association: Association, client_socket: socket.socket) -> None:
        super().__init__(association, client_socket=client_socket)
        client_socket.settimeout(0)
        self.wake = Wake()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._start = self._end = 0
        self._poll: select.poll | None = None
        self._wake_fd = -1
        self._fd = -1

    @property
    def unread(self) -> memoryview:
        """What is in the buffer."""
        return self._buffer[self._start : self._end]

    @property
    def pdu_bytes(self) -> int:
        """Bytes of the PDU that begins in the buffer, if its head is there; else 0."""
        if self._end - self._start < HEAD_BYTES:
            return 0
        head = self.unread[:HEAD_BYTES]
        return HEAD_BYTES + int.from_bytes(head[2:], "big")

    @property
    def has_pdu(self) -> bool:
        """Whether a whole PDU, or one that never will be, is in the buffer."""
        n_bytes = self.pdu_bytes
        return 0 < n_bytes <= self._end - self._start or n_bytes > BUFFER_BYTES

    def consume(self, n_bytes: int) -> None:
        """So many bytes of `unread` are dealt with."""
        self._start += n_bytes

    def clear(self) -> None:
        """Drop what is in the buffer."""
        self._start = self._end = 0

    def fill(self) -> int | None:
        """Read what is there, into the free part of the buffer; wait a while for the first byte.

        Returns:
            The number of bytes; 0: the peer sends no more; None: nothing came.

        Raises:
            OSError: The connection is broken.
        """
        self._make_room()
        if native is not None and self._is_plain:
            n_bytes, is_woken = native.fill(
                self._fd, self._wake_fd, self._buffer, self._end, MUCH_BYTES, PATIENCE_MS
            )
            if is_woken:
                self.wake.clear()
            self._end += max(0, n_bytes)
            return None if n_bytes < 0 else n_bytes
        return self._fill()

    def _fill(self) -> int | None:
        n_bytes = self._receive()
        if n_bytes is None and self.wait(PATIENCE_MS):
            n_bytes = self._receive()
        last = n_bytes
        while last is not None and last >= MUCH_BYTES and self._end < BUFFER_BYTES // 2:
            # The end of the stream is seen again the next time.
            last = self._receive()
        return n_bytes

    @property
    def may_pour(self) -> bool:
        """Whether data can go from here into a file by themselves."""
        return native is not None and self._is_plain and self._start == self._end

    @property
    def _is_plain(self) -> bool:
        """Whether its file descriptor is all there is to it, and known."""
        sock = self.socket
        return (
            sock is not None
            and not isinstance(sock, ssl.SSLSocket)
            and self._wake_fd >= 0
            and sock.fileno() == self._fd
        )

    def pour(self, sink: Sink, context_id: int, position: Position) -> Poured:
        """As `Source.pour`. Only if it `may_pour`."""
        assert native is not None  # noqa: S101 - for mypy: it may pour
        stop, errno, start, end, pdu_left, pdv_left, control, n_written, n_begun = native.pour(
            self._fd,
            self._wake_fd,
            sink.fd,
            self._buffer,
            context_id,
            *position,
            sink.n_written,
            sink.n_begun,
            sink.early_bytes,
            POUR_BYTES,
            PATIENCE_MS,
        )
        self._start, self._end = start, end
        if stop == Stop.SOCKET_FAILED:
            raise OSError(errno, os.strerror(errno))
        return Poured(Stop(stop), errno, Position(pdu_left, pdv_left, control), n_written, n_begun)

    @property
    def may_store(self) -> bool:
        """Whether a lane can take from here."""
        return native is not None and self._is_plain

    def store(self, lane: Lane) -> Turn:
        """Let a lane take what comes. Only if it `may_store`, and what is unread begins a message.

        Raises:
            OSError: The connection is broken; what was stored before, is.
        """
        turn = lane.take(
            (self._fd, self._wake_fd), self._buffer, (self._start, self._end), PATIENCE_MS
        )
        self._start, self._end = turn.start, turn.end
        return turn

    def recv(self, nr_bytes: int) -> bytearray:
        """As pynetdicom's, of what is in the buffer: less is as if the peer had hung up."""
        data = bytearray(self.unread[:nr_bytes])
        self.consume(len(data))
        return data

    def send(self, bytestream: bytes) -> None:
        """As pynetdicom's."""
        try:
            self.send_all(bytestream)
        except OSError:
            self.event_queue.put("Evt17")
        else:
            evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})

    def send_all(self, data: bytes) -> None:
        """Send, or fail.

        Raises:
            OSError: The connection is broken, or nothing was taken for the idle timeout.
        """
        left = memoryview(data)
        while left:
            if self.socket is None:
                raise BrokenPipeError
            try:
                left = left[self.socket.send(left) :]
            except NOT_NOW as exc:
                is_reading = isinstance(exc, ssl.SSLWantReadError)
                self._wait_to_send(select.POLLIN if is_reading else select.POLLOUT)

    @property
    def ready(self) -> bool:
        """Whether there is something to read; waits for it, or for something else to do."""
        if self.socket is None or not self._is_connected:
            return False
        dul = self.assoc.dul
        if dul.event_queue.queue:
            return False
        if dul.state_machine.current_state == "Sta13":
            return self.wait(0)
        if cast(Reader, dul).must_wait:
            self.wait(SHORT_MS, only_wake=True)
            return False
        return self.has_pdu or self.wait(PATIENCE_MS)

    def wait(self, timeout_ms: int, *, only_wake: bool = False) -> bool:
        """Whether something can be read within that time. A `wake` ends it, too."""
        sock = self.socket
        if isinstance(sock, ssl.SSLSocket) and sock.pending() and not only_wake:
            return True
        if sock is None or sock.fileno() < 0:
            self.event_queue.put("Evt17")
            return False
        poll = self._poll or self._register(sock)
        if only_wake:
            poll.modify(self._fd, 0)
        found = [fd for fd, _ in poll.poll(timeout_ms)]
        if only_wake:
            poll.modify(self._fd, select.POLLIN)
        if self._wake_fd in found:
            self.wake.clear()
        return self._fd in found

    def _make_room(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
            return
        rest = bytes(self.unread)
        self._start, self._end = 0, len(rest)
        self._buffer[: self._end] = rest

    def _receive(self) -> int | None:
        if self.socket is None:
            return 0
        try:
            n_bytes = self.socket.recv_into(self._buffer[self._end :])
        except NOT_NOW:
            return None
        self._end += n_bytes
        return n_bytes

    def _wait_to_send(self, event: int) -> None:
        timeout_s = self.assoc.network_timeout
        sock = self.socket
        if sock is None or sock.fileno() < 0:
            raise BrokenPipeError
        poll = select.poll()
        poll.register(sock.fileno(), event)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            raise TimeoutError("the peer takes nothing")

    def _register(self, sock: socket.socket) -> select.poll:
        self._poll = select.poll()
        self._fd, self._wake_fd = sock.fileno(), self.wake.open()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        return self._poll

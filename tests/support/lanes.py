"""An association's way through the receiver without pynetdicom: with the lane, and without it."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pacsor_tasks.spool import Spool
from receiver.associations import OpenAssociation
from receiver.buffered_socket import BUFFER_BYTES
from receiver.durability import Durability
from receiver.handlers import Arrival, StoreRequest
from receiver.inbound import Accepted, Inbound
from receiver.incoming import Incoming
from receiver.lane import Lane, Lanes
from receiver.pdata import Malformed
from receiver.pouring import Stop
from tests.support import raw_dicom as raw
from tests.support.spools import open_site


@dataclass
class Served:
    """What came of a stream."""

    #: how it ended: open, malformed, or with a PDU that is not P-DATA
    end: str = "open"
    answers: bytes = b""
    #: <study>/<instance>.dcm → its bytes
    files: dict[str, bytes] = field(default_factory=dict)
    n_stored: int = 0
    n_refused: int = 0
    #: messages that are not C-STORE
    passed: bytes = b""


@dataclass
class Way:
    """Serves streams; as `transport.StreamingDul` does.

    Args:
        root: Of the spool.
        contexts: That were accepted.
        durability: Of the receiver.
        has_lane: Whether a lane may take what fits it.
        n_bytes: Of the buffer.
    """

    root: Path
    contexts: Mapping[int, Accepted]
    durability: Durability = Durability.GROUP
    has_lane: bool = True
    n_bytes: int = BUFFER_BYTES
    #: each part comes in such pieces, with pauses between, and is answered before the next
    piece_bytes: int | None = None
    #: of the socket, for answers; None: as it comes
    send_bytes: int | None = None
    #: turns of lanes, how many instances they took, and how often an answer was not taken at once
    n_turns: int = 0
    n_by_lane: int = 0
    n_unsent: int = 0
    peer_maximum: int = 0

    def serve(self, parts: Sequence[bytes]) -> Served:
        """Serve one association to its end. Each part comes when those before are dealt with."""
        served = Served()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        if self.send_bytes is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_bytes)
        self._sock, self._peer, self._served, self._parts = ours, theirs, served, deque(parts)
        with open_site(Spool(self.root)) as site, ours, theirs:
            self._association = OpenAssociation(site.process, "RAW", "10.0.0.1:4711")
            self._incoming = Incoming(site.process, "keep-first", durability=self.durability)
            self._lanes = Lanes()
            sender = threading.Thread(target=self._trickle)
            if self.piece_bytes is not None:
                theirs.settimeout(5)
                sender.start()
            served.end = self._pump()
            if self.piece_bytes is not None:
                ours.shutdown(socket.SHUT_RD)
                sender.join()
                theirs.setblocking(False)
            self._read_answers()
            served.n_stored = self._association.n_stored
            served.n_refused = self._association.n_refused
            served.files = {
                f"{path.parent.name}/{path.name}": path.read_bytes()
                for path in (self.root / "incoming").glob("*/*.dcm")
            }
            self._lanes.close()
            left = [p for p in (self.root / "tmp").rglob("*") if p.is_file()]
            assert not left, left
            self._association.close()
        return served

    # --- what `Inbound` needs

    def accepted(self, context_id: int) -> Accepted | None:
        """As it was negotiated."""
        return self.contexts.get(context_id)

    def begin(self, request: StoreRequest) -> Arrival:
        """A C-STORE."""
        arrival = Arrival(self._incoming, request, self._association)
        self._lanes.follow(arrival)
        return arrival

    def pass_on(self, context_id: int, control: int, data: bytes) -> None:
        """Another message."""
        # How their data are cut up is the buffer's size.
        self._served.passed += bytes((context_id,)) + data if control & raw.COMMAND else data

    def reply(self, pdus: bytes) -> None:
        """An answer."""
        while pdus:
            try:
                pdus = pdus[self._sock.send(pdus) :]
            except BlockingIOError:
                self._read_answers()

    def _read_answers(self) -> None:
        with suppress(BlockingIOError):
            while piece := self._peer.recv(1 << 16):
                self._served.answers += piece

    def _pump(self) -> str:
        inbound, buffer = Inbound(self), memoryview(bytearray(self.n_bytes))
        start = end = 0
        wake = os.eventfd(0)
        try:
            while True:
                self._send_next()
                lane = self._lane_now(inbound)
                if lane is not None:
                    before = self._association.n_stored
                    turn = lane.take(
                        (self._sock.fileno(), wake), buffer, (start, end), self._patience_ms
                    )
                    start, end = turn.start, turn.end
                    self.n_turns += 1
                    self.n_by_lane += self._association.n_stored - before
                    assert not turn.errno
                    if turn.unsent:
                        self.n_unsent += 1
                        self.reply(turn.unsent)
                    if turn.stop is Stop.HUNG_UP and start == end:
                        inbound.abandon()
                        return "open"
                try:
                    start += inbound.take(buffer[start:end])
                except Malformed:
                    inbound.abandon()
                    return "malformed"
                if start < end:
                    inbound.abandon()
                    return "other"
                start = end = 0
                with suppress(BlockingIOError):
                    end = self._sock.recv_into(buffer)
                    if not end:
                        inbound.abandon()
                        return "open"
        finally:
            os.close(wake)

    @property
    def _patience_ms(self) -> int:
        return 0 if self.piece_bytes is None else 500

    def _trickle(self) -> None:
        step = self.piece_bytes or 1
        with suppress(OSError):
            while self._parts:
                part = self._parts.popleft()
                for at in range(0, len(part), step):
                    self._peer.sendall(part[at : at + step])
                    time.sleep(0.001)
                if self._parts:
                    self._served.answers += self._peer.recv(1 << 16)
            self._peer.shutdown(socket.SHUT_WR)

    def _send_next(self) -> None:
        if self.piece_bytes is not None:
            return
        if select.select([self._sock], [], [], 0)[0]:
            return
        if self._parts:
            self._peer.sendall(self._parts.popleft())
        else:
            self._peer.shutdown(socket.SHUT_WR)

    def _lane_now(self, inbound: Inbound) -> Lane | None:
        if not (self.has_lane and inbound.is_between_messages):
            return None
        return self._lanes.now(self.peer_maximum)

"""Fuzzing of the PDU path: the parser of P-DATA, what is made of it, and the whole receiver.

    python -m tests.fuzz.pdu --seconds 600 [--target parser | inbound | pour | receiver]

Inputs that reach something new go to `corpus/`, which the suite runs as well; one that fails is
kept there as `failed-…`, and its failure shown. An input is a byte that says where the stream is
cut, and the stream.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pacsor_tasks.dicom.elements
import receiver.commands
import receiver.inbound
import receiver.pdata
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.native import native
from receiver.handlers import SUCCESS, Answer, Arrival, StoreRequest, check
from receiver.inbound import MAX_COMMAND_BYTES, MAX_OTHER_BYTES, Accepted, Inbound
from receiver.incoming import MAX_PIECES
from receiver.pdata import Malformed, PdataParser, Position
from receiver.pouring import Channel, Poured, Sink, Stop
from tests.fuzz.engine import Failure, Fuzzer, load, save
from tests.support import raw_dicom as raw
from tests.support.instances import CR, encode, make_dataset
from tests.support.receivers import Receiver
from tests.support.receivers import receiver as started

CORPUS = Path(__file__).parent / "corpus"
SYNTAX = "1.2.840.10008.1.2.1"
#: Lines that count as reached.
WATCHED = [
    str(module.__file__)
    for module in (receiver.pdata, receiver.inbound, receiver.commands, pacsor_tasks.dicom.elements)
]
#: After so many inputs the receiver must take a good instance.
GOOD_EVERY = 20


def cut(data: bytes, how: int) -> Iterator[bytes]:
    """The stream in the pieces that a network may make of it: `how` is a byte."""
    if how < 64:
        yield data
        return
    chance = random.Random(how)
    most = (1, 2, 7, 40, 500)[how % 5]
    at = 0
    while at < len(data):
        size = chance.randint(1, most)
        yield data[at : at + size]
        at += size


# --- the parser alone


def parsed(pieces: Iterator[bytes]) -> tuple[list[tuple[int, bool, bytes, bool]], str]:
    """What the parser makes of a stream: (runs of fragments, how it ended)."""
    parser, runs = PdataParser(), [(0, False, b"", True)]
    for piece in pieces:
        view = memoryview(piece)
        n_given = 0
        try:
            for fragment in parser.feed(view):
                n_given += len(fragment.data)
                assert n_given <= parser.n_taken <= len(piece)
                _add(runs, fragment.context_id, fragment.is_command, bytes(fragment.data))
                if fragment.is_last:
                    runs[-1] = (*runs[-1][:3], True)
        except Malformed:
            return runs, "malformed"
        assert parser.n_taken <= len(piece)
        if parser.n_taken < len(piece):
            assert piece[parser.n_taken] != 4, "stopped in front of P-DATA"
            assert parser.is_between_pdus
            return runs, "other"
    return runs, "between" if parser.is_between_pdus else "inside"


def _add(
    runs: list[tuple[int, bool, bytes, bool]], context: int, is_command: bool, data: bytes
) -> None:
    before = runs[-1]
    if before[3] or before[:2] != (context, is_command):
        runs.append((context, is_command, data, False))
    else:
        runs[-1] = (context, is_command, before[2] + data, False)


def parser_target(data: bytes) -> None:
    """Wherever the stream is cut, the parser makes the same of it."""
    how, stream = data[0] if data else 0, data[1:]
    assert parsed(cut(stream, how)) == parsed(iter((stream,)))
    assert parsed(cut(stream, 65 + how % 190)) == parsed(cut(stream, 255))


# --- what is made of it


@dataclass
class KeptArrival:
    """Takes an instance in memory."""

    request: StoreRequest
    data: bytearray = field(default_factory=bytearray)
    state: str = "open"

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Some of it."""
        assert self.state == "open"
        assert 0 < len(pieces) <= MAX_PIECES
        for piece in pieces:
            self.data += piece

    def finish(self, pieces: Sequence[memoryview] = ()) -> Answer:
        """The rest of it; looked at as the receiver does."""
        assert self.state == "open"
        for piece in pieces:
            self.data += piece
        self.state = "finished"
        header = check(self.request, bytes(self.data))
        return SUCCESS if isinstance(header, InstanceHeader) else header

    def abandon(self) -> None:
        """No rest."""
        if self.state == "open":
            self.state = "abandoned"

    @property
    def may_pour(self) -> bool:
        """Whether there is a file."""
        return False


class KeptPort:
    """An association whose doings are kept."""

    peer_maximum = 0

    def __init__(self) -> None:
        self.arrivals: list[KeptArrival] = []
        self.replies: list[bytes] = []
        self.passed: list[tuple[int, int, bytes]] = []

    def accepted(self, context_id: int) -> Accepted | None:
        """Only the first was."""
        return Accepted(CR, SYNTAX) if context_id == 1 else None

    def begin(self, request: StoreRequest) -> Arrival:
        """A C-STORE."""
        self.arrivals.append(KeptArrival(request))
        return self.arrivals[-1]  # type: ignore[return-value]

    def pass_on(self, context_id: int, control: int, data: bytes) -> None:
        """Another message."""
        assert len(data) <= max(MAX_COMMAND_BYTES, MAX_OTHER_BYTES)
        self.passed.append((context_id, control, data))

    def reply(self, pdus: bytes) -> None:
        """An answer."""
        self.replies.append(pdus)


def served(pieces: Iterator[bytes]) -> tuple[list[object], str]:
    """What an association makes of a stream: (instances, answers, …; how it ended)."""
    port = KeptPort()
    inbound, end = Inbound(port), "open"
    for piece in pieces:
        try:
            n_taken = inbound.take(memoryview(piece))
        except Malformed:
            end = "malformed"
            break
        assert 0 <= n_taken <= len(piece)
        if n_taken < len(piece):
            end = "other"
            break
    inbound.abandon()
    return _made(port), end


def _made(port: KeptPort) -> list[object]:
    states = [arrival.state for arrival in port.arrivals]
    assert "open" not in states, "an arrival that nobody ends"
    assert len(port.replies) == states.count("finished"), "an answer for each instance"
    done = [
        (arrival.request, bytes(arrival.data))
        for arrival in port.arrivals
        if arrival.state == "finished"
    ]
    commands = [one for one in port.passed if one[1] & raw.COMMAND]
    return [done, states, port.replies, commands, b"".join(p[2] for p in port.passed)]


def inbound_target(data: bytes) -> None:
    """Wherever the stream is cut, the same instances come of it, and each is answered once."""
    how, stream = data[0] if data else 0, data[1:]
    whole, in_pieces = served(iter((stream,))), served(cut(stream, 64 + how % 192))
    _check_same(whole, in_pieces)


def _check_same(whole: tuple[list[object], str], other: tuple[list[object], str]) -> None:
    if whole[1] == "malformed":
        # The part before the fault that was seen may differ: a piece may end before it.
        assert other[1] == "malformed"
        assert other[0][0] == whole[0][0]
    else:
        assert other == whole


# --- the compiled way from the socket into the file


class PouredArrival(KeptArrival):
    """Takes an instance in a file of memory, so that it can be poured."""

    fd: int = -1

    def write(self, pieces: Sequence[memoryview]) -> None:
        """Some of it."""
        super().write(pieces)
        if self.fd < 0:
            self.fd = os.memfd_create("instance")
        for piece in pieces:
            os.write(self.fd, piece)

    @property
    def may_pour(self) -> bool:
        """Whether there is a file."""
        return self.fd >= 0 and native is not None

    def pour(self, channel: Channel) -> Stop:
        """Some of it, by itself."""
        n_before = len(self.data)
        poured = channel.pour(Sink(self.fd, n_before, 0, 0))
        assert not poured.errno
        self.data += os.pread(self.fd, poured.n_written - n_before, n_before)
        assert len(self.data) == poured.n_written
        return poured.stop

    def close(self) -> None:
        """Let go of the file."""
        if self.fd >= 0:
            assert os.fstat(self.fd).st_size == len(self.data)
            os.close(self.fd)


class PouringPort(KeptPort):
    """An association whose instances can be poured."""

    def begin(self, request: StoreRequest) -> Arrival:
        """A C-STORE."""
        self.arrivals.append(PouredArrival(request))
        return self.arrivals[-1]  # type: ignore[return-value]


class SmallSource:
    """A socket with a buffer of so many bytes, however large the stream."""

    def __init__(self, sock: socket.socket, n_bytes: int) -> None:
        self.sock = sock
        self.buffer = memoryview(bytearray(n_bytes))
        self.start = self.end = 0
        self._wake = os.eventfd(0)

    def pour(self, sink: Sink, context_id: int, position: Position) -> Poured:
        """As `BufferedSocket.pour`."""
        assert native is not None
        fds = self.sock.fileno(), self._wake, sink.fd
        said = native.pour(
            *fds, self.buffer, context_id, *position, sink.n_written, 0, 0, 1 << 24, 1000
        )
        stop, errno, self.start, self.end, *rest, n_written, n_begun = said
        return Poured(Stop(stop), errno, Position(*rest), n_written, n_begun)

    def fill(self) -> int:
        """Read on, as `BufferedSocket.fill`."""
        unread = bytes(self.buffer[self.start : self.end])
        self.buffer[: len(unread)] = unread
        self.start, self.end = 0, len(unread)
        n_bytes = self.sock.recv_into(self.buffer[self.end :])
        self.end += n_bytes
        return n_bytes

    def close(self) -> None:
        """Let go of everything."""
        self.sock.close()
        os.close(self._wake)


def poured(stream: bytes, n_bytes: int) -> tuple[list[object], str]:
    """As `served`, of a stream that comes out of a socket, through a buffer of that size."""
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=_send, args=(theirs, stream))
    source, port = SmallSource(ours, n_bytes), PouringPort()
    inbound = Inbound(port)
    sender.start()
    try:
        end = _serve(inbound, source)
    finally:
        source.close()
        sender.join()
    inbound.abandon()
    for arrival in port.arrivals:
        cast(PouredArrival, arrival).close()
    return _made(port), end


def _send(sock: socket.socket, stream: bytes) -> None:
    with sock, suppress(OSError):
        sock.sendall(stream)


def _serve(inbound: Inbound, source: SmallSource) -> str:
    while True:
        if inbound.may_pour and source.start == source.end:
            # A part of a head may be left unread.
            if inbound.pour(source) is Stop.HUNG_UP and source.start == source.end:
                return "open"
        elif not source.fill():
            return "open"
        try:
            source.start += inbound.take(source.buffer[source.start : source.end])
        except Malformed:
            return "malformed"
        if source.start < source.end:
            return "other"


def pour_target(data: bytes) -> None:
    """What is poured is what would have been read."""
    how, stream = data[0] if data else 0, data[1:]
    n_bytes = (7, 12, 16, 61, 300, 5000)[how % 6]
    _check_same(served(iter((stream,))), poured(stream, n_bytes))


# --- the receiver


@contextmanager
def receiver_target() -> Iterator[Callable[[bytes], None]]:
    """A running receiver that must live through every input."""
    with (
        tempfile.TemporaryDirectory() as directory,
        started(Path(directory), RECEIVER_IDLE_TIMEOUT=2, PACSOR_LOG_LEVEL="error") as running,
    ):
        target = ReceiverTarget(running)
        yield target
        target.check()


class ReceiverTarget:
    """Sends an input over an association of its own."""

    def __init__(self, running: Receiver) -> None:
        self.running = running
        self.n_inputs = 0
        self._pids = running.scp_pids()

    def __call__(self, data: bytes) -> None:
        """One input; raises when the receiver has come to harm."""
        self.n_inputs += 1
        peer = raw.dial(self.running.port, timeout_s=10)
        with peer.sock, suppress(OSError):
            if not (data and data[0] & 1):  # … or as the association request
                peer.associate()
            for piece in cut(data[1:], data[0] if data else 0):
                peer.send(piece)
            peer.sock.shutdown(socket.SHUT_WR)
            assert peer.ended(10), "the connection is held open"
        if self.n_inputs % GOOD_EVERY == 0:
            self.check()

    def check(self) -> None:
        """It lives, takes a good instance, and had no accident."""
        assert self.running.scp_pids() == self._pids, "a process died"
        dataset = make_dataset()
        with raw.raw_peer(self.running.port) as peer:
            assert peer.store(str(dataset.SOPInstanceUID), encode(dataset)) == 0
            peer.release()
        told = self.running.log_path.read_text()
        assert "Traceback" not in told, told
        assert "store.failed" not in told, told


# --- by hand

TARGETS = {"parser": parser_target, "inbound": inbound_target, "pour": pour_target}


def seeds() -> list[bytes]:
    """Sound streams to begin with."""
    dataset = make_dataset(PixelData=b"\1\2" * 9, SOPInstanceUID="1.2.3.4", StudyInstanceUID="1.2")
    data_set = encode(dataset)
    store = raw.store_message("1.2.3.4", data_set)
    pieces = raw.store_message("1.2.3.4", data_set, fragment_bytes=100)
    command = raw.store_rq("1.2.3.4")
    split = raw.pdu(
        raw.P_DATA,
        raw.pdv(raw.COMMAND, command[:20])
        + raw.pdv(raw.COMMAND | raw.LAST, command[20:])
        + raw.pdv(raw.LAST, data_set),
    )
    echo = raw.p_data(raw.COMMAND | raw.LAST, raw.echo_rq())
    streams = [store, pieces, split, echo + store, store + raw.pdu(raw.RELEASE_RQ, bytes(4)), b""]
    return [bytes((how,)) + stream for stream in streams for how in (0, 70)]


def fuzz(name: str, seconds: float, seed: int, *, keep: bool = False) -> Fuzzer:
    """Fuzz one target for so long, from the seeds and the corpus.

    Args:
        name: The target.
        seconds: How long.
        seed: Of the chance.
        keep: Whether new inputs are added to the corpus.

    Raises:
        Failure: An input failed.
    """
    if name == "receiver":
        with receiver_target() as target:
            return _run(target, [], seconds, seed)
    target = TARGETS[name]
    fuzzer = _run(target, WATCHED, seconds, seed)
    if keep:
        save(CORPUS, fuzzer.found)
    return fuzzer


def _run(
    target: Callable[[bytes], None], watched: Sequence[str], seconds: float, seed: int
) -> Fuzzer:
    fuzzer = Fuzzer(target, watched, [*seeds(), *load(CORPUS)], seed)
    fuzzer.run(seconds)
    return fuzzer


def main() -> None:
    """Fuzz, and say how much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--target", choices=[*TARGETS, "receiver"])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    for name in [options.target] if options.target else [*TARGETS, "receiver"]:
        try:
            fuzzer = fuzz(name, options.seconds, options.seed, keep=True)
        except Failure as failure:
            (path,) = save(CORPUS, [failure.data], "failed-")
            sys.stderr.write(f"{name}: {path} (seed {options.seed})\n")
            raise
        sys.stdout.write(
            f"{name}: {fuzzer.n_runs:,} inputs in {options.seconds:.0f} s,"
            f" {len(fuzzer.found)} reached something new, {len(fuzzer.corpus)} in all\n"
        )


if __name__ == "__main__":
    main()

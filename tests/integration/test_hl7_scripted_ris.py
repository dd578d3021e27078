"""What the client makes of a RIS that misbehaves, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pacsor_tasks.errors import PacsorError, PeerUnavailable
from pacsor_tasks.hl7 import mllp
from pacsor_tasks.hl7.ack import Ack, AckError, AckMismatch, AckRejected, check
from pacsor_tasks.hl7.frames import MAX_ACK_BYTES
from pacsor_tasks.hl7.kept import Connections, Ris
from tests.support.hl7_example import CONTROL_ID, GOLDEN, example_of_size
from tests.support.mllp_peers import Script, ScriptedRis, ack, framed
from tests.support.net import free_port

#: Long enough for a busy machine; a test that waits for the limit gives its own.
PATIENCE_S = 20.0


def deliver(script: Script, message: bytes = GOLDEN, timeout_s: float = PATIENCE_S) -> Ack:
    with ScriptedRis(script) as ris:
        answer = mllp.exchange("127.0.0.1", ris.port, message, timeout_s=timeout_s)
        assert ris.messages == [message]
        return check(answer, CONTROL_ID)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_byte_by_byte(connection: socket.socket, data: bytes) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in data:
        connection.sendall(bytes((byte,)))
        time.sleep(0.0005)


def stay_silent(connection: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def send_then_stay_silent(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    stay_silent(connection, b"")


@pytest.mark.parametrize("code", ["AA", "CA"])
def test_an_accepting_ris_has_the_message(code: str) -> None:
    result = deliver(lambda peer, message: peer.sendall(framed(ack(message, code))))
    assert (result.code, result.control_id) == (code, CONTROL_ID)


@pytest.mark.parametrize(
    ("code", "error"),
    [("AE", AckError), ("CE", AckError), ("AR", AckRejected), ("CR", AckRejected)],
)
def test_a_refusing_ris_is_told_apart_from_a_failing_one(
    code: str, error: type[PacsorError]
) -> None:
    with pytest.raises(error, match="unknown order"):
        deliver(
            lambda peer, message: peer.sendall(framed(ack(message, code, more="|unknown order")))
        )


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        (("CA", "AA"), "AA"),
        (("AA", "CA"), "AA"),
        (("CA", "AE"), AckError),
        (("CA", "AR"), AckRejected),
        (("AA", "AA"), AckMismatch),
    ],
)
def test_a_commit_and_an_application_acknowledgement_in_one_packet(
    codes: tuple[str, str], outcome: str | type[PacsorError]
) -> None:
    def script(peer: socket.socket, message: bytes) -> None:
        peer.sendall(b"".join(framed(ack(message, code)) for code in codes))

    if isinstance(outcome, str):
        assert deliver(script).code == outcome
    else:
        with pytest.raises(outcome):
            deliver(script)


@pytest.mark.parametrize(
    ("what", "script"),
    [
        ("byte by byte", lambda peer, m: send_byte_by_byte(peer, framed(ack(m)))),
        ("blank noise before the frame", lambda peer, m: peer.sendall(b"\r\n \0" + framed(ack(m)))),
        ("no last CR of the message", lambda peer, m: peer.sendall(framed(ack(m).rstrip(b"\r")))),
        ("line feeds", lambda peer, m: peer.sendall(framed(ack(m).replace(b"\r", b"\n")))),
        ("no CR after the frame, then gone", lambda peer, m: peer.sendall(framed(ack(m))[:-1])),
        (
            "no CR after the frame, then silence",
            lambda peer, m: send_then_stay_silent(peer, framed(ack(m))[:-1]),
        ),
        ("a CR too many", lambda peer, m: peer.sendall(framed(ack(m)) + b"\r")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_odd_but_clear_answer_is_an_acknowledgement(what: str, script: Script) -> None:
    assert deliver(script).code == "AA"


@pytest.mark.parametrize(
    ("what", "script"),
    [
        ("not MLLP", lambda peer, m: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("not HL7", lambda peer, m: peer.sendall(framed(b"hello"))),
        ("an empty frame", lambda peer, m: peer.sendall(framed(b""))),
        ("of another message", lambda peer, m: peer.sendall(framed(ack(m, control_id="GW0")))),
        ("of no message", lambda peer, m: peer.sendall(framed(ack(m, control_id="")))),
        ("an unknown code", lambda peer, m: peer.sendall(framed(ack(m, "OK")))),
        ("two frames", lambda peer, m: peer.sendall(framed(ack(m)) * 2)),
        (
            "a frame begun twice",
            lambda peer, m: peer.sendall(framed(ack(m))[:40] + framed(ack(m))),
        ),
        ("endless", lambda peer, m: peer.sendall(b"\x0b" + b"A" * (MAX_ACK_BYTES + 1))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_proves_nothing_is_a_mismatch(what: str, script: Script) -> None:
    with pytest.raises(AckMismatch):
        deliver(script)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (lambda peer, m: None, "no acknowledgement"),
        (lambda peer, m: reset(peer), "no acknowledgement"),
        (lambda peer, m: peer.sendall(framed(ack(m))[:50]), "no end of the acknowledgement"),
    ],
    ids=["hangs up", "resets", "hangs up in the middle"],
)
def test_a_ris_that_goes_away_is_unavailable(script: Script, said: str) -> None:
    with pytest.raises(PeerUnavailable, match=rf"RIS 127\.0\.0\.1:\d+: {said}"):
        deliver(script)


def test_a_silent_ris_is_left_when_the_time_is_up() -> None:
    with pytest.raises(PeerUnavailable, match=r"no acknowledgement within 0\.3 s"):
        deliver(stay_silent, timeout_s=0.3)


def test_half_an_acknowledgement_then_silence_is_left_when_the_time_is_up() -> None:
    with pytest.raises(PeerUnavailable, match=r"of which 50 bytes came, within 0\.3 s"):
        deliver(lambda peer, m: send_then_stay_silent(peer, framed(ack(m))[:50]), timeout_s=0.3)


def test_a_trickling_answer_does_not_extend_the_time() -> None:
    stopped = threading.Event()

    def script(peer: socket.socket, message: bytes) -> None:
        peer.sendall(b"\x0b")
        with contextlib.suppress(OSError):
            while not stopped.wait(0.02):
                peer.sendall(b"A")

    with pytest.raises(PeerUnavailable, match=r"within 0\.5 s"):
        deliver(script, timeout_s=0.5)
    stopped.set()


def test_a_late_acknowledgement_is_not_waited_for() -> None:
    late = threading.Event()

    def script(peer: socket.socket, message: bytes) -> None:
        late.wait(PATIENCE_S)
        peer.sendall(framed(ack(message)))

    with ScriptedRis(script) as ris:
        with pytest.raises(PeerUnavailable, match="no acknowledgement"):
            mllp.exchange("127.0.0.1", ris.port, GOLDEN, timeout_s=0.3)
        late.set()


def test_a_ris_that_does_not_read_is_left_when_nothing_moves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        port = server.getsockname()[1]
        with pytest.raises(PeerUnavailable, match=r"the message was not taken within 0\.5 s"):
            mllp.exchange("127.0.0.1", port, example_of_size(20_000_000), timeout_s=0.5)


@contextlib.contextmanager
def early_answering_ris(answer: bytes, *, hangs_up: bool) -> Iterator[int]:
    """Answers the first bytes of a message and reads no more of it."""
    done = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)
            if hangs_up:
                time.sleep(0.1)
            else:
                done.wait(PATIENCE_S)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize(("code", "error"), [("AR", AckRejected), ("AE", AckError)])
def test_a_ris_that_refuses_before_it_has_read_all_is_heard(
    code: str, error: type[PacsorError], hangs_up: bool
) -> None:
    message = example_of_size(20_000_000)
    connections, answers = Connections(), list[bytes]()
    with early_answering_ris(framed(ack(message, code, more="|too large")), hangs_up=hangs_up) as p:
        ris = Ris(name="hl7", host="127.0.0.1", port=p, timeout_s=0.5, keep_alive_s=5)
        with pytest.raises(error, match="too large"):
            connections.deliver(ris, message, CONTROL_ID, answers.append)
        assert answers == [ack(message, code, more="|too large")]
        assert connections._take(ris) is None, "half a message is on its way there"
    connections.close()


@pytest.mark.parametrize(
    "answer",
    [
        framed(ack(GOLDEN)),
        framed(ack(GOLDEN, "AR", control_id="GW0")),
        framed(ack(GOLDEN, "AR"))[:40],
        b"HTTP/1.1 413\r\n\r\n",
    ],
)
def test_nothing_else_counts_before_the_whole_message_is_there(answer: bytes) -> None:
    with (
        early_answering_ris(answer, hangs_up=False) as port,
        pytest.raises(PeerUnavailable, match=r"the message was not taken within 0\.3 s"),
    ):
        mllp.exchange("127.0.0.1", port, example_of_size(20_000_000), timeout_s=0.3)


def test_a_name_service_that_does_not_answer_is_left_when_the_time_is_up() -> None:
    answered = threading.Event()

    def resolve(host: str, port: int, *, flags: int = 0, **_: Any) -> list[tuple[Any, ...]]:
        if flags:
            raise socket.gaierror
        answered.wait(PATIENCE_S)
        return []

    with pytest.raises(TimeoutError):
        mllp.addresses("ris.example", 2575, 0.1, resolve)
    answered.set()
    assert mllp.addresses("ris.example", 2575, PATIENCE_S, resolve) == []


def test_a_slow_reader_gets_a_large_message_although_it_takes_longer_than_the_limit() -> None:
    message = example_of_size(3_000_000)
    received = bytearray()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE_S)
            while not received.endswith(b"\x1c\r"):
                received.extend(connection.recv(65536))
                time.sleep(0.05)  # 50 pieces of 64 kB: 2.5 s, more than the limit
            connection.sendall(framed(ack(message)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        answer = mllp.exchange("127.0.0.1", server.getsockname()[1], message, timeout_s=1.0)
        thread.join(PATIENCE_S)
    assert received == framed(message)
    assert check(answer, CONTROL_ID).code == "AA"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "::1"])
def test_a_ris_that_does_not_listen_is_named(host: str) -> None:
    port = free_port()
    with pytest.raises(PeerUnavailable, match=rf"{port}: no connection \("):
        mllp.exchange(host, port, GOLDEN, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("host", ["ris..invalid", "ris.invalid"])
def test_a_host_without_address_is_unavailable(host: str) -> None:
    with pytest.raises(PeerUnavailable, match=rf"RIS {host}:2575: no connection"):
        mllp.connect_check(host, 2575, PATIENCE_S)


def test_a_name_with_several_addresses_is_tried_until_one_answers() -> None:
    # localhost is ::1 and 127.0.0.1 on most machines; the server listens on the second only.
    with ScriptedRis(lambda peer, m: peer.sendall(framed(ack(m)))) as ris:
        answer = mllp.exchange("localhost", ris.port, GOLDEN, timeout_s=PATIENCE_S)
    assert check(answer, CONTROL_ID).code == "AA"


def test_a_ris_on_ipv6_is_reached() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with server:
        mllp.connect_check("::1", server.getsockname()[1], PATIENCE_S)


def test_a_listening_ris_passes_the_check_without_a_message() -> None:
    with ScriptedRis(stay_silent) as ris:
        mllp.connect_check("127.0.0.1", ris.port, PATIENCE_S)


def test_a_peer_that_never_accepts_does_not_hold_the_caller() -> None:
    # A full accept queue drops the handshake: the connection attempt just hangs.
    with socket.socket() as server, contextlib.ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        with pytest.raises(PeerUnavailable, match=r"no connection within 0\.3 s"):
            mllp.exchange("127.0.0.1", server.getsockname()[1], GOLDEN, timeout_s=0.3)

"""Connections kept between messages, and MLLP over TLS, against real peers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from pacsor_tasks.errors import ConfigError, PeerUnavailable
from pacsor_tasks.hl7.ack import AckError, AckMismatch, AckRejected
from pacsor_tasks.hl7.kept import Connections, Ris
from pacsor_tasks.hl7.mllp import connect_check
from pacsor_tasks.tls import Tls
from simulators.ris import RisSimulator
from tests.support.certificates import Authority, Certified
from tests.support.hl7_example import example
from tests.support.mllp_peers import ack, framed, hl7_package_server, mllp2http_server, node_server
from tests.support.net import wait_until

PATIENCE_S = 20.0


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    made.close()


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    with RisSimulator() as server:
        yield server


def at(port: int, **more: object) -> Ris:
    given: dict = {"name": "hl7", "host": "127.0.0.1", "port": port, "timeout_s": PATIENCE_S}
    return Ris(**{"keep_alive_s": 60, **given, **more})


def deliver(connections: Connections, ris: Ris, number: int) -> str:
    accepted = connections.deliver(ris, example(control_id=f"GW{number}"), f"GW{number}")
    return accepted.control_id


def n_connected(ris: RisSimulator) -> int:
    return len(ris.journal.events("connected"))


def sent_to(ris: RisSimulator) -> list[str]:
    return [event["control_id"] for event in ris.journal.events("message")]


def test_messages_share_one_connection_in_their_order(
    connections: Connections, ris: RisSimulator
) -> None:
    said = [deliver(connections, at(ris.port), n) for n in range(20)]
    assert said == sent_to(ris) == [f"GW{n}" for n in range(20)]
    assert n_connected(ris) == 1


def test_without_keep_alive_each_message_has_a_connection(
    connections: Connections, ris: RisSimulator
) -> None:
    for n in range(3):
        deliver(connections, at(ris.port, keep_alive_s=0), n)
    assert n_connected(ris) == 3


def test_an_idle_connection_is_given_up(connections: Connections, ris: RisSimulator) -> None:
    deliver(connections, at(ris.port, keep_alive_s=0.1), 1)
    wait_until(lambda: ris.journal.events("disconnected"))


@pytest.mark.parametrize(("code", "error"), [("AE", AckError), ("AR", AckRejected)])
def test_a_refusal_leaves_the_connection_as_good_as_before(
    connections: Connections, ris: RisSimulator, code: str, error: type[Exception]
) -> None:
    ris.switches.set(answer=code)
    with pytest.raises(error):
        deliver(connections, at(ris.port), 1)
    ris.switches.set(answer="AA")
    deliver(connections, at(ris.port), 2)
    assert n_connected(ris) == 1


def test_a_ris_that_hung_up_meanwhile_costs_no_try(
    connections: Connections, ris: RisSimulator
) -> None:
    ris.switches.set(close_after=True)
    for n in range(3):
        deliver(connections, at(ris.port), n)
    assert sent_to(ris) == ["GW0", "GW1", "GW2"]


@pytest.mark.parametrize("answer", ["close", "reset", "half", "garbage", "wrong_id", "two_frames"])
def test_what_goes_wrong_on_a_kept_connection_is_tried_at_once_on_a_new_one(
    connections: Connections, ris: RisSimulator, answer: str
) -> None:
    deliver(connections, at(ris.port), 1)
    ris.switches.set(answer=answer, control_id="GW2", times=1)
    deliver(connections, at(ris.port), 2)
    raw = ris.messages
    assert raw[1] == raw[2], "the same bytes"
    assert n_connected(ris) == 2


def test_silence_on_a_kept_connection_is_not_tried_at_once(
    connections: Connections, ris: RisSimulator
) -> None:
    deliver(connections, at(ris.port, timeout_s=0.5), 1)
    ris.switches.set(answer="none")
    with pytest.raises(PeerUnavailable, match=r"within 0\.5 s"):
        deliver(connections, at(ris.port, timeout_s=0.5), 2)
    assert sent_to(ris) == ["GW1", "GW2"]


def test_what_goes_wrong_on_a_new_connection_is_told(
    connections: Connections, ris: RisSimulator
) -> None:
    ris.switches.set(answer="wrong_id")
    with pytest.raises(AckMismatch):
        deliver(connections, at(ris.port), 1)
    ris.switches.set(answer="AA")
    deliver(connections, at(ris.port), 2)
    assert n_connected(ris) == 2


def test_a_server_that_mixes_up_messages_gets_one_connection_each(
    connections: Connections, tmp_path: Path
) -> None:
    # node-hl7-server 2.5.0 keeps the first message and acknowledges it again with the second.
    with node_server("node_hl7_server.js", tmp_path / "got") as server:
        with structlog.testing.capture_logs() as logs:
            for n in range(4):
                assert deliver(connections, at(server.port), n) == f"GW{n}"
        assert example(control_id="GW3") in server.received()
    events = [line["event"] for line in logs]
    assert events.count("mllp.one_message_per_connection") == 1


@pytest.mark.parametrize("name", ["hl7", "mllp2http", "simple-hl7"])
def test_servers_of_other_authors_take_many_messages_on_one_connection(
    connections: Connections, name: str, tmp_path: Path
) -> None:
    start = {
        "hl7": hl7_package_server,
        "mllp2http": mllp2http_server,
        "simple-hl7": lambda: node_server("simple_hl7.js", tmp_path / "got"),
    }[name]
    with start() as server, structlog.testing.capture_logs() as logs:
        for n in range(5):
            assert deliver(connections, at(server.port), n) == f"GW{n}"
        wait_until(lambda: len(server.received()) == 5)
        connections.close()
    assert logs == []


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_certificate(authority: Authority) -> Certified:
    return authority.issue("ris.example")


@pytest.fixture(scope="module")
def client_certificate(authority: Authority) -> Certified:
    return authority.issue("gateway.example")


@contextmanager
def tls_ris(
    certified: Certified, client_ca: Path | None = None, newest: ssl.TLSVersion | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """An MLLP server over TLS that acknowledges everything: its port and what it got."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.certificate, certified.key)
    if newest is not None:
        context.maximum_version = newest
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    received: list[bytes] = []
    stopping = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not stopping.is_set():
            plain, _ = server.accept()
            with contextlib.suppress(OSError), plain:
                plain.settimeout(PATIENCE_S)
                with context.wrap_socket(plain, server_side=True) as connection:
                    _converse(connection, received)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], received
    finally:
        stopping.set()
        with contextlib.suppress(OSError):
            socket.create_connection(server.getsockname(), 5).close()
        thread.join(PATIENCE_S)
        server.close()


def _converse(connection: ssl.SSLSocket, received: list[bytes]) -> None:
    data = bytearray()
    while piece := connection.recv(65536):
        data += piece
        if data.endswith(b"\x1c\r"):
            received.append(bytes(data[1:-2]))
            connection.sendall(framed(ack(received[-1])))
            data.clear()


def test_messages_go_over_tls_on_one_connection(
    connections: Connections, authority: Authority, server_certificate: Certified
) -> None:
    tls = Tls(ca=authority.certificate, name="localhost")
    with tls_ris(server_certificate) as (port, received):
        for n in range(3):
            deliver(connections, at(port, tls=tls), n)
        connections.close()
    assert received == [example(control_id=f"GW{n}") for n in range(3)]


def test_a_client_certificate_is_shown_to_a_ris_that_asks_for_one(
    connections: Connections,
    authority: Authority,
    server_certificate: Certified,
    client_certificate: Certified,
) -> None:
    ca = authority.certificate
    ours = Tls(
        ca=ca, name="localhost", cert=client_certificate.certificate, key=client_certificate.key
    )
    with tls_ris(server_certificate, ca, ssl.TLSVersion.TLSv1_2) as (port, received):
        with pytest.raises(PeerUnavailable, match="no TLS session"):
            deliver(connections, at(port, tls=Tls(ca=ca, name="localhost")), 1)
        deliver(connections, at(port, tls=ours), 2)
        connections.close()
    assert len(received) == 1


def test_a_certificate_of_another_name_or_authority_is_refused(
    authority: Authority, server_certificate: Certified, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other", "Other CA")
    with tls_ris(server_certificate) as (port, received):
        for tls in (
            Tls(ca=authority.certificate, name="other.example"),
            Tls(ca=stranger.certificate, name="localhost"),
            Tls(name="localhost"),
        ):
            with pytest.raises(PeerUnavailable, match=r"no TLS session \(.*certificate"):
                connect_check("127.0.0.1", port, PATIENCE_S, tls)
        for name in (None, "localhost"):
            tls = Tls(ca=authority.certificate, name=name)
            connect_check("127.0.0.1", port, PATIENCE_S, tls)
    assert received == []


def test_a_plain_peer_is_not_spoken_to_when_tls_is_asked_for(
    connections: Connections, ris: RisSimulator, authority: Authority
) -> None:
    with pytest.raises(PeerUnavailable, match="no TLS session"):
        deliver(connections, at(ris.port, timeout_s=1, tls=Tls(ca=authority.certificate)), 1)
    assert sent_to(ris) == []


def test_files_that_are_no_certificates_are_named(
    tmp_path: Path, client_certificate: Certified, authority: Authority
) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="RIS_TLS_CA"):
        Tls(ca=tmp_path / "x.pem").context()
    with pytest.raises(ConfigError, match=r"RIS_TLS_CA=.*No such file"):
        Tls(ca=tmp_path / "absent.pem").context()
    with pytest.raises(ConfigError, match="RIS_TLS_KEY"):
        Tls(cert=client_certificate.certificate, key=tmp_path / "x.pem").context()
    locked = authority.lock(client_certificate)
    with pytest.raises(ConfigError, match="RIS_TLS_KEY"):
        Tls(cert=locked.certificate, key=locked.key).context()

"""Health checks against sockets that answer, refuse, hang up or say nonsense."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RQ

from pacsor_tasks import healthcheck
from pacsor_tasks.dicom.negotiation import IMPLEMENTATION_CLASS_UID
from tests.support.net import free_port

RELEASED = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
ACCEPTED = b"\x02\x00\x00\x00\x00\x00"
REJECTED = b"\x03\x00\x00\x00\x00\x04\x00\x01\x01\x07"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that reads something, answers, and hangs up."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            if answer:
                connection.recv(65536)
                connection.sendall(answer)
                with suppress(OSError):  # the check may have hung up
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)  # until it asks for the release

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def check(*arguments: str) -> int:
    return healthcheck.main(arguments)


@pytest.mark.parametrize(
    ("kind", "answer", "status"),
    [
        ("http", b"HTTP/1.1 200 OK\r\n\r\n", 0),
        ("http", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 0),  # alive, and says what is down
        ("http", b"SSH-2.0-OpenSSH\r\n", 1),
        ("http", b"", 1),
        ("dicom", ACCEPTED + RELEASED, 0),
        ("dicom", REJECTED, 0),  # no room, or not allowed: an SCP answers
        ("dicom", b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", 1),  # A-ABORT
        ("dicom", b"", 1),
        ("dicom", b"\x02\x00\xff\xff\xff\xff", 1),  # no acceptance is as long
        ("tcp", b"", 0),
    ],
)
def test_what_answers_in_its_protocol_is_alive(kind: str, answer: bytes, status: int) -> None:
    with answering(answer) as address:
        target = f"http://{address}/healthz" if kind == "http" else address
        assert check(kind, target) == status


@pytest.mark.parametrize("kind", ["http", "dicom", "tcp"])
def test_where_nothing_listens_the_reason_is_said(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert check(kind, address) == 1
    assert address in capsys.readouterr().out


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert check("http", f"http://127.0.0.1:{server.getsockname()[1]}/") == 1


@pytest.mark.parametrize(("age_s", "status"), [(0, 0), (29, 0), (31, 1), (-3600, 0)])
def test_a_heartbeat_counts_for_half_a_minute(tmp_path: Path, age_s: int, status: int) -> None:
    file = tmp_path / "heartbeat"
    file.touch()
    touched_at = time.time() - age_s
    os.utime(file, (touched_at, touched_at))
    assert check("heartbeat", str(file)) == status


def test_no_heartbeat_yet_is_not_alive(tmp_path: Path) -> None:
    assert check("heartbeat", str(tmp_path / "missing")) == 1


@pytest.mark.parametrize("arguments", [(), ("http",), ("smtp", "127.0.0.1:25")])
def test_a_wrong_call_says_how_it_is_called(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(*arguments) == 2
    assert "healthcheck dicom HOST:PORT" in capsys.readouterr().err


def test_the_association_request_is_one_that_a_library_reads() -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(healthcheck.association_request())

    assert pdu.called_ae_title == "MILVUE"
    assert pdu.calling_ae_title == "HEALTHCHECK"
    assert [c.abstract_syntax for c in pdu.presentation_context] == ["1.2.840.10008.1.1"]
    assert pdu.user_information is not None
    assert pdu.user_information.implementation_class_uid == IMPLEMENTATION_CLASS_UID

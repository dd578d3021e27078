"""`python -m pacsor_tasks.healthcheck`: whether one process of the gateway is alive, cheaply.

    healthcheck heartbeat FILE    touched within the last 30 s (HEARTBEAT_FILE of a worker or beat)
    healthcheck http URL          answers HTTP, whatever the status: a 503 names what is down
    healthcheck dicom HOST:PORT   answers an association request
    healthcheck dicom-tls HOST:PORT  … over TLS; who it is, is not the question
    healthcheck receiver HOST:PORT   one of the two, by RECEIVER_TLS_CERT in the environment
    healthcheck tcp HOST:PORT     accepts a connection

Containers run it every few seconds, so it imports next to nothing: 30 ms of CPU where a C-ECHO
through the DICOM library costs half a second. Exit status 0: alive; 1: not, with the reason.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

TIMEOUT_S = 3.0
HEARTBEAT_MAX_AGE_S = 30.0

ASSOCIATE_AC, ASSOCIATE_RJ = 2, 3
PDU_MAX_BYTES = 1 << 16
#: What a server says that wants to know who we are: of TLS 1.3, and of 1.2.
CERTIFICATE_WANTED = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"}
)
RELEASE_RQ = struct.pack(">BxII", 5, 4, 0)
#: As `dicom.negotiation`'s, which is not imported for its weight.
IMPLEMENTATION_CLASS_UID = b"2.25.317231649913190185948559524244763366943"


class Unhealthy(Exception):
    """The process does not do its work; the message says why."""


def heartbeat(file: str) -> None:
    """Raise Unhealthy unless the file was touched lately."""
    try:
        age_s = time.time() - os.stat(file).st_mtime  # noqa: PTH116 - pathlib is half of the start-up time
    except OSError as exc:
        raise Unhealthy(f"{file}: {exc.strerror}") from exc
    if age_s > HEARTBEAT_MAX_AGE_S:
        raise Unhealthy(f"last heartbeat {age_s:.0f} s ago")


def http(url: str) -> None:
    """Raise Unhealthy unless something answers the URL in HTTP."""
    address, _, path = url.removeprefix("http://").partition("/")
    request = f"GET /{path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    with _connected(address) as connection:
        connection.sendall(request.encode())
        if _read(connection, 5) != b"HTTP/":
            raise Unhealthy(f"{address} does not answer in HTTP")
        while connection.recv(65536):
            pass  # to hang up in the middle of an answer looks like a fault in the server's log


def dicom(address: str) -> None:
    """Raise Unhealthy unless an SCP answers an association request, be it with a rejection."""
    with _connected(address) as connection:
        _associate(connection, address)


def dicom_tls(address: str) -> None:
    """As `dicom`, over TLS. An SCP that asks for our certificate is alive as well."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _connected(address) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                _associate(secured, address)
        except ssl.SSLError as exc:
            if exc.reason not in CERTIFICATE_WANTED:
                raise Unhealthy(f"{address}: {exc.reason or exc}") from exc


def receiver(address: str) -> None:
    """Raise Unhealthy unless the gateway's receiver answers, with the settings it has here."""
    (dicom_tls if os.environ.get("RECEIVER_TLS_CERT") else dicom)(address)


def tcp(address: str) -> None:
    """Raise Unhealthy unless something listens there."""
    with _connected(address):
        pass


def association_request() -> bytes:
    """An A-ASSOCIATE-RQ that proposes Verification. Source: DICOM PS3.8 §9.3.2."""
    context = _item(0x30, b"1.2.840.10008.1.1") + _item(0x40, b"1.2.840.10008.1.2")
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, IMPLEMENTATION_CLASS_UID)
    body = struct.pack(">HH16s16s32x", 1, 0, b"MILVUE".ljust(16), b"HEALTHCHECK".ljust(16))
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    body += _item(0x20, b"\x01\x00\x00\x00" + context)
    body += _item(0x50, user)
    return struct.pack(">BxI", 1, len(body)) + body


def _associate(connection: socket.socket, address: str) -> None:
    connection.sendall(association_request())
    kind, length = struct.unpack(">BxI", _read(connection, 6))
    if kind not in {ASSOCIATE_AC, ASSOCIATE_RJ} or length > PDU_MAX_BYTES:
        raise Unhealthy(f"{address} does not answer in DICOM")
    _read(connection, length)
    if kind == ASSOCIATE_AC:
        connection.sendall(RELEASE_RQ)
        _read(connection, len(RELEASE_RQ))


CHECKS: dict[str, Callable[[str], None]] = {
    "heartbeat": heartbeat,
    "http": http,
    "dicom": dicom,
    "dicom-tls": dicom_tls,
    "receiver": receiver,
    "tcp": tcp,
}


def main(arguments: Sequence[str]) -> int:
    """Run one check; the exit status."""
    if len(arguments) != 2 or arguments[0] not in CHECKS:
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        CHECKS[arguments[0]](arguments[1])
    except Unhealthy as exc:
        sys.stdout.write(f"{exc}\n")
        return 1
    return 0


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


@contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
            yield connection
    except (OSError, ValueError) as exc:
        raise Unhealthy(f"{address}: {exc}") from exc


def _read(connection: socket.socket, n_bytes: int) -> bytes:
    answer = b""
    while len(answer) < n_bytes:
        received = connection.recv(n_bytes - len(answer))
        if not received:
            raise Unhealthy("the connection was closed without an answer")
        answer += received
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

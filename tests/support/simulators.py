"""Speaking to the simulators the way their clients do, without the gateway's own client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path

import requests
from pydicom import Dataset, dcmread, dcmwrite

from simulators.milvue import MilvueSimulator

KEY = "0b7f6b0c-6f83-4b12-9d5c-2f8c3b9e7a10"
HEADERS = {"x-goog-meta-owner": KEY}
BOUNDARY = "0123456789abcdef0123456789abcdef"
PYTHON_PART = 'Content-Disposition: form-data; name="elem_{n}"; filename="elem_{n}"\r\n{type}'
TYPE = "Content-Type: application/dicom\r\n"


def multipart(bodies: list[bytes], part_head: str = TYPE, boundary: str = BOUNDARY) -> bytes:
    """A multipart body; ``{n}`` and ``{type}`` in the part head are filled in."""
    parts = [
        f"--{boundary}\r\n".encode()
        + part_head.format(n=n, type=TYPE).encode()
        + b"\r\n"
        + body
        + b"\r\n"
        for n, body in enumerate(bodies)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def post(
    api: MilvueSimulator,
    bodies: list[bytes],
    *,
    signed_url: str = "false",
    content_type: str = f"multipart/related; boundary={BOUNDARY}",
    part_head: str = TYPE,
    key: str | None = KEY,
) -> requests.Response:
    """E1."""
    headers = {"Content-Type": content_type} | ({"x-goog-meta-owner": key} if key else {})
    return requests.post(
        f"{api.url}/v3/studies?signed_url={signed_url}",
        data=multipart(bodies, part_head),
        headers=headers,
        timeout=10,
    )


def upload(api: MilvueSimulator, files: list[Path]) -> str:
    """A direct upload; the study's UID."""
    answer = post(api, [file.read_bytes() for file in files])
    assert answer.status_code == 200, answer.text
    return str(answer.json()["StudyInstanceUID"])


def get(
    api: MilvueSimulator, path: str, accept: str = "*/*", key: str | None = KEY
) -> requests.Response:
    """A GET with the API key."""
    headers = {"Accept": accept} | ({"x-goog-meta-owner": key} if key else {})
    return requests.get(f"{api.url}{path}", headers=headers, timeout=10)


def parts(answer: requests.Response) -> list[Message]:
    """The parts of a multipart answer, by the standard library's parser."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


def payload(part: Message) -> bytes:
    """A part's bytes."""
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def datasets(answer: requests.Response) -> list[Dataset]:
    """The DICOM files of a multipart answer."""
    return [dcmread(BytesIO(payload(part))) for part in parts(answer)]


def pruned(file: Path) -> bytes:
    """A copy with Pixel Data of length 0, native whatever the transfer syntax."""
    dataset = dcmread(file, stop_before_pixels=True)
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue() + b"\xe0\x7f\x10\x00OW\x00\x00\x00\x00\x00\x00"


def sop_uid(file: Path) -> str:
    """SOP Instance UID of a file."""
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)


@contextmanager
def no_threads_left() -> Iterator[None]:
    """Fails if the block leaves threads behind."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, left


class Mllp:
    """A raw MLLP client."""

    def __init__(self, port: int, timeout_s: float = 10) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def send(self, message: bytes) -> None:
        """One framed message."""
        self.socket.sendall(b"\x0b" + message + b"\x1c\x0d")

    def read(self) -> bytes:
        """What comes until a frame ends, or the peer closes."""
        received = b""
        while not received.endswith(b"\x1c\x0d"):
            chunk = self.socket.recv(65536)
            if not chunk:
                break
            received += chunk
        return received

    def read_all(self) -> bytes:
        """What comes until the peer closes."""
        received = b""
        while chunk := self.socket.recv(65536):
            received += chunk
        return received

    def __enter__(self) -> Mllp:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

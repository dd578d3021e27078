"""RISs for the tests: a scripted one, and servers of other authors behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hl7
import hl7.mllp
import pytest

from tests.support.net import free_port, wait_until
from tests.support.peers import require_program

HERE = Path(__file__).parent
Received = Callable[[], list[bytes]]
Script = Callable[[socket.socket, bytes], None]


@dataclass
class Ris:
    """A server that listens on 127.0.0.1 and keeps what it got."""

    port: int
    received: Received


def control_id_of(message: bytes) -> str:
    """MSH-10."""
    return message.split(b"\r", 1)[0].split(b"|")[9].decode()


def ack(
    message: bytes, code: str = "AA", *, control_id: str | None = None, more: str = ""
) -> bytes:
    """An acknowledgement without frame; `more` goes after MSA-2."""
    answered = control_id_of(message) if control_id is None else control_id
    return (
        "MSH|^~\\&|RISDEMO|NORTHSITE|MILVUE_GATEWAY|MILVUE|20260619143016||ACK^R01^ACK|A1|P|2.5.1\r"
        f"MSA|{code}|{answered}{more}\r"
    ).encode()


def framed(content: bytes) -> bytes:
    """Content in its MLLP frame."""
    return b"\x0b" + content + b"\x1c\r"


@dataclass
class ScriptedRis:
    """Reads one frame per connection, then does what the script says with the socket."""

    script: Script
    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> ScriptedRis:
        """Listen."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self._closing = threading.Event()
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._closing.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        self._thread.join(20)
        self._server.close()
        assert not self._thread.is_alive(), "the script does not end"

    def wait_for_client_to_leave(self, connection: socket.socket) -> None:
        """Silence, until the client hangs up."""
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            if self._closing.is_set():
                connection.close()
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                message = self._read(connection)
                self.messages.append(message)
                self.script(connection, message)

    def _read(self, connection: socket.socket) -> bytes:
        data = bytearray()
        while not data.endswith(b"\x1c\r"):
            piece = connection.recv(65536)
            if not piece:
                return bytes(data)
            data += piece
        return bytes(data[1:-2])


@contextmanager
def hl7_package_server(code: str = "AA") -> Iterator[Ris]:
    """The asyncio server of the `hl7` package."""
    messages: list[bytes] = []
    ready: list[int] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve_one(reader: hl7.mllp.HL7StreamReader, writer: hl7.mllp.HL7StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readmessage()
                messages.append(str(message).encode())
                writer.writemessage(message.create_ack(ack_code=code))
                await writer.drain()
        writer.close()

    async def main() -> None:
        # Its default limit of 64 KiB is less than a report.
        server = await hl7.mllp.start_hl7_server(
            serve_one, "127.0.0.1", 0, limit=1 << 24, encoding="utf-8"
        )
        async with server:
            ready.append(server.sockets[0].getsockname()[1])
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    try:
        wait_until(lambda: ready)
        yield Ris(ready[0], lambda: messages)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@contextmanager
def mllp2http_server(code: str = "AA") -> Iterator[Ris]:
    """`mllp2http` of mllp-http before an HTTP stub that keeps the message and answers."""
    messages: list[bytes] = []

    class Stub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = self.rfile.read(int(self.headers["Content-Length"]))
            messages.append(message)
            answer = ack(message, code)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as stub:
        thread = threading.Thread(target=stub.serve_forever, daemon=True)
        thread.start()
        port = free_port()
        program = Path(sys.executable).with_name("mllp2http")
        url = f"http://127.0.0.1:{stub.server_port}/"
        command = [str(program), "--host", "127.0.0.1", "--port", str(port), url]
        try:
            with _process(command, port):
                yield Ris(port, lambda: messages)
        finally:
            stub.shutdown()
            thread.join(10)


@contextmanager
def node_server(script: str, directory: Path, code: str = "AA") -> Iterator[Ris]:
    """A server from npm: `node_hl7_server.js` or `simple_hl7.js`."""
    node, modules = require_program("node"), node_modules()
    directory.mkdir()
    port = free_port()
    command = [str(node), str(HERE / script), str(port), str(directory), code]

    def received() -> list[bytes]:
        files = sorted(directory.glob("*.hl7"), key=lambda path: int(path.stem))
        return [path.read_bytes() for path in files]

    with _process(command, port, {"NODE_PATH": str(modules)}):
        yield Ris(port, received)


def node_modules() -> Path:
    """The npm peers at the versions of package-lock.json, installed once into the user's cache."""
    npm = require_program("npm")
    lock = (HERE / "package-lock.json").read_bytes()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = root / "pacsor-tasks" / "node" / hashlib.sha256(lock).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    done = place / "installed"
    with (place / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not done.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, place / name)
            command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            run = subprocess.run(
                command, cwd=place, capture_output=True, text=True, timeout=100, check=False
            )
            if run.returncode:
                message = f"npm ci failed: {run.stderr[-400:]}"
                pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
            done.touch()
    return place / "node_modules"


@contextmanager
def _process(command: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, env={**os.environ, **(env or {})})
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        yield
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

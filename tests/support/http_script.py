"""An HTTP server that answers exact bytes: shapes and accidents no framework would send."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Call:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    #: which of the server's connections it came by, from 0
    connection: int


@dataclass
class Reply:
    """One answer. With `raw` nothing else counts, and the connection is closed after it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    #: announce this length whatever the body's is, then close
    announced: int | None = None
    #: send by chunks of this size with Transfer-Encoding: chunked
    chunked: int | None = None
    raw: bytes | None = None
    #: in place of `body`, with `announced` as its length; or after `raw`
    stream: Callable[[], Iterator[bytes]] | None = None
    #: reset the connection after what there is to send
    reset: bool = False
    #: called once the request is read, before anything is answered
    before: Callable[[], object] | None = None


Script = Callable[[Call], Reply]


class ScriptedServer:
    """Serves a script on a free port of 127.0.0.1. `calls` holds what was asked, in order.

    Args:
        script: Gives the reply to a call; runs in the connection's thread.
        unread: Leave request bodies unread.
        keep: Keep request bodies; otherwise a call has the beginning of its body only.
        tls: Certificate and key files.
    """

    def __init__(
        self,
        script: Script,
        *,
        unread: bool = False,
        keep: bool = True,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self._script = script
        self._unread = unread
        self._keep = keep
        self._connections = 0
        self.n_closed = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def setup(self) -> None:
                super().setup()
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with owner._lock:
                    self.number = owner._connections
                    owner._connections += 1

            def finish(self) -> None:
                with suppress(OSError):
                    super().finish()
                self.request.close()
                owner.n_closed += 1

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def do(self) -> None:
                owner._serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do  # noqa: N815 - the base class's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        scheme = "http"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def n_connections(self) -> int:
        """How many connections were made."""
        return self._connections

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: Any) -> None:
        split = urlsplit(handler.path)
        body = b"" if self._unread else _body(handler, keep=self._keep)
        call = Call(
            handler.command,
            split.path,
            dict(parse_qsl(split.query, keep_blank_values=True)),
            handler.headers,
            body,
            handler.number,
        )
        with self._lock:
            self.calls.append(call)
        reply = self._script(call)
        if reply.before is not None:
            reply.before()
        with suppress(OSError):
            _send(handler, reply)
        if reply.reset:
            linger = b"\1\0\0\0\0\0\0\0"
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            handler.connection.close()


def _body(handler: Any, *, keep: bool) -> bytes:
    assert "chunked" not in handler.headers.get("Transfer-Encoding", ""), "no Content-Length"
    left = int(handler.headers.get("Content-Length", 0))
    if keep:
        return bytes(handler.rfile.read(left))
    body = b""
    while left and (block := handler.rfile.read(min(left, 1 << 20))):
        left -= len(block)
        body = body or block
    return body


def _send(handler: Any, reply: Reply) -> None:
    if reply.raw is not None:
        handler.wfile.write(reply.raw)
        for block in reply.stream() if reply.stream is not None else ():
            handler.wfile.write(block)
        handler.close_connection = True
        return
    handler.send_response(reply.status)
    if reply.content_type:
        handler.send_header("Content-Type", reply.content_type)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    if reply.chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    else:
        length = len(reply.body) if reply.announced is None else reply.announced
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    for block in _blocks(reply):
        handler.wfile.write(block)
    if reply.announced is not None:
        handler.close_connection = True


def _blocks(reply: Reply) -> Iterator[bytes]:
    if reply.stream is not None:
        yield from reply.stream()
        return
    if not reply.chunked:
        yield reply.body
        return
    for at in range(0, len(reply.body), reply.chunked):
        part = reply.body[at : at + reply.chunked]
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


@contextmanager
def answering(*replies: Reply, tls: tuple[Path, Path] | None = None) -> Iterator[ScriptedServer]:
    """Give the replies one after the other, the last one for ever."""
    left = list(replies)

    def script(_: Call) -> Reply:
        return left.pop(0) if len(left) > 1 else left[0]

    with ScriptedServer(script, tls=tls) as server:
        yield server

"""An HTTP server in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pacsor_tasks.errors import PeerUnavailable

START_TIMEOUT_S = 10
#: how long answers under way may take once asked to stop
GRACE_S = 1


class _Protocol(H11Protocol):
    """Lets a request reach its connection, to reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # As asyncio sets it only on sockets that were made with the protocol's number.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


class HttpServer:
    """Serves an ASGI application.

    Args:
        app: The application.
        host: Address to listen on.
        port: 0 for a free one.
    """

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._app = app
        self._host = host
        self.port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        host = "127.0.0.1" if self._host in ("0.0.0.0", "") else self._host  # noqa: S104 - compared
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: The port is taken.
        """
        try:
            listener = socket.create_server((self._host, self.port), backlog=64)
        except OSError as exc:
            message = f"cannot listen on {self._host}:{self.port}: {exc.strerror}"
            raise PeerUnavailable(message) from exc
        self.port = int(listener.getsockname()[1])
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = self._server = _Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listener])), name=f"http-{self.port}"
        )
        self._thread.start()
        if not server.is_up.wait(START_TIMEOUT_S):
            self.stop()
            raise PeerUnavailable(f"the simulator does not start within {START_TIMEOUT_S} s")

    def stop(self) -> None:
        """Stop listening, and end what is under way within `GRACE_S`."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None

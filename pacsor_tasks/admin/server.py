"""The HTTP server around the application: it stops within seconds, open streams or not."""

from __future__ import annotations

import signal
import socket
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

log = structlog.get_logger(__name__)

#: How long answers under way may take once the server was told to stop, seconds.
GRACE_S = 2
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: The address is not ours, or the port is taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # ours leaves the query out
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    # uvicorn raises the signal once more when it is through, to whoever was there before it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _already_stopped)
    host, port = listener.getsockname()[:2]
    log.info("admin.listening", host=host, port=port)
    _Server(config).run(sockets=[listener])
    log.info("admin.stopped")


class _Server(uvicorn.Server):
    """Ends the event streams first: uvicorn would wait for them until its grace is over."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.changes.close()
        await super().shutdown(sockets)


def _already_stopped(_number: int, _frame: object) -> None:
    pass

"""Sends request bodies under the read time-out, and reads answers by a deadline where one is set.

urllib3 sends them under the connect time-out, which is too short for a server that stops reading
while it writes a large study to its disk. Its read time-out is for each block: an answer of a byte
a second, from its first header on, never ends.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class PatientAdapter(HTTPAdapter):
    """The adapter to mount.

    Args:
        send_timeout_s: For each block of a body.
        pool_connections: Hosts to keep connections to.
        pool_maxsize: Connections to keep to each.
        answer_timeout_s: From the request's end to the answer's; None: while it makes progress.
    """

    def __init__(
        self,
        send_timeout_s: float,
        *,
        pool_connections: int,
        pool_maxsize: int,
        answer_timeout_s: float | None = None,
    ) -> None:
        self._pools = _pools(send_timeout_s, answer_timeout_s)
        super().__init__(pool_connections=pool_connections, pool_maxsize=pool_maxsize)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager


class BoundedReader(io.RawIOBase):
    """What a socket receives until the deadline, and TimeoutError after it.

    Args:
        sock: Its own time limit counts too, for each block.
        deadline: By `clock`.
        clock: Seconds.
    """

    def __init__(
        self, sock: socket.socket, deadline: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._clock = clock

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As of any raw file.

        Raises:
            TimeoutError: The deadline has passed, or comes before the next block.
        """
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            raise TimeoutError("timed out")
        own_s = self._sock.gettimeout()
        self._sock.settimeout(left_s if own_s is None else min(own_s, left_s))
        try:
            return self._file.readinto(buffer)
        finally:
            self._sock.settimeout(own_s)

    def close(self) -> None:
        """Let go of the socket."""
        if not self.closed:
            self._file.close()
        super().close()


class _Bounded:
    """What `http.client` makes a response's file of: a socket with a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(BoundedReader(self._sock, self._deadline))


def _responses(answer_timeout_s: float | None) -> type[HTTPResponse]:
    if answer_timeout_s is None:
        return HTTPResponse
    limit_s = answer_timeout_s

    class Response(HTTPResponse):
        # Made when the request has been sent, for each request of a kept connection anew.
        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            deadline = time.monotonic() + limit_s
            super().__init__(_Bounded(sock, deadline), *args, **kwargs)  # type: ignore[arg-type] # only its makefile

    return Response


def _pools(
    send_timeout_s: float, answer_timeout_s: float | None
) -> dict[str, type[HTTPConnectionPool]]:
    class Connection(HTTPConnection):
        response_class = _responses(answer_timeout_s)

        def endheaders(self, *args: Any, **kwargs: Any) -> None:
            super().endheaders(*args, **kwargs)
            if self.sock is not None:
                self.sock.settimeout(send_timeout_s)

    class TlsConnection(HTTPSConnection):
        response_class = _responses(answer_timeout_s)

        def endheaders(self, *args: Any, **kwargs: Any) -> None:
            super().endheaders(*args, **kwargs)
            if self.sock is not None:
                self.sock.settimeout(send_timeout_s)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}

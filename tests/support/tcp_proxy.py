"""A TCP proxy that can lose a connection's packets without a word, or reset it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass

from tests.support.net import free_port

CHUNK = 65536


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy."""

    client: socket.socket
    server: socket.socket
    #: packets of either side vanish; the sockets stay open
    is_dead: bool = False

    def close(self) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class TcpProxy:
    """Passes connections on to a server of this machine.

    Args:
        target_port: Where they go.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._server: socket.socket | None = None

    def start(self) -> None:
        """Listen."""
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
        for pair in self._all():
            pair.close()

    def swallow(self) -> int:
        """From now on the present connections' packets vanish; new connections work.

        Returns:
            How many connections those are.
        """
        pairs = self._all()
        for pair in pairs:
            pair.is_dead = True
        return len(pairs)

    def reset(self) -> int:
        """Reset every connection; how many there were."""
        pairs = self._all()
        for pair in pairs:
            with contextlib.suppress(OSError):
                pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pair.close()
        return len(pairs)

    def __enter__(self) -> TcpProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _all(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), 5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if not pair.is_dead:
                    sink.sendall(data)
        # Of a dead connection neither side hears that the other one has gone.
        if pair.is_dead and source is pair.server:
            return
        pair.close()
        with self._lock:
            self._pairs.discard(pair)

"""Azure Web PubSub as a client of `json.reliable.webpubsub.azure.v1` sees it.

A session outlives its connection for a while: who comes back with its connection id and
reconnection token gets what was published meanwhile and what it has not acknowledged.

Source: Microsoft, "Azure Web PubSub supported reliable JSON WebSocket subprotocol" and "Create
reliable clients"; contract §2.5.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.typing import Subprotocol

from pacsor_tasks.errors import PeerUnavailable
from simulators.journal import Journal

SUBPROTOCOL = Subprotocol("json.reliable.webpubsub.azure.v1")
HUB = "reports"
#: Closes a connection whose session is gone: the client has to begin anew.
GONE = 1008
#: for a client to answer that a connection is closed, seconds
CLOSE_S = 2


@dataclass
class Session:
    """One client, through all its connections."""

    connection_id: str
    token: str
    groups: set[str] = field(default_factory=set)
    last: int = 0
    #: (sequence id, frame) that are not acknowledged
    kept: deque[tuple[int, str]] = field(default_factory=deque)
    socket: ServerConnection | None = None
    #: when its connection broke
    left_at: float | None = None


class PubSub:
    """A hub on a port of its own, in a thread.

    Args:
        journal: Gets connected, recovered, refused, joined, acked, published, left.
        host: Address to listen on.
        port: 0 for a free one.
        keeps_s: How long a session is kept without a connection, seconds.
    """

    def __init__(
        self, journal: Journal, host: str = "127.0.0.1", port: int = 0, keeps_s: float = 60.0
    ) -> None:
        self.journal = journal
        self.host = host
        self.port = port
        self.keeps_s = keeps_s
        #: groups that may not be joined
        self.forbidden: set[str] = set()
        #: joins are acknowledged
        self.acknowledges = True
        self._sessions: dict[str, Session] = {}
        self._access: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._end: asyncio.Event | None = None

    def start(self) -> None:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: The port is taken.
        """
        try:
            listener = socket.create_server((self.host, self.port))
        except OSError as exc:
            message = f"cannot listen on {self.host}:{self.port}: {exc.strerror}"
            raise PeerUnavailable(message) from exc
        self.port = int(listener.getsockname()[1])
        is_up = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, is_up)), name=f"pubsub-{self.port}"
        )
        self._thread.start()
        is_up.wait()

    def stop(self) -> None:
        """Stop listening and drop every connection; sessions are kept."""
        if self._loop is not None and self._end is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
        self._loop = self._end = self._thread = None

    def access_url(self, host: str, providers: Sequence[str]) -> str:
        """A URL to connect with once or more."""
        token = secrets.token_urlsafe(12)
        self._access.add(token)
        query = urlencode({"access_token": token, "for": ",".join(providers)})
        return f"ws://{host}:{self.port}/client/hubs/{HUB}?{query}"

    def publish(self, group: str, data: Any, data_type: str = "json") -> int:
        """Send to everyone in a group, connected or expected back; how many they are."""
        n: int = self._run(lambda: self._publish(group, data, data_type))
        return n

    def drop(self) -> None:
        """Break every connection without a word, as a network does."""

        async def abort() -> None:
            for session in self._sessions.values():
                if session.socket is not None:
                    session.socket.transport.abort()

        self._run(abort)

    def forget(self) -> None:
        """Forget every session and access token, and end the connections."""

        async def end() -> None:
            sessions, self._sessions = list(self._sessions.values()), {}
            self._access.clear()
            for session in sessions:
                if session.socket is not None:
                    await session.socket.close(GONE, "session is gone")

        self._run(end)

    def members(self, group: str) -> int:
        """How many connected clients are in a group."""
        return sum(
            group in s.groups and s.socket is not None for s in list(self._sessions.values())
        )

    def unacknowledged(self) -> int:
        """Messages that some client has not acknowledged."""
        return sum(len(s.kept) for s in list(self._sessions.values()))

    def _run(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._loop is None:
            raise PeerUnavailable("the hub is not started")
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)

    async def _serve(self, listener: socket.socket, is_up: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with serve(
            self._client,
            sock=listener,
            subprotocols=[SUBPROTOCOL],
            max_size=None,
            ping_interval=None,
            close_timeout=CLOSE_S,
        ) as server:
            is_up.set()
            await self._end.wait()
            for connection in server.connections:
                connection.transport.abort()

    async def _client(self, connection: ServerConnection) -> None:
        session = await self._admitted(connection)
        if session is None:
            return
        try:
            async for frame in connection:
                await self._take(session, connection, json.loads(frame))
        except ConnectionClosed:
            pass
        finally:
            await self._left(session, connection)

    async def _admitted(self, connection: ServerConnection) -> Session | None:
        request = connection.request
        query = parse_qs(urlsplit(request.path if request is not None else "").query)
        given = {key: values[0] for key, values in query.items()}
        if "awps_connection_id" in given:
            return await self._recovered(connection, given)
        if given.get("access_token") not in self._access:
            self.journal.add("refused", why="access token")
            await connection.close(GONE, "access token")
            return None
        session = Session(secrets.token_hex(8), secrets.token_urlsafe(16), socket=connection)
        self._sessions[session.connection_id] = session
        self.journal.add("connected", connection=session.connection_id)
        await connection.send(_connected(session))
        return session

    async def _recovered(
        self, connection: ServerConnection, given: dict[str, str]
    ) -> Session | None:
        session = self._sessions.get(given["awps_connection_id"])
        late = (
            session is not None
            and session.left_at is not None
            and time.monotonic() - session.left_at > self.keeps_s
        )
        if session is None or late or session.token != given.get("awps_reconnection_token"):
            self.journal.add("refused", why="session is gone")
            await connection.close(GONE, "session is gone")
            return None
        session.left_at = None
        self.journal.add("recovered", connection=session.connection_id, again=len(session.kept))
        await connection.send(_connected(session))
        sent = 0
        # What is published meanwhile must not overtake what is sent again.
        while left := [kept for kept in session.kept if kept[0] > sent]:
            sent, frame = left[0]
            await connection.send(frame)
        session.socket = connection
        return session

    async def _take(
        self, session: Session, connection: ServerConnection, frame: dict[str, Any]
    ) -> None:
        kind = frame.get("type")
        if kind == "sequenceAck":
            upto = int(frame["sequenceId"])
            while session.kept and session.kept[0][0] <= upto:
                session.kept.popleft()
            self.journal.add("acked", connection=session.connection_id, sequence_id=upto)
        elif kind == "joinGroup":
            group = frame["group"]
            answer: dict[str, Any] = {"type": "ack", "ackId": frame.get("ackId"), "success": True}
            if group in self.forbidden:
                answer |= {"success": False, "error": {"name": "Forbidden", "message": "not yours"}}
            else:
                session.groups.add(group)
            self.journal.add("joined", group=group, success=answer["success"])
            if self.acknowledges:
                await connection.send(json.dumps(answer))
        elif kind == "ping":
            await connection.send(json.dumps({"type": "pong"}))

    async def _left(self, session: Session, connection: ServerConnection) -> None:
        if session.socket is not connection:
            return
        session.socket = None
        # A connection that was closed in order takes its session with it.
        is_orderly = connection.close_code in (1000, 1001) and not isinstance(
            connection.protocol.close_exc, ConnectionClosedError
        )
        self.journal.add("left", connection=session.connection_id, orderly=is_orderly)
        if is_orderly:
            self._sessions.pop(session.connection_id, None)
        else:
            session.left_at = time.monotonic()

    async def _publish(self, group: str, data: Any, data_type: str) -> int:
        found = [s for s in self._sessions.values() if group in s.groups]
        for session in found:
            session.last += 1
            frame = json.dumps(
                {
                    "type": "message", "from": "group", "group": group, "dataType": data_type,
                    "data": data, "sequenceId": session.last, "fromUserId": "provider",
                }
            )  # fmt: skip
            session.kept.append((session.last, frame))
            if session.socket is not None:
                with suppress(ConnectionClosed):  # kept for when it comes back
                    await session.socket.send(frame)
        self.journal.add("published", group=group, listeners=len(found))
        return len(found)


def _connected(session: Session) -> str:
    return json.dumps(
        {
            "type": "system",
            "event": "connected",
            "userId": "gateway",
            "connectionId": session.connection_id,
            "reconnectionToken": session.token,
        }
    )

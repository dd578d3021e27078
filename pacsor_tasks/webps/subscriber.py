"""Listens to Web PubSub and acknowledges a message only when it is on disk.

The library acknowledges what it handed to its listeners, which run beside it: a process that died
in between would lose the message. So messages are stored where the library parses them, before it
counts them as received: the one place that knows of its insides. Recovering a broken connection is
the library's; new connections, and sessions that outlive the process, are made here.

Source: Microsoft, "Create reliable clients with subprotocols"; contract §2.5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from azure.core.exceptions import AzureError
from azure.messaging.webpubsubclient import WebPubSubClient, WebPubSubClientCredential
from azure.messaging.webpubsubclient.models import CallbackType
from azure.messaging.webpubsubclient.models._models import WebPubSubJsonReliableProtocol
from websocket import WebSocketException

from pacsor_tasks.errors import ConfigError, PacsorError
from pacsor_tasks.webps.session import SessionFile

log = structlog.get_logger(__name__)

#: To a connection that is open, seconds.
OPEN_S = 10.0
#: Without a connection for longer, the library is started anew: it tries to recover for 30 s.
PATIENCE_S = 45.0
#: Between two tries, seconds: at first, and at most.
FIRST_S, LONGEST_S = 1.0, 30.0
#: To the answer to a joinGroup, seconds.
JOIN_S = 10.0
DISK_S = 1.0

Store = Callable[[str, Any], None]


class Subscriber:
    """One subscription to the groups of all providers.

    Args:
        access: Gives a URL to connect to; raises PacsorError.
        groups: Group → provider.
        store: Keeps (provider, data) durably; raises OSError.
        session: The session to go on with.
    """

    def __init__(
        self,
        access: Callable[[], str],
        groups: Mapping[str, str],
        store: Store,
        session: SessionFile,
    ) -> None:
        self._access = access
        self._groups = dict(groups)
        self._store = store
        self._session = session
        self._stop = threading.Event()
        #: set with each message stored
        self.news = threading.Event()
        self._url = ""
        self._client: WebPubSubClient | None = None
        self._has_ended = threading.Event()
        self._is_greeted = False
        self._joined: set[str] = set()
        self._down_since: float | None = None
        self._pause_s = FIRST_S
        self._next_at = 0.0

    def stop(self) -> None:
        """Take nothing more. The connection is left to break: a close would end the session."""
        self._stop.set()

    @property
    def is_listening(self) -> bool:
        """Whether it is connected and in every group."""
        return self._is_connected() and self._joined == set(self._groups)

    def attend(self) -> None:
        """See to the connection; to be called about twice a second.

        May take up to OPEN_S and what `access` takes.
        """
        if self._client is None:
            if time.monotonic() >= self._next_at:
                self._open()
            return
        if self._is_connected():
            self._down_since = None
            self._session.stamp()
            self._join()
        elif self._down_since is None:
            self._down_since = time.monotonic()
        if self._has_ended.is_set() or self._has_been_down_for(PATIENCE_S):
            self._give_up()

    def _open(self) -> None:
        self._has_ended, self._joined, self._is_greeted = threading.Event(), set(), False
        client = WebPubSubClient(
            WebPubSubClientCredential(self._where),
            auto_rejoin_groups=False,
            reconnect_retry_total=0,
            message_retry_total=0,
            start_timeout=OPEN_S,
            ack_timeout=JOIN_S,
            user_agent="pacsor-tasks",
        )
        ended = self._has_ended
        client.subscribe(CallbackType.STOPPED, ended.set)
        client._protocol = _Protocol(self._take)
        try:
            client.open()
        except ConfigError:
            raise
        except (AzureError, PacsorError, WebSocketException, OSError) as exc:
            log.warning("webps.away", error=_said(exc), again_in_s=round(self._pause_s))
            self._later()
            return
        self._client = client
        self._down_since = None

    def _where(self) -> str:
        self._url = self._session.url() or self._access()
        return self._url

    def _give_up(self) -> None:
        client, self._client = self._client, None
        if not self._is_greeted:
            # The service closed without a greeting: what it was asked to go on with is gone.
            self._session.forget()
        log.warning("webps.disconnected", again_in_s=round(self._pause_s))
        if client is not None:
            client.close()
        self._later()

    def _later(self) -> None:
        self._next_at = time.monotonic() + self._pause_s
        self._pause_s = min(LONGEST_S, 2 * self._pause_s)

    def _join(self) -> None:
        """Join what is not joined yet, one group at a time."""
        client = self._client
        missing = [group for group in self._groups if group not in self._joined]
        if client is None or not missing or time.monotonic() < self._next_at:
            return
        try:
            client.join_group(missing[0])
        except (AzureError, WebSocketException, OSError) as exc:
            log.warning("webps.not_joined", group=missing[0], error=_said(exc))
            self._later()
            return
        self._joined.add(missing[0])
        if self.is_listening:
            self._pause_s = FIRST_S
            log.info("webps.listening", groups=sorted(self._groups))

    def _take(self, message: Any) -> None:
        """One frame, in the library's thread, before it counts as received."""
        if message.kind == "connected":
            self._is_greeted = True
            if message.connection_id and message.reconnection_token:
                self._session.save(self._url, message.connection_id, message.reconnection_token)
        elif message.kind == "groupData":
            self._keep(self._groups.get(message.group, message.group), message.data)
        elif message.kind == "serverData":
            self._keep(_named(message.data, self._groups), message.data)

    def _keep(self, provider: str, data: Any) -> None:
        while True:
            if self._stop.is_set():
                # Not stored, so not to be acknowledged: the next process gets it again.
                raise ConnectionAbortedError("stopping")
            try:
                self._store(provider, data)
            except OSError as exc:
                log.error("webps.not_stored", error=exc.strerror)  # noqa: TRY400 - no traceback
                self._stop.wait(DISK_S)
            else:
                self.news.set()
                return

    def _is_connected(self) -> bool:
        return self._client is not None and bool(self._client.is_connected())

    def _has_been_down_for(self, seconds: float) -> bool:
        return self._down_since is not None and time.monotonic() - self._down_since > seconds


class _Protocol(WebPubSubJsonReliableProtocol):
    """The subprotocol, with a look at each frame."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        super().__init__()
        self._take = take

    def parse_messages(self, raw_message: str) -> Any:  # type: ignore[override] # static there, called on the object
        """Parse a frame, and return it once it was taken; None for one that cannot be read."""
        try:
            message = super().parse_messages(raw_message)
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            log.error("webps.unreadable_frame", error_type=type(exc).__name__)  # noqa: TRY400
            return None
        if message is not None:
            self._take(message)
        return message


def _named(data: Any, groups: Mapping[str, str]) -> str:
    """The provider of a message that came by no group."""
    given = data.get("provider") if isinstance(data, Mapping) else None
    if given in groups.values():
        return str(given)
    return next(iter(groups.values())) if len(groups) == 1 else "unknown"


def _said(exc: Exception) -> str:
    """An error without what it may quote of a URL or an answer."""
    if isinstance(exc, PacsorError):
        return str(exc)
    inner = exc.__cause__ or exc.__context__
    return f"{type(exc).__name__}" + (f" ({type(inner).__name__})" if inner else "")

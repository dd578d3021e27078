"""Connections kept between messages: one per RIS and process, with one message under way.

A message that meets a kept connection the peer has left meanwhile, or gets another message's
acknowledgement there, is sent again at once on a new one, with the same bytes: its MSH-10 tells
the RIS that it is the same. Source: contract §3.4, §3.6 (node-hl7-server).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7.ack import Ack, AckError, AckMismatch, AckRejected, check
from pacsor_tasks.hl7.mllp import Connection
from pacsor_tasks.hl7.tls import Tls

log = structlog.get_logger(__name__)

OnAnswer = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ris:
    """One HL7 destination."""

    name: str
    host: str
    port: int
    #: to connect, and again for the ACK
    timeout_s: float
    #: how long an idle connection is kept, seconds; 0: one connection per message
    keep_alive_s: float = 0
    #: None: no TLS
    tls: Tls | None = None


class Connections:
    """The kept connections of this process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Ris, tuple[Connection, threading.Timer]] = {}
        #: those that mix up the messages of one connection
        self._one_each: set[Ris] = set()

    def deliver(
        self, ris: Ris, message: bytes, control_id: str, on_answer: OnAnswer = lambda _: None
    ) -> Ack:
        """Send one message and return its acknowledgement.

        Args:
            ris: Where to.
            message: Without frame.
            control_id: Its MSH-10.
            on_answer: Gets what came back, whatever it is, without frame.

        Raises:
            PeerUnavailable: No connection, or no whole answer in time.
            AckMismatch, AckError, AckRejected: As `ack.check`.
        """
        kept = self._take(ris)
        if kept is not None:
            try:
                return self._exchange(ris, kept, message, control_id, on_answer)
            except AckMismatch as exc:
                log.warning("mllp.one_message_per_connection", ris=ris.name, error=str(exc))
                self._one_each.add(ris)
            except PeerUnavailable as exc:
                if isinstance(exc.__cause__, TimeoutError):
                    raise
                log.info("mllp.reconnected", ris=ris.name, error=str(exc))
        new = Connection(ris.host, ris.port, timeout_s=ris.timeout_s, tls=ris.tls)
        return self._exchange(ris, new, message, control_id, on_answer)

    def close(self) -> None:
        """Hang up everywhere; the object stays usable."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for connection, timer in kept:
            timer.cancel()
            connection.close()

    def _exchange(
        self, ris: Ris, connection: Connection, message: bytes, control_id: str, on_answer: OnAnswer
    ) -> Ack:
        is_well = False
        try:
            answer = connection.exchange(message)
            on_answer(answer)
            accepted = check(answer, control_id)
            is_well = True
        except (AckError, AckRejected):
            is_well = True
            raise
        finally:
            if is_well:
                self._keep(ris, connection)
            else:
                connection.close()
        return accepted

    def _take(self, ris: Ris) -> Connection | None:
        with self._lock:
            kept = self._kept.pop(ris, None)
        if kept is None:
            return None
        connection, timer = kept
        timer.cancel()
        if connection.is_quiet():
            return connection
        connection.close()
        return None

    def _keep(self, ris: Ris, connection: Connection) -> None:
        if not ris.keep_alive_s or ris in self._one_each:
            connection.close()
            return
        timer = threading.Timer(ris.keep_alive_s, self._expire, (ris, connection))
        timer.daemon = True
        with self._lock:
            before = self._kept.pop(ris, None)
            self._kept[ris] = (connection, timer)
        timer.start()
        if before is not None:  # two threads at once: the later one stays
            before[1].cancel()
            before[0].close()

    def _expire(self, ris: Ris, connection: Connection) -> None:
        with self._lock:
            kept = self._kept.get(ris)
            if kept is None or kept[0] is not connection:
                return
            del self._kept[ris]
        connection.close()

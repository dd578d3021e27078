"""Connections kept between messages: one per RIS and process, with one message under way.

A message that meets a kept connection the peer has left meanwhile, or gets another message's
acknowledgement there, is sent again at once on a new one, with the same bytes: its MSH-10 tells
the RIS that it is the same. Source: contract §3.4, §3.6 (node-hl7-server).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7.ack import Ack, AckError, AckMismatch, AckRejected, check
from pacsor_tasks.hl7.mllp import Connection
from pacsor_tasks.tls import Tls

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
    """The kept connections of this process. Safe to use from several threads.

    Args:
        clock: Seconds, to tell how long one is idle.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Condition()
        #: with the time until which each is kept
        self._kept: dict[Ris, tuple[Connection, float]] = {}
        #: those that mix up the messages of one connection
        self._one_each: set[Ris] = set()
        self._has_janitor = False

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
            self._lock.notify()
        for connection, _ in kept:
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
        connection, _ = kept
        if connection.is_quiet():
            return connection
        connection.close()
        return None

    def _keep(self, ris: Ris, connection: Connection) -> None:
        if not ris.keep_alive_s or ris in self._one_each:
            connection.close()
            return
        with self._lock:
            before = self._kept.pop(ris, None)
            self._kept[ris] = (connection, self._clock() + ris.keep_alive_s)
            if len(self._kept) > 1:
                self._lock.notify()  # this one may be the first to expire
            if not self._has_janitor:
                self._has_janitor = True
                threading.Thread(target=self._tidy, name="mllp-idle", daemon=True).start()
        if before is not None:  # two threads at once: the later one stays
            before[0].close()

    def _tidy(self) -> None:
        """Hang up what is idle for too long; ends when nothing is kept."""
        while True:
            with self._lock:
                now = self._clock()
                idle = [ris for ris, (_, until) in self._kept.items() if until <= now]
                expired = [self._kept.pop(ris)[0] for ris in idle]
                if not expired and not self._kept:
                    self._has_janitor = False
                    return
                if not expired:
                    self._lock.wait(min(until for _, until in self._kept.values()) - now)
            for connection in expired:
                connection.close()

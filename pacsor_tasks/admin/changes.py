"""What changed, told to every open page: one poller of the ledger, however many listen.

It reads the ledger's event ids, so it works with Redis away, and it compares what is in the spool
and not in the ledger yet with its look before. A listener that is slow gets the
changes since it last listened in one piece, and holds a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread
import structlog

from pacsor_tasks.errors import PacsorError

log = structlog.get_logger(__name__)

POLL_S = 0.5
#: Pause between two tries while the ledger does not answer.
DOWN_POLL_S = 2.0
MAX_LISTENERS = 200
#: More studies than this in one piece are said as "everything".
MAX_STUDIES = 500
#: A gap of more events than this is not read, but said as "everything".
MAX_EVENTS = 5000

T = TypeVar("T")
#: What is being received: study → anything that differs when something about it did.
Arrivals = Mapping[str, object]


class EventLog(Protocol):
    """The part of the ledger that the poller reads."""

    def last_event_id(self) -> int:
        """The newest event's id."""
        ...

    def touched_since(self, event_id: int) -> list[str]:
        """Studies with an event after this id."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """Studies touched up to an event; `everything` when they are too many to name."""

    event_id: int
    studies: tuple[str, ...] = ()
    everything: bool = False
    #: False: the ledger does not answer for now
    ledger_ok: bool = True


@dataclass(slots=True, eq=False)
class _Listener:
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    event_id: int = 0
    studies: set[str] = field(default_factory=set)
    everything: bool = False
    is_news: bool = False

    def add(self, studies: list[str] | None) -> None:
        """Add studies; None: too many to name."""
        self.studies.update(studies or ())
        if studies is None or len(self.studies) > MAX_STUDIES:
            self.everything = True
            self.studies.clear()
        self.notify()

    def notify(self) -> None:
        self.is_news = True
        self.wake.set()


class Changes:
    """The poller and its listeners. Lives on one event loop.

    Args:
        events: The ledger's event log.
        arrivals: Looks at what is being received.
        poll_s: Seconds between two looks at them while somebody listens.
    """

    def __init__(
        self,
        events: EventLog,
        arrivals: Callable[[], Arrivals] = dict,
        poll_s: float = POLL_S,
    ) -> None:
        self._events = events
        self._arrivals = arrivals
        self._arriving: Arrivals = {}
        self._poll_s = poll_s
        self._listeners: set[_Listener] = set()
        self._somebody = asyncio.Event()
        self._is_polling = asyncio.Event()
        self._is_closed = False
        self._ledger_ok = True
        self._seen = 0
        self._before_seen = 0

    @property
    def is_full(self) -> bool:
        """Whether another listener would be one too many."""
        return len(self._listeners) >= MAX_LISTENERS

    async def run(self) -> None:
        """Poll while somebody listens; ends by cancellation."""
        while True:
            await self._somebody.wait()
            await self._guarded(self._start)
            self._arriving = await _in_thread(self._arrivals)
            self._is_polling.set()
            while self._listeners:
                await asyncio.sleep(self._poll_s if self._ledger_ok else DOWN_POLL_S)
                await self._guarded(self._look)
                await self._look_at_arrivals()
            self._somebody.clear()
            self._is_polling.clear()

    async def listen(self, after: int | None = None) -> AsyncIterator[Change]:
        """Changes as they happen, until the server stops.

        Args:
            after: Event the listener knows already: what happened since comes first.
        """
        listener = _Listener()
        self._listeners.add(listener)
        self._somebody.set()
        try:
            if after is not None:
                await self._catch_up(listener, after)
                # What arrived since the page was made left no event.
                if self._arriving:
                    listener.add(list(self._arriving))
            while not self._is_closed:
                await listener.wake.wait()
                listener.wake.clear()
                if not self._is_closed and listener.is_news:
                    yield self._take(listener)
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End every stream, so that the server can stop."""
        self._is_closed = True
        self._is_polling.set()
        for listener in self._listeners:
            listener.wake.set()

    def _take(self, listener: _Listener) -> Change:
        change = Change(
            event_id=max(self._seen, listener.event_id),
            studies=tuple(sorted(listener.studies)),
            everything=listener.everything,
            ledger_ok=self._ledger_ok,
        )
        listener.studies.clear()
        listener.everything = listener.is_news = False
        return change

    async def _catch_up(self, listener: _Listener, after: int) -> None:
        await self._is_polling.wait()  # from here on the poller tells what is new
        try:
            newest = await _in_thread(self._events.last_event_id)
            if newest > after:
                listener.event_id = newest
                listener.add(await self._touched(after, newest))
        except PacsorError:
            listener.notify()  # says that the ledger is away, and later that it is back

    async def _start(self) -> None:
        self._seen = self._before_seen = await _in_thread(self._events.last_event_id)

    async def _look(self) -> None:
        newest = await _in_thread(self._events.last_event_id)
        if newest <= self._seen:
            return
        # PostgreSQL hands out ids before the commit: one may become visible after a later one, so
        # each look begins where the look before the last one ended.
        studies = await self._touched(self._before_seen, newest)
        self._before_seen, self._seen = self._seen, newest
        for listener in self._listeners:
            listener.add(studies)

    async def _look_at_arrivals(self) -> None:
        before, now = self._arriving, await _in_thread(self._arrivals)
        self._arriving = now
        studies = [uid for uid in {*before, *now} if before.get(uid) != now.get(uid)]
        for listener in self._listeners if studies else ():
            listener.add(studies)

    async def _touched(self, after: int, newest: int) -> list[str] | None:
        if newest - after > MAX_EVENTS:
            return None
        return await _in_thread(lambda: self._events.touched_since(after))

    async def _guarded(self, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
            is_ok = True
        except PacsorError as exc:
            is_ok = False
            if self._ledger_ok:
                log.warning("changes.ledger_away", error=str(exc))
        if is_ok == self._ledger_ok:
            return
        self._ledger_ok = is_ok
        for listener in self._listeners:
            listener.everything = listener.everything or is_ok
            listener.notify()


async def _in_thread(read: Callable[[], T]) -> T:
    # Abandoned when cancelled: a database that hangs must not hold the server's exit.
    return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)

"""Live changes: one poller, many listeners, bounded memory, nothing missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from pacsor_tasks.admin import changes
from pacsor_tasks.admin.changes import Change, Changes
from pacsor_tasks.errors import PeerUnavailable

TIMEOUT_S = 20


class Events:
    """An event log in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str]] = []
        self.is_away = False
        self.reads = 0

    def add(self, study_uid: str, event_id: int | None = None) -> None:
        self.rows.append((event_id or self.last_event_id() + 1, study_uid))

    def last_event_id(self) -> int:
        self.reads += 1
        if self.is_away:
            raise PeerUnavailable("ledger: away")
        return max((event_id for event_id, _ in self.rows), default=0)

    def touched_since(self, event_id: int) -> list[str]:
        return sorted({uid for at, uid in self.rows if at > event_id})


@asynccontextmanager
async def polling(events: Events) -> AsyncIterator[Changes]:
    made = Changes(events, poll_s=0.005)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.002)


async def next_of(stream: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(TIMEOUT_S):
        return await anext(stream)


def run(test: Callable[[Events], Coroutine[None, None, None]]) -> None:
    asyncio.run(test(Events()))


def test_every_listener_hears_of_a_change() -> None:
    async def test(events: Events) -> None:
        async with polling(events) as made:
            streams = [made.listen(after=0) for _ in range(3)]
            waiting = [asyncio.create_task(next_of(s)) for s in streams]
            await until(lambda: events.reads > 5)
            events.add("1.2")
            for change in await asyncio.gather(*waiting):
                assert change.studies == ("1.2",)
                assert change.event_id == 1
            for stream in streams:
                await stream.aclose()  # type: ignore[attr-defined] # an async generator

    run(test)


def test_a_listener_that_comes_back_hears_what_it_missed() -> None:
    async def test(events: Events) -> None:
        for uid in ("1.1", "1.2", "1.3"):
            events.add(uid)
        async with polling(events) as made:
            change = await next_of(made.listen(after=1))
            assert change == Change(event_id=3, studies=("1.2", "1.3"))

    run(test)


def test_a_gap_too_long_to_read_is_said_as_everything() -> None:
    async def test(events: Events) -> None:
        events.add("1.1", event_id=changes.MAX_EVENTS + 2)
        async with polling(events) as made:
            change = await next_of(made.listen(after=1))
            assert (change.everything, change.studies) == (True, ())

    run(test)


def test_a_slow_listener_gets_all_in_one_piece_and_never_too_much() -> None:
    async def test(events: Events) -> None:
        async with polling(events) as made:
            stream = made.listen(after=0)
            waiting = asyncio.create_task(next_of(stream))
            await until(lambda: events.reads > 3)
            events.add("1.0")
            await waiting
            for n in range(changes.MAX_STUDIES + 1):
                events.add(f"1.{n}")
                if n == 3:
                    await asyncio.sleep(0.02)
            reads = events.reads
            await until(lambda: events.reads > reads + 2)
            change = await next_of(stream)
            assert change.everything
            assert change.studies == ()

    run(test)


def test_an_event_that_becomes_visible_after_a_later_one_is_not_missed() -> None:
    async def test(events: Events) -> None:
        async with polling(events) as made:
            stream = made.listen()
            waiting = asyncio.create_task(next_of(stream))
            await until(lambda: events.reads > 2)
            events.add("1.2", event_id=2)
            assert (await waiting).studies == ("1.2",)
            events.add("1.1", event_id=1)  # its transaction was the longer one
            events.add("1.3", event_id=3)
            assert "1.1" in (await next_of(stream)).studies

    run(test)


def test_the_ledger_going_and_coming_back_is_told() -> None:
    async def test(events: Events) -> None:
        changes_made = Changes(events, poll_s=0.005)
        task = asyncio.create_task(changes_made.run())
        stream = changes_made.listen()
        waiting = asyncio.create_task(next_of(stream))
        await until(lambda: events.reads > 2)
        events.is_away = True
        assert (await waiting).ledger_ok is False
        events.is_away = False
        events.add("1.2")
        back = await next_of(stream)
        assert back.ledger_ok
        assert back.everything or back.studies
        task.cancel()

    run(test)


def test_nobody_listening_costs_nothing() -> None:
    async def test(events: Events) -> None:
        async with polling(events) as made:
            await asyncio.sleep(0.05)
            assert events.reads == 0
            stream = made.listen()
            waiting = asyncio.create_task(next_of(stream))
            await until(lambda: events.reads > 2)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            await until(lambda: not made._listeners)
            await asyncio.sleep(0.02)
            reads = events.reads
            await asyncio.sleep(0.05)
            assert events.reads == reads

    run(test)


def test_closing_ends_every_stream() -> None:
    async def test(events: Events) -> None:
        async with polling(events) as made:
            waiting = [asyncio.create_task(next_of(made.listen(after=n))) for n in (0, 5)]
            await until(lambda: len(made._listeners) == 2)
            made.close()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(r, StopAsyncIteration) for r in results)
            assert not made._listeners

    run(test)

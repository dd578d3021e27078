"""The bounded pool: how many run, what is reported, what happens on a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import structlog

from pacsor_tasks.errors import PeerUnavailable, RateLimited
from pacsor_tasks.milvue.pool import BoundedPool
from tests.support.net import wait_until


class Gate:
    """Work that waits until it is let go, so that tests decide the order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.started: list[int] = []
        self.n_running = 0
        self.max_running = 0
        self.events = {n: threading.Event() for n in range(20)}
        self.failing: set[int] = set()

    def __call__(self, item: int) -> int:
        with self.lock:
            self.started.append(item)
            self.n_running += 1
            self.max_running = max(self.max_running, self.n_running)
        assert self.events[item].wait(20)
        with self.lock:
            self.n_running -= 1
        if item in self.failing:
            raise PeerUnavailable(f"item {item}")
        return item * 10

    def open(self, *items: int) -> None:
        for item in items or self.events:
            self.events[item].set()


def run(
    gate: Gate,
    items: range,
    parallel: int,
    on_done: Callable[[int, int], None],
    before_each: Callable[[], None] | None = None,
) -> None:
    BoundedPool[int, int](gate, parallel=parallel, before_each=before_each, on_done=on_done).run(
        items
    )


def test_every_item_is_reported_with_its_result_in_the_calling_thread() -> None:
    gate, done, threads = Gate(), [], set()
    gate.open()

    def on_done(item: int, result: int) -> None:
        done.append((item, result))
        threads.add(threading.current_thread())

    run(gate, range(10), 3, on_done)
    assert sorted(done) == [(n, n * 10) for n in range(10)]
    assert threads == {threading.current_thread()}
    assert gate.max_running <= 3


def test_items_are_reported_in_the_order_they_finish() -> None:
    gate, done = Gate(), []
    gate.open(1)

    def on_done(item: int, _: int) -> None:
        done.append(item)
        gate.open(2 if item == 1 else 0)

    run(gate, range(3), 3, on_done)
    assert done == [1, 2, 0]


def test_after_a_failure_nothing_starts_and_what_was_running_is_reported() -> None:
    gate, done = Gate(), []
    gate.failing = {0}

    def let_0_fail_and_the_others_follow() -> None:
        wait_until(lambda: len(gate.started) == 2)
        gate.open(0)
        wait_until(lambda: gate.n_running == 1)
        gate.open()

    helper = threading.Thread(target=let_0_fail_and_the_others_follow)
    helper.start()
    with pytest.raises(PeerUnavailable, match="item 0"):
        run(gate, range(10), 2, lambda item, _: done.append(item))
    helper.join()
    assert len(gate.started) <= 3
    assert set(done) == set(gate.started) - {0}


def test_a_limit_that_says_no_stops_the_rest_but_reports_what_ran() -> None:
    gate, done, starts = Gate(), [], []
    gate.open()

    def before_each() -> None:
        starts.append(1)
        if len(starts) == 3:
            raise RateLimited("slow down", 5)

    with pytest.raises(RateLimited):
        run(gate, range(10), 4, lambda item, _: done.append(item), before_each)
    assert sorted(done) == [0, 1]
    assert len(gate.started) == 2


def test_what_is_through_is_reported_before_a_long_wait() -> None:
    gate = Gate()
    done: list[int] = []
    seen: list[int] = []
    gate.open()

    def before_each() -> None:
        wait_until(lambda: not gate.n_running and len(gate.started) == len(seen))
        seen.append(len(done))

    run(gate, range(4), 4, lambda item, _: done.append(item), before_each)
    assert seen[-1] >= 2


def test_an_error_in_the_report_stops_everything_and_is_raised() -> None:
    gate = Gate()
    gate.open()

    def on_done(item: int, _: int) -> None:
        raise PeerUnavailable("the ledger is gone")

    with pytest.raises(PeerUnavailable, match="ledger"):
        run(gate, range(10), 2, on_done)
    assert len(gate.started) < 10
    assert gate.n_running == 0


def test_work_logs_with_the_callers_bound_ids() -> None:
    seen: list[object] = []

    def work(item: int) -> None:
        seen.append(structlog.contextvars.get_contextvars().get("study_uid"))

    with structlog.contextvars.bound_contextvars(study_uid="1.2.3"):
        BoundedPool[int, None](work, parallel=2, on_done=lambda _i, _r: None).run(range(3))
    assert seen == ["1.2.3"] * 3


def test_no_items_is_no_work() -> None:
    BoundedPool[int, int](Gate(), parallel=2, on_done=lambda _i, _r: None).run([])

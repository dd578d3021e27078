"""Works on a few items at a time, and reports each one that is through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class BoundedPool(Generic[T, R]):
    """Runs `work` on items in a few threads; everything else happens in the calling thread.

    On the first failure no further item is started; those under way are waited for, and the ones
    that succeed are still reported, so that what was done is never forgotten.

    Args:
        work: Runs in a thread of the pool, with the caller's log context.
        parallel: How many at once, at least 1.
        before_each: Called before each start, e.g. to wait for a rate limit.
        on_done: Called with an item and its result, in the order of completion.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        *,
        parallel: int,
        before_each: Callable[[], None] | None = None,
        on_done: Callable[[T, R], None],
    ) -> None:
        self._work = work
        self._parallel = parallel
        self._before_each = before_each
        self._on_done = on_done
        self._finished: SimpleQueue[tuple[T, Future[R]]] = SimpleQueue()
        self._running = 0

    def run(self, items: Iterable[T]) -> None:
        """Work on all items, or raise the first failure once nothing runs any more."""
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="milvue") as executor:
            try:
                for item in items:
                    # Report first: before_each may wait long.
                    while self._running == self._parallel or not self._finished.empty():
                        self._collect()
                    if self._before_each is not None:
                        self._before_each()
                    self._start(executor, item)
                while self._running:
                    self._collect()
            except BaseException:
                while self._running:
                    self._collect_success()
                raise

    def _start(self, executor: ThreadPoolExecutor, item: T) -> None:
        future = executor.submit(copy_context().run, self._work, item)
        self._running += 1
        future.add_done_callback(lambda done: self._finished.put((item, done)))

    def _collect(self) -> None:
        item, future = self._finished.get()
        self._running -= 1
        self._on_done(item, future.result())

    def _collect_success(self) -> None:
        item, future = self._finished.get()
        self._running -= 1
        if future.exception() is None:
            self._on_done(item, future.result())

"""Ports and waiting."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from typing import TypeVar

T = TypeVar("T")


#: Below those that the kernel gives to clients, which are many here; each worker of pytest-xdist
#: has some of its own.
FIRST_PORT, PORTS_EACH, MOST_WORKERS = 16_000, 2_000, 8


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % MOST_WORKERS
    first = FIRST_PORT + worker * PORTS_EACH
    # Somebody else may be at work with the same range: so not all begin at its beginning.
    start = random.SystemRandom().randrange(PORTS_EACH)
    return cycle(first + (start + n) % PORTS_EACH for n in range(PORTS_EACH))


_next_port, _guard = _ports(), threading.Lock()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago, and that no other test is told soon."""
    for _ in range(PORTS_EACH):
        with _guard:
            port = next(_next_port)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no free port from {FIRST_PORT} on")


def wait_until(condition: Callable[[], T], timeout_s: float = 20, interval_s: float = 0.02) -> T:
    """Poll until `condition()` is true and return its value; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not true within {timeout_s} s: {condition}"
        time.sleep(interval_s)

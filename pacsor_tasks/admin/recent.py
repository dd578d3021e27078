"""A value that is costly to make, made again only now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_AGE_S = 1.0
#: At most a twentieth of the time goes into making it.
COST_FACTOR = 20.0


class Recent(Generic[T]):
    """The last value while it is recent; how long that is grows with what it costs.

    Args:
        make: Makes the value.
        clock: Monotonic seconds.
    """

    def __init__(self, make: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[T] | None = None
        self._good_until = float("-inf")

    def __call__(self) -> T:
        """The value; one caller makes it while others wait for the same."""
        with self._lock:
            began = self._clock()
            if self._kept is None or began >= self._good_until:
                self._kept = (self._make(),)
                ended = self._clock()
                self._good_until = ended + max(MIN_AGE_S, COST_FACTOR * (ended - began))
            return self._kept[0]

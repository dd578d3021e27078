"""Rates shared by all workers: GCRA with reservation and pushback, on Redis's own clock.

A reservation tells the caller when its turn is, so nobody spins; a pushback (HTTP 429) stops every
worker, not only the one that met it, and starts again without a burst.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

import redis
import structlog

from pacsor_tasks.errors import OutOfTurn

log = structlog.get_logger(__name__)

#: A wait shorter than this is slept in the worker; a longer one is a due time in the ledger,
#: unless the caller has begun something that it would have to begin again.
MAX_SLEEP_S = 2.0
#: Share of the configured rate that each process allows itself while Redis is away.
LOCAL_SHARE = 0.25

_RESERVE = """
local t = redis.call('TIME'); local now = t[1] * 1000 + t[2] / 1000
local interval = tonumber(ARGV[1])
local burst = tonumber(ARGV[2]); local maxwait = tonumber(ARGV[3])
local tat = tonumber(redis.call('GET', KEYS[1]) or now); if tat < now then tat = now end
local blocked = tonumber(redis.call('GET', KEYS[2]) or 0)
local wait = math.max(tat - now - (burst - 1) * interval, blocked - now, 0)
if wait > maxwait then return {0, tostring(wait)} end
if blocked > now and tat < blocked then tat = blocked end
tat = tat + interval
local ttl = math.ceil(tat - now + burst * interval) + 1000
redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', ttl)
return {1, tostring(wait)}
"""
#: Milliseconds for which nobody acts, without taking a turn.
_BLOCKED = """
local t = redis.call('TIME'); local now = t[1] * 1000 + t[2] / 1000
return tostring(math.max(tonumber(redis.call('GET', KEYS[1]) or 0) - now, 0))
"""
_PUSHBACK = """
local t = redis.call('TIME'); local now = t[1] * 1000 + t[2] / 1000
local till = now + tonumber(ARGV[1])
local current = tonumber(redis.call('GET', KEYS[2]) or 0)
if till <= current then return tostring(current - now) end
redis.call('SET', KEYS[2], string.format('%.3f', till), 'PX', math.ceil(till - now))
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), till + tonumber(ARGV[2]))
redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.ceil(tat - now) + 60000)
return tostring(till - now)
"""


class Limiter(Protocol):
    """Holds a rate."""

    def wait(self, max_wait_s: float = MAX_SLEEP_S) -> None:
        """Return when the caller may act; OutOfTurn when that is later than so many seconds."""

    def pushback(self, seconds: float) -> None:
        """Nobody acts for so long."""


class Unlimited:
    """No rate, and a pushback is left to the ledger's due times."""

    def wait(self, max_wait_s: float = MAX_SLEEP_S) -> None:
        """Return at once."""

    def pushback(self, seconds: float) -> None:
        """Do nothing."""


class SharedRate:
    """At most `rate` actions per second over every process that uses the same Redis and name.

    Args:
        client: Redis; its own timeouts must be short.
        name: What is limited, e.g. `upload:core`.
        rate: Actions per second, above 0.
        burst: Actions that may go at once after a pause, at least 1.
        sleep: For tests.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        rate: float,
        burst: int = 1,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._keys = [_key(name, "tat"), _key(name, "blocked")]
        self._interval_ms = 1000.0 / rate
        self._burst = burst
        self._name = name
        self._sleep = sleep
        self._reserve = client.register_script(_RESERVE)
        self._push = client.register_script(_PUSHBACK)
        self._blocked = client.register_script(_BLOCKED)

    def wait(self, max_wait_s: float = MAX_SLEEP_S) -> None:
        """Sleep until this caller's turn.

        Raises:
            OutOfTurn: The turn is more than `max_wait_s` away; nothing was reserved.
        """
        try:
            while (wait_s := self._turn(max_wait_s)) > 0:
                self._sleep(wait_s)
                if not float(self._blocked(keys=self._keys[1:])):
                    return
                max_wait_s -= wait_s  # a 429 came meanwhile: whoever had a turn has none now
        except redis.RedisError as exc:
            log.warning("limit.local", limit=self._name, error=type(exc).__name__)
            self._sleep(self._interval_ms / 1000 / LOCAL_SHARE)

    def _turn(self, max_wait_s: float) -> float:
        args = [self._interval_ms, self._burst, max_wait_s * 1000]
        granted, wait_ms = self._reserve(keys=self._keys, args=args)
        wait_s = float(wait_ms) / 1000
        if not granted:
            raise OutOfTurn(f"the limit {self._name} is used up", wait_s)
        return wait_s

    def pushback(self, seconds: float) -> None:
        """Stop all users of this limit for so many seconds."""
        try:
            self._push(
                keys=self._keys, args=[seconds * 1000, (self._burst - 1) * self._interval_ms]
            )
        except redis.RedisError as exc:
            log.warning("limit.pushback_lost", limit=self._name, error=type(exc).__name__)


class SharedPause:
    """No rate of our own; but who is told to wait (HTTP 429) makes everybody wait.

    Args:
        client: Redis; its own timeouts must be short.
        name: What is limited, e.g. `upload:core`.
        sleep: For tests.
    """

    def __init__(
        self, client: redis.Redis, name: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        # A rate that nobody notices: of it only the pushback is used.
        self._rate = SharedRate(client, name, rate=1000.0)
        self._keys = [_key(name, "blocked")]
        self._name = name
        self._sleep = sleep
        self._blocked = client.register_script(_BLOCKED)

    def wait(self, max_wait_s: float = MAX_SLEEP_S) -> None:
        """Return at once, or when the pause is over.

        Raises:
            OutOfTurn: It is longer than `max_wait_s`.
        """
        try:
            wait_s = float(self._blocked(keys=self._keys)) / 1000
        except redis.RedisError as exc:
            log.warning("limit.local", limit=self._name, error=type(exc).__name__)
            return
        if wait_s <= 0:
            return
        wait_s *= random.uniform(1.0, 1.2)  # noqa: S311 - or all would start again at once
        if wait_s > max_wait_s:
            raise OutOfTurn(f"{self._name} is paused, as its peer asked", wait_s)
        self._sleep(wait_s)

    def pushback(self, seconds: float) -> None:
        """Stop all users of this limit for so many seconds."""
        self._rate.pushback(seconds)


def _key(name: str, what: str) -> str:
    return f"pacsor:rate:{{{name}}}:{what}"

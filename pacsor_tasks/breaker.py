"""Circuit breakers shared by all workers: a peer that does not answer holds no worker for long.

Only tries that were slow to fail count: sixty studies that wait for a PACS behind a firewall that
swallows packets would else keep four workers busy with connecting. Who fails at once costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import redis
import structlog

from pacsor_tasks.errors import PeerUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A failure that took less held no worker, seconds.
SLOW_S = 1.0
#: Slow failures in a row after which the peer is left alone.
THRESHOLD = 3
#: For how long: at first, and at most, seconds; twice as long each time.
FIRST_S, LONGEST_S = 5.0, 60.0
#: One try at a time finds out whether the peer is back; so long for each, seconds.
PROBE_S = 60.0
#: A peer that nobody talks to is forgotten, seconds.
MEMORY_S = 3600.0

#: Milliseconds until the peer may be tried, or 0 for who may try it now; and its slow failures.
_MAY_TRY = """
local n = tonumber(redis.call('GET', KEYS[1]) or 0)
if n < tonumber(ARGV[1]) then return {0, n} end
local open = redis.call('PTTL', KEYS[2])
if open > 0 then return {open, n} end
if redis.call('SET', KEYS[3], 1, 'NX', 'PX', ARGV[2]) then return {0, n} end
return {math.max(redis.call('PTTL', KEYS[3]), 1), n}
"""
_FAILED = """
local n = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[3])
local over = n - tonumber(ARGV[1])
if over >= 0 then
  local open = math.min(tonumber(ARGV[2]) * 2 ^ math.min(over, 20), tonumber(ARGV[3]))
  redis.call('SET', KEYS[2], 1, 'PX', math.floor(open))
end
return n
"""


class Breaker(Protocol):
    """Decides whether a peer is tried at all."""

    def call(self, peer: str, action: Callable[[], T]) -> T:
        """Do it, or raise PeerUnavailable because the peer did not answer others."""


class NoBreaker:
    """Tries everything."""

    def call(self, peer: str, action: Callable[[], T]) -> T:  # noqa: ARG002 - as the protocol
        """Do it."""
        return action()


class SharedBreaker:
    """One breaker per peer over every process that uses the same Redis.

    With Redis away everything is tried.

    Args:
        client: Redis; its own timeouts must be short.
        clock: Seconds, to tell slow failures from quick ones.
    """

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._may_try = client.register_script(_MAY_TRY)
        self._failed = client.register_script(_FAILED)

    def call(self, peer: str, action: Callable[[], T]) -> T:
        """Do it, and note how the peer took it.

        Raises:
            PeerUnavailable: Several in a row found the peer away; also whatever `action` raises.
        """
        failures = self._enter(peer)
        started = self._clock()
        try:
            done = action()
        except PeerUnavailable:
            if self._clock() - started >= SLOW_S:
                self._note_failure(peer)
            elif failures:
                self._forget(peer)
            raise
        except BaseException:
            if failures:
                self._forget(peer)
            raise
        if failures:
            self._forget(peer)
        return done

    def _enter(self, peer: str) -> int:
        try:
            wait_ms, failures = self._may_try(
                keys=_keys(peer), args=[THRESHOLD, int(PROBE_S * 1000)]
            )
        except redis.RedisError as exc:
            log.warning("breaker.away", peer=peer, error=type(exc).__name__)
            return 0
        if wait_ms:
            raise PeerUnavailable(
                f"{peer} did not answer several times in a row and is left alone for a while",
                float(wait_ms) / 1000,
            )
        return int(failures)

    def _note_failure(self, peer: str) -> None:
        limits = [THRESHOLD, *(int(s * 1000) for s in (FIRST_S, LONGEST_S, MEMORY_S))]
        try:
            failures = int(self._failed(keys=_keys(peer), args=limits))
        except redis.RedisError as exc:
            log.warning("breaker.away", peer=peer, error=type(exc).__name__)
            return
        if failures >= THRESHOLD:
            log.warning("breaker.open", peer=peer, failures=failures)

    def _forget(self, peer: str) -> None:
        try:
            self._client.delete(*_keys(peer))
        except redis.RedisError as exc:
            log.warning("breaker.away", peer=peer, error=type(exc).__name__)


def _keys(peer: str) -> list[str]:
    return [f"pacsor:breaker:{{{peer}}}:{what}" for what in ("failures", "open", "probe")]

"""Circuit breakers: a peer that is away holds no worker.

The state is in the ledger, which therefore keeps the work of a peer that is left alone out of the
queues. A cheap probe, made by the sweep, finds out whether the peer answers; then one piece of work
at a time finds out whether it works, since a PACS may answer C-ECHO and choke on every C-STORE.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import structlog

from pacsor_tasks.errors import (
    LedgerUnavailable,
    OutOfTurn,
    PacsorError,
    PeerUnavailable,
    Retryable,
)
from pacsor_tasks.ledger.peers import OPEN_AT, Peers
from pacsor_tasks.models import PeerName, PeerState

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A failure that took longer held a worker, seconds.
SLOW_S = 1.0
#: Strikes of such a one, and of a quick one: three or ten in a row leave the peer alone.
SLOW_STRIKES, QUICK_STRIKES = 4, 1


class PeerPaused(Retryable):
    """An operator paused the peer: nothing was tried, and nothing went wrong."""


class Breaker(Protocol):
    """Decides whether a peer is tried at all."""

    def call(self, peer: PeerName, action: Callable[[], T]) -> T:
        """Do it, or raise PeerUnavailable because the peer is left alone."""


class NoBreaker:
    """Tries everything."""

    def call(self, peer: PeerName, action: Callable[[], T]) -> T:  # noqa: ARG002 - as the protocol
        """Do it."""
        return action()


class LedgerBreaker:
    """One breaker per peer over every process that uses the same ledger.

    Args:
        peers: Of the ledger.
        clock: Seconds, to tell slow failures from quick ones.
    """

    def __init__(self, peers: Peers, clock: Callable[[], float] = time.monotonic) -> None:
        self._peers = peers
        self._clock = clock

    def call(self, peer: PeerName, action: Callable[[], T]) -> T:
        """Do it, and note how the peer took it.

        Raises:
            PeerUnavailable: The peer is left alone; also whatever `action` raises.
            PeerPaused: An operator paused it.
        """
        before = self._peers.get(peer)
        if before.state is PeerState.PAUSED:
            raise PeerPaused(f"{peer} is paused")
        if before.state is PeerState.OPEN:
            raise PeerUnavailable(f"{peer} is left alone: {before.error}")
        started = self._clock()
        try:
            done = action()
        except (LedgerUnavailable, OutOfTurn):
            raise  # ours: neither a strike of the peer's nor an answer
        except PeerUnavailable as exc:
            self._failed(peer, str(exc), self._clock() - started)
            raise
        except PacsorError:
            # It answered, if with a refusal; anything else says nothing of the peer.
            if before.strikes:
                self._answered(peer)
            raise
        if before.strikes:
            self._answered(peer)
        return done

    def _failed(self, peer: PeerName, error: str, took_s: float) -> None:
        strikes = SLOW_STRIKES if took_s >= SLOW_S else QUICK_STRIKES
        with suppress(PeerUnavailable):  # the ledger's; what the peer did is more worth telling
            if self._peers.failed(peer, error, strikes):
                log.warning("breaker.open", peer=str(peer), open_at=OPEN_AT)

    def _answered(self, peer: PeerName) -> None:
        with suppress(PeerUnavailable):
            if self._peers.answered(peer):
                log.info("breaker.closed", peer=str(peer))

"""Circuit breakers: who is left alone, for how long, and how it comes back; on each database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import breaker as module
from pacsor_tasks.breaker import LedgerBreaker, PeerPaused
from pacsor_tasks.errors import (
    BadResponse,
    LedgerUnavailable,
    OutOfTurn,
    PeerUnavailable,
    RateLimited,
    Rejected,
)
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import PeerKind, PeerName, PeerState
from pacsor_tasks.probing import start_probes
from tests.conftest import Clock
from tests.support.bench import Bench

PEER = PeerName(PeerKind.DESTINATION, "storescu")
OTHER = PeerName(PeerKind.DESTINATION, "storescu-2")


class Stopwatch:
    """Time that passes when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Stopwatch:
    """Shared by all users of a test."""
    return Stopwatch()


@pytest.fixture
def breaker(ledger: Ledger, watch: Stopwatch) -> LedgerBreaker:
    """The breaker of one worker."""
    return LedgerBreaker(ledger.peers, watch)


def away(watch: Stopwatch, seconds: float = 10.0) -> Callable[[], None]:
    def action() -> None:
        watch.now += seconds
        raise PeerUnavailable("no connection within 10 s")

    return action


def refuse(breaker: LedgerBreaker, action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        with pytest.raises(PeerUnavailable, match="no connection"):
            breaker.call(PEER, action)


def state(ledger: Ledger, peer: PeerName = PEER) -> PeerState:
    return ledger.peers.get(peer).state


@pytest.mark.parametrize(
    ("took_s", "tries"),
    [
        (10.0, 3),  # a firewall that swallows packets: three workers' ten seconds are enough
        (0.01, 10),  # refused at once: costs little, yet many waiting studies would cost much
    ],
)
def test_a_peer_that_is_away_is_left_alone_by_every_worker(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, took_s: float, tries: int
):
    refuse(breaker, away(watch, took_s), tries - 1)
    assert state(ledger) is PeerState.CLOSED
    refuse(breaker, away(watch, took_s), 1)
    assert state(ledger) is PeerState.OPEN
    other_worker = LedgerBreaker(ledger.peers, watch)
    with pytest.raises(PeerUnavailable, match="storescu is left alone: no connection within 10 s"):
        other_worker.call(PEER, lambda: pytest.fail("not tried"))


def test_another_peer_is_not_touched(ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch):
    refuse(breaker, away(watch), 3)
    assert state(ledger, OTHER) is PeerState.CLOSED
    assert breaker.call(OTHER, lambda: "done") == "done"


@pytest.mark.parametrize(
    "answer", [None, Rejected("no"), RateLimited("slow down"), BadResponse("what?")]
)
def test_any_answer_in_between_starts_the_count_again(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, answer: Exception | None
):
    def answered() -> None:
        if answer is not None:
            raise answer

    for _ in range(3):
        refuse(breaker, away(watch), 2)
        with suppress(Rejected, RateLimited, BadResponse):
            breaker.call(PEER, answered)
    assert state(ledger) is PeerState.CLOSED


def test_what_is_no_word_of_the_peer_changes_nothing(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch
):
    def interrupted() -> None:
        raise KeyboardInterrupt

    refuse(breaker, away(watch), 2)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(PEER, interrupted)
    refuse(breaker, away(watch), 1)
    assert state(ledger) is PeerState.OPEN


def test_that_our_own_limit_was_used_up_is_no_answer_of_the_peers(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    def out_of_turn() -> None:
        raise OutOfTurn("the limit upload:core is used up", 5)

    refuse(breaker, away(watch), 3)
    clock.tick(5)
    ledger.peers.take_probes()
    ledger.peers.probed(PEER, None)
    with pytest.raises(OutOfTurn):
        breaker.call(PEER, out_of_turn)
    assert state(ledger) is PeerState.TRIAL


def test_a_probe_that_gets_through_puts_the_peer_on_trial_and_a_success_closes(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    refuse(breaker, away(watch), 3)
    assert ledger.peers.take_probes() == []
    clock.tick(5)
    assert ledger.peers.take_probes() == [PEER]
    assert ledger.peers.take_probes() == []  # another sweep finds it taken
    ledger.peers.probed(PEER, None)
    assert state(ledger) is PeerState.TRIAL
    breaker.call(PEER, lambda: None)
    assert state(ledger) is PeerState.CLOSED
    assert [e["kind"] for e in ledger.peers.events()] == ["peer.closed", "peer.open"]


def test_who_answers_a_probe_and_nothing_else_is_left_alone_for_longer_each_time(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    waits = []
    refuse(breaker, away(watch), 3)
    for _ in range(6):
        clock.tick(60)
        assert ledger.peers.take_probes() == [PEER]
        ledger.peers.probed(PEER, None)
        refuse(breaker, away(watch), 1)
        waits.append((ledger.peers.get(PEER).probe_at or 0) - clock())
    assert waits == [10, 20, 40, 60, 60, 60]
    assert len(ledger.peers.events()) == 1  # not a line per minute of a weekend


def test_a_probe_whose_process_died_is_made_again(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    refuse(breaker, away(watch), 3)
    clock.tick(5)
    assert ledger.peers.take_probes() == [PEER]
    clock.tick(31)
    assert ledger.peers.take_probes() == [PEER]


def test_a_probe_that_hangs_costs_one_thread_and_no_more(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock, tmp_path: Path
):
    let_go, asked, threads = threading.Event(), threading.Semaphore(0), list[threading.Thread]()

    def hang() -> None:
        asked.release()
        assert let_go.wait(60)

    def aside(do: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=do))
        threads[-1].start()

    ports = replace(Bench(tmp_path, ledger).ports, probes={PEER: hang}, aside=aside)
    refuse(breaker, away(watch), 3)
    try:
        for started in (1, 0, 0):
            clock.tick(31)
            assert start_probes(ports) == started
        assert asked.acquire(timeout=60)
    finally:
        let_go.set()
        threads[0].join(60)
    assert state(ledger) is PeerState.TRIAL
    refuse(breaker, away(watch), 1)
    clock.tick(61)
    assert start_probes(ports) == 1
    threads[1].join(60)


def test_a_try_from_before_that_fails_late_does_not_put_the_probe_off(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    refuse(breaker, away(watch), 3)
    due = ledger.peers.get(PEER).probe_at
    clock.tick(4)
    assert not ledger.peers.failed(PEER, "late", 4)
    assert ledger.peers.get(PEER).probe_at == due


def test_a_paused_peer_is_not_tried_and_no_probe_resumes_it(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch, clock: Clock
):
    refuse(breaker, away(watch), 3)
    ledger.peers.pause(PEER, "ada", "moving house")
    clock.tick(100)
    assert ledger.peers.take_probes() == []
    with pytest.raises(PeerPaused):
        breaker.call(PEER, lambda: pytest.fail("not tried"))


def test_without_the_ledger_the_peers_answer_counts_more_than_the_note_of_it(
    sqlite_ledger: Ledger, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
):
    def gone(*_: object) -> bool:
        raise PeerUnavailable("ledger: gone")

    breaker = LedgerBreaker(sqlite_ledger.peers, watch)
    monkeypatch.setattr(sqlite_ledger.peers, "failed", gone)
    refuse(breaker, away(watch), 1)


def test_that_the_ledger_was_locked_is_not_held_against_the_peer(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch
):
    def locked() -> None:
        watch.now += 30
        raise LedgerUnavailable("ledger: database is locked")

    for _ in range(5):
        with pytest.raises(LedgerUnavailable):
            breaker.call(PEER, locked)
    assert state(ledger) is PeerState.CLOSED


def test_of_fifty_deliveries_to_a_dead_peer_three_hold_a_worker(
    ledger: Ledger, breaker: LedgerBreaker, watch: Stopwatch
):
    for _ in range(50):
        with suppress(PeerUnavailable):
            breaker.call(PEER, away(watch))
    assert watch.now == 3 * 10.0
    assert module.SLOW_STRIKES * 3 >= 10

"""Circuit breakers on a real Redis: who is left alone, for how long, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pacsor_tasks import breaker as module
from pacsor_tasks.breaker import THRESHOLD, SharedBreaker
from pacsor_tasks.errors import PeerUnavailable, Rejected
from tests.support.net import free_port, wait_until
from tests.support.redis_server import redis_server

PEER = "storescu"


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
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    """A Redis of its own."""
    with redis_server(tmp_path) as server, server.client() as connection:
        yield connection


@pytest.fixture
def breaker(client: redis.Redis, watch: Stopwatch) -> SharedBreaker:
    """The breaker of one worker."""
    return SharedBreaker(client, watch)


def away(watch: Stopwatch, seconds: float = 10.0) -> Callable[[], None]:
    def action() -> None:
        watch.now += seconds
        raise PeerUnavailable("no connection within 10 s")

    return action


def refuse(breaker: SharedBreaker, action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        with pytest.raises(PeerUnavailable, match="no connection"):
            breaker.call(PEER, action)


def is_left_alone(breaker: SharedBreaker, peer: str = PEER) -> bool:
    try:
        breaker.call(peer, lambda: None)
    except PeerUnavailable:
        return True
    return False


def test_a_peer_that_keeps_silent_is_left_alone_by_every_worker(
    client: redis.Redis, breaker: SharedBreaker, watch: Stopwatch
):
    refuse(breaker, away(watch), THRESHOLD)
    other_worker = SharedBreaker(client, watch)
    with pytest.raises(PeerUnavailable, match="storescu did not answer several times") as caught:
        other_worker.call(PEER, lambda: pytest.fail("not tried"))
    assert 0 < (caught.value.retry_after_s or 0) <= module.FIRST_S


def test_another_peer_is_not_touched(breaker: SharedBreaker, watch: Stopwatch):
    refuse(breaker, away(watch), THRESHOLD)
    assert not is_left_alone(breaker, "storescu-2")


def test_quick_failures_hold_nobody_and_do_not_count(breaker: SharedBreaker, watch: Stopwatch):
    refuse(breaker, away(watch, 0.01), 20)
    assert not is_left_alone(breaker)


@pytest.mark.parametrize("answer", [None, Rejected("no"), PeerUnavailable("quick")])
def test_any_answer_in_between_starts_the_count_again(
    breaker: SharedBreaker, watch: Stopwatch, answer: Exception | None
):
    def answered() -> None:
        if answer is not None:
            raise answer

    for _ in range(3):
        refuse(breaker, away(watch), THRESHOLD - 1)
        with suppress(Rejected, PeerUnavailable):
            breaker.call(PEER, answered)
    assert not is_left_alone(breaker)


def test_one_at_a_time_finds_out_whether_the_peer_is_back(
    breaker: SharedBreaker, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "FIRST_S", 0.05)
    refuse(breaker, away(watch), THRESHOLD)
    seen: list[bool] = []

    def probe() -> None:
        seen.append(is_left_alone(breaker))

    wait_until(lambda: try_once(breaker, probe))
    assert seen == [True]  # the others waited meanwhile
    assert not is_left_alone(breaker)  # and it is back


def try_once(breaker: SharedBreaker, action: Callable[[], None]) -> bool:
    try:
        breaker.call(PEER, action)
    except PeerUnavailable:
        return False
    return True


def test_a_probe_that_fails_leaves_the_peer_alone_for_longer(
    client: redis.Redis, breaker: SharedBreaker, watch: Stopwatch
):
    waits = []
    refuse(breaker, away(watch), THRESHOLD)
    for _ in range(6):
        client.delete(f"pacsor:breaker:{{{PEER}}}:open")  # its time has come
        refuse(breaker, away(watch), 1)
        with pytest.raises(PeerUnavailable) as caught:
            breaker.call(PEER, lambda: None)
        waits.append(round(caught.value.retry_after_s or 0))
    assert waits == [10, 20, 40, 60, 60, 60]


def test_without_redis_everything_is_tried(watch: Stopwatch):
    with redis.Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nowhere:
        breaker = SharedBreaker(nowhere, watch)
        refuse(breaker, away(watch), THRESHOLD + 2)
        assert breaker.call(PEER, lambda: "done") == "done"


def test_of_fifty_deliveries_to_a_dead_peer_three_hold_a_worker(
    breaker: SharedBreaker, watch: Stopwatch
):
    for _ in range(50):
        with suppress(PeerUnavailable):
            breaker.call(PEER, away(watch))
    assert watch.now == THRESHOLD * 10.0

"""Shared rates on a real Redis: reservation, pushback, and Redis going away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.errors import RateLimited
from pacsor_tasks.limits import LOCAL_SHARE, MAX_SLEEP_S, SharedRate
from tests.support.redis_server import RedisServer, redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


class Sleeper:
    """Remembers what it was asked to sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_turns_are_reserved_one_after_the_other_over_all_users(server: RedisServer):
    sleeper = Sleeper()
    with server.client() as one, server.client() as two:
        users = [SharedRate(c, "upload:core", rate=10, sleep=sleeper) for c in (one, two)]
        for i in range(6):
            users[i % 2].wait()
    # Nobody really slept, so the turns pile up: the first is free, then a tenth of a second each.
    assert len(sleeper.slept) == 5
    assert sleeper.slept == sorted(sleeper.slept)
    assert sleeper.slept[-1] == pytest.approx(0.5, abs=0.2)


def test_a_turn_too_far_away_is_refused_with_the_time_to_come_back(server: RedisServer):
    with server.client() as client:
        limit = SharedRate(client, "slow", rate=0.1, sleep=Sleeper())
        limit.wait()
        with pytest.raises(RateLimited) as caught:
            limit.wait()
    assert caught.value.retry_after_s is not None
    assert MAX_SLEEP_S < caught.value.retry_after_s <= 10


def test_a_pushback_stops_everyone_and_names_do_not_meet(server: RedisServer):
    with server.client() as one, server.client() as two:
        SharedRate(one, "a", rate=100).pushback(30)
        with pytest.raises(RateLimited) as caught:
            SharedRate(two, "a", rate=100).wait()
        assert caught.value.retry_after_s == pytest.approx(30, abs=2)
        SharedRate(two, "b", rate=100).wait()


def test_a_shorter_pushback_does_not_shorten_a_longer_one(server: RedisServer):
    with server.client() as client:
        limit = SharedRate(client, "a", rate=100)
        limit.pushback(30)
        limit.pushback(1)
        with pytest.raises(RateLimited) as caught:
            limit.wait()
    assert caught.value.retry_after_s == pytest.approx(30, abs=2)


def test_with_redis_away_each_process_keeps_to_its_share(server: RedisServer):
    sleeper = Sleeper()
    with server.client() as client:
        limit = SharedRate(client, "a", rate=10, sleep=sleeper)
        server.kill()
        limit.wait()
        limit.pushback(5)  # lost, said in the log, and no error
    assert sleeper.slept == [pytest.approx(0.1 / LOCAL_SHARE)]

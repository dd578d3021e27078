"""Shared rates on a real Redis: reservation, pushback, and Redis going away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.errors import RateLimited
from pacsor_tasks.limits import LOCAL_SHARE, MAX_SLEEP_S, SharedPause, SharedRate
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


def test_a_pushback_takes_back_the_turns_that_were_given(server: RedisServer):
    with server.client() as client:
        limit = SharedRate(client, "a", rate=2, sleep=lambda _: limit.pushback(30))
        limit.wait()  # the first turn is now
        with pytest.raises(RateLimited) as caught:
            limit.wait()
    assert caught.value.retry_after_s == pytest.approx(30, abs=2)


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


def test_without_a_rate_a_pushback_stops_everyone_all_the_same(server: RedisServer):
    sleeper = Sleeper()
    with server.client() as one, server.client() as two:
        users = [SharedPause(c, "upload:core", sleep=sleeper) for c in (one, two)]
        for user in users:
            user.wait()
        assert sleeper.slept == []
        users[0].pushback(1)
        users[1].wait()
        assert sleeper.slept == [pytest.approx(1, abs=0.5)]
        users[0].pushback(30)
        with pytest.raises(RateLimited) as caught:
            users[1].wait()
        assert caught.value.retry_after_s is not None
        assert 25 < caught.value.retry_after_s <= 36
        SharedPause(two, "upload:other", sleep=sleeper).wait()


def test_without_a_rate_and_without_redis_nobody_waits(server: RedisServer):
    sleeper = Sleeper()
    with server.client() as client:
        limit = SharedPause(client, "a", sleep=sleeper)
        server.kill()
        limit.wait()
        limit.pushback(5)
    assert sleeper.slept == []


USER = """
import sys, time, redis
from pacsor_tasks.limits import SharedRate
limit = SharedRate(redis.Redis.from_url(sys.argv[1]), "upload:core", rate=20)
until = time.time() + float(sys.argv[2])
while time.time() < until:
    limit.wait(30)
    print(time.time(), flush=True)
"""


def test_four_processes_together_keep_to_the_rate(server: RedisServer):
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USER, server.url, "7"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    turns = sorted(
        float(line) for user in users for line in user.communicate(timeout=60)[0].split()
    )
    assert all(user.returncode == 0 for user in users)
    # Any five seconds. 100 are allowed; a busy machine wakes who slept a little late or early.
    windows = [sum(start <= at < start + 5 for at in turns) for start in turns]
    assert max(windows) <= 112
    whole = [n for start, n in zip(turns, windows, strict=True) if start + 5 <= turns[-1]]
    assert max(whole) >= 85

"""Health: probes side by side, cached, never waited for long; and the probes themselves."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import kombu.exceptions
import pytest
import redis

from pacsor_tasks.admin import probes
from pacsor_tasks.admin.health import Check, Health, Probe
from pacsor_tasks.admin.recent import Recent
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.listening import Listening
from tests.support.net import free_port

WELL = Check(ok=True, detail="well")


class Counter:
    """A probe that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Check:
        self.calls += 1
        return WELL


def test_a_probe_runs_once_per_lifetime_however_many_ask() -> None:
    now, counter = [0.0], Counter()
    health = Health({"x": Probe(counter, ttl_s=2)}, clock=lambda: now[0])
    for _ in range(5):
        assert health().down == []
    now[0] = 2.1
    health()
    assert counter.calls == 2


def test_what_raises_is_down_and_says_why() -> None:
    def away() -> Check:
        raise PeerUnavailable("ledger: locked")

    report = Health({"ledger": Probe(away, ttl_s=1), "disk": Probe(Counter(), ttl_s=1)})()
    assert report.down == ["ledger"]
    assert report.to_json()["checks"]["ledger"] == {"ok": False, "detail": "ledger: locked"}


def test_a_probe_that_hangs_is_down_and_is_not_started_twice() -> None:
    release, calls = threading.Event(), []

    def hang() -> Check:
        calls.append(1)
        release.wait(20)
        return WELL

    health = Health({"x": Probe(hang, ttl_s=0), "y": Probe(Counter(), ttl_s=0)}, timeout_s=0.05)
    for _ in range(3):
        report = health()
        assert report.down == ["x"]
        assert report.checks["x"].detail == "no answer within 0.05 s"
    assert len(calls) == 1
    release.set()


def test_a_slow_probe_gives_its_last_answer_while_the_next_is_fetched() -> None:
    now, release, first = [0.0], threading.Event(), [True]

    def slow() -> Check:
        if not first:
            release.wait(20)
        first.clear()
        return WELL

    probe = Probe(slow, ttl_s=5, stale_s=10)
    health = Health({"x": probe}, timeout_s=0.05, clock=lambda: now[0])
    assert health().down == []
    now[0] = 6.0
    assert health().down == []
    now[0] = 16.0  # older than anybody should believe
    assert health().down == ["x"]
    release.set()


def test_a_dead_redis_is_down() -> None:
    client = redis.Redis(port=free_port(), socket_connect_timeout=1)
    check = probes.broker(client)
    client.close()
    assert not check.ok
    assert "away" in check.detail


def test_the_disk_is_down_when_it_is_missing_or_nearly_full(tmp_path: Path) -> None:
    assert probes.disk(tmp_path, reserve_bytes=1).ok
    full = probes.disk(tmp_path, reserve_bytes=2**62)
    assert not full.ok
    assert full.values["free_bytes"] > 0
    gone = probes.disk(tmp_path / "gone")
    assert not gone.ok
    assert str(tmp_path) not in gone.detail


@pytest.mark.parametrize(
    ("answers", "ok", "detail"),
    [
        ([], False, "no worker answers"),
        ([{"a": {}}], True, "1 worker answering"),
        ([{"a": {}}, {"b": {}}], True, "2 workers answering"),
    ],
)
def test_workers_that_answer_are_counted(answers: list[object], ok: bool, detail: str) -> None:
    check = probes.workers(lambda timeout_s: answers)
    assert (check.ok, check.detail, check.values["count"]) == (ok, detail, len(answers))


def test_workers_cannot_be_asked_without_a_broker() -> None:
    def away(timeout_s: float) -> list[object]:
        raise kombu.exceptions.OperationalError("refused")

    assert not probes.workers(away).ok


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_the_receiver_is_well_when_its_port_is_open(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert probes.receiver(host, port).ok
    check = probes.receiver(host, port)
    assert not check.ok
    assert str(port) in check.detail


def test_a_recent_value_is_made_again_when_it_is_old_or_was_cheap() -> None:
    now, made = [0.0], []

    def make() -> int:
        now[0] += 0.2  # what it costs
        made.append(1)
        return len(made)

    recent = Recent(make, clock=lambda: now[0])
    assert [recent(), recent()] == [1, 1]
    now[0] += 2
    assert recent() == 1  # twenty times its cost
    now[0] += 3
    assert recent() == 2


def test_the_subscriber_is_well_while_it_says_so(tmp_path: Path):
    listening = tmp_path / "listening"
    assert "never listened" in probes.webps(listening).detail
    stamp = Listening(listening)
    stamp.stamp()
    assert probes.webps(listening) == Check(ok=True, detail="listening to the providers")
    long_ago = time.time() - 90
    os.utime(listening, (long_ago, long_ago))
    stamp.stamp()  # said a moment ago: not again so soon
    check = probes.webps(listening)
    assert not check.ok
    assert check.detail.startswith("not listening for 90 s")
    Listening(tmp_path / "gone" / "listening").stamp()  # no disk keeps it from listening

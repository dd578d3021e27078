"""What goes wrong, and a schedule of it by a seed.

A fault begins, lasts, and is taken back. At most one holds a target at a time, so a schedule means
the same however fast the machine is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.chaos.programs import thaw
from tests.chaos.site import FOLDER, Site

Undo = Callable[[], None]
Begin = Callable[[Site, random.Random], Undo]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Args:
        name: For the report: target.what.
        target: What it holds while it lasts.
        begin: Does it; what it returns takes it back.
        shortest_s, longest_s: How long it lasts.
        weight: How often, relative to the others.
    """

    name: str
    target: str
    begin: Begin
    shortest_s: float
    longest_s: float
    weight: float = 1.0


@dataclass(frozen=True)
class Planned:
    """A fault of a schedule; times in seconds from its beginning."""

    at_s: float
    until_s: float
    fault: Fault
    seed: int


def schedule(
    faults: Sequence[Fault], rng: random.Random, duration_s: float, pause_s: float
) -> list[Planned]:
    """Faults over a time, `pause_s` apart on average; each ends within it."""
    planned: list[Planned] = []
    busy_until: dict[str, float] = {}
    at_s = 0.0
    while (at_s := at_s + rng.uniform(0.3, 1.7) * pause_s) < duration_s:
        free = [f for f in faults if busy_until.get(f.target, 0) < at_s]
        if not free:
            continue
        (fault,) = rng.choices(free, [f.weight for f in free])
        until_s = min(at_s + rng.uniform(fault.shortest_s, fault.longest_s), duration_s)
        busy_until[fault.target] = until_s + 0.5
        planned.append(Planned(at_s, until_s, fault, rng.getrandbits(32)))
    return planned


def all_faults(ledger: str) -> list[Fault]:
    """Every kind there is.

    Args:
        ledger: sqlite or postgresql.
    """
    workers = [f for name in Site.workers for f in _of_a_worker(name)]
    return [
        *workers,
        Fault("control.kill", "control", _kill("control"), 0, 0),
        Fault("control.freeze", "control", _freeze("control"), 1, 15, 0.5),
        Fault("beat.kill", "beat", _kill("beat"), 0, 0),
        Fault("beat.freeze", "beat", _freeze("beat"), 1, 10, 0.5),
        Fault("receiver.kill", "receiver", _kill("receiver"), 0, 0),
        Fault("receiver.kill_scp", "receiver", _kill_child("receiver"), 0, 0),
        Fault("receiver.freeze", "receiver", _freeze("receiver"), 1, 6, 0.5),
        Fault("redis.kill", "redis", _down("redis"), 0.2, 8, 2),
        Fault("redis.flush", "redis", _flush, 0, 0, 2),
        Fault("redis.freeze", "redis", _freeze("redis"), 1, 20, 0.7),
        Fault("redis.swallowed", "redis", _swallow, 0, 0, 0.7),
        Fault("redis.reset", "redis", _reset, 0, 0),
        Fault("disk.full", "disk", _fill_disk, 1, 10, 1.5),
        *_of_a_ledger(ledger),
        *_of_an_api("api", is_signed=True),
        *_of_an_api("api1", is_signed=False),
        *_of_a_dcmtk("storescu"),
        *_of_a_dcmtk("storescu-3"),
        *_of_the_pacs("storescu-2"),
        *_of_the_ris("hl7"),
    ]


def later_faults() -> list[Fault]:
    """Those of what joined the site later.

    They have a schedule of their own: so a seed's other faults stay what they were.
    """
    deliverers = [f for name in Site.deliverers for f in _of_a_worker(name)]
    return [
        *deliverers,
        *_of_the_webhook("webhook"),
        Fault(f"{FOLDER}.away", FOLDER, _take_away_folder, 1, 10, 1.5),
    ]


def weight(faults: Sequence[Fault]) -> float:
    """How often they come together, relative to others."""
    return sum(fault.weight for fault in faults)


def _of_a_worker(name: str) -> list[Fault]:
    return [
        Fault(f"{name}.kill", name, _kill(name), 0, 0, 1.5),
        Fault(f"{name}.kill_child", name, _kill_child(name), 0, 0),
        Fault(f"{name}.kill_first", name, _kill_first(name), 0, 0, 0.5),
        Fault(f"{name}.freeze", name, _freeze(name), 1, 20, 0.7),
        Fault(f"{name}.freeze_child", name, _freeze_child(name), 1, 20, 0.7),
    ]


def _of_an_api(name: str, *, is_signed: bool) -> list[Fault]:
    def fault(what: str, *, longest_s: float = 9, **rule: Any) -> Fault:
        return Fault(f"{name}.{what}", name, _switch(name, **rule), 2, longest_s, 0.5)

    def reset(operation: str, kind: str = "reset") -> Fault:
        return fault(f"{kind}_{operation}", fault=kind, reset_after_bytes=3000, operation=operation)

    resets = [reset("upload"), reset("upload", "reset_after"), reset("results")]
    if is_signed:
        resets += [reset("put"), reset("put", "reset_after"), reset("download")]
        resets.append(fault("expired", expired=True))
    else:
        resets.append(fault("truncated", e3_shape="truncated"))
    return [
        *resets,
        fault("429", fault=429, retry_after="1"),
        fault("500", fault=500),
        fault("503_early", fault=503, fault_early=True),
        fault("slow_body", slow_chunk_s=0.3, chunk_bytes=1024),
        fault("too_slow_body", slow_chunk_s=7, chunk_bytes=1024),
        fault("too_slow", delay_s=7),
        fault("duplicate", duplicate=True),
        fault("running", running_times=5, e3_running_times=2),
        fault("unknown_study", not_found_times=3),
        Fault(f"{name}.freeze", name, _freeze(name), 1, 8, 0.5),
    ]


def _of_a_dcmtk(name: str) -> list[Fault]:
    return [
        Fault(f"{name}.kill", name, _down(name), 0.5, 8),
        Fault(f"{name}.freeze", name, _freeze(name), 1, 10, 0.5),
    ]


def _of_the_pacs(name: str) -> list[Fault]:
    rules: dict[str, dict[str, Any]] = {
        "a700": {"status": "0xA700"},
        "b000": {"status": "0xB000"},
        "abort": {"abort_after": 1},
        "drop": {"drop_after": 0},
        "silent_store": {"silent": "store"},
        "silent_associate": {"silent": "associate"},
        "reject": {"reject": "congestion"},
        "slow": {"delay_s": 2},
        "too_slow": {"delay_s": 7},
    }
    return [
        *(Fault(f"{name}.{k}", name, _switch(name, **r), 2, 8, 0.4) for k, r in rules.items()),
        Fault(f"{name}.kill", name, _down(name), 0.5, 8, 0.5),
    ]


def _of_the_ris(name: str) -> list[Fault]:
    answers = ("none", "garbage", "wrong_id", "half", "close", "reset", "AE", "two_frames")
    return [
        *(Fault(f"{name}.{a}", name, _switch(name, answer=a), 2, 8, 0.3) for a in answers),
        Fault(f"{name}.too_slow", name, _switch(name, delay_s=6), 2, 8, 0.3),
        Fault(f"{name}.kill", name, _down(name), 0.5, 8, 0.5),
    ]


def _of_the_webhook(name: str) -> list[Fault]:
    rules: dict[str, dict[str, Any]] = {
        "429": {"status": 429}, "500": {"status": 500}, "reset": {"reset": True},
        "too_slow": {"delay_s": 6},
    }  # fmt: skip
    return [
        *(Fault(f"{name}.{k}", name, _switch(name, **r), 2, 8, 0.4) for k, r in rules.items()),
        Fault(f"{name}.kill", name, _down(name), 0.5, 8, 0.5),
    ]


def _of_a_ledger(ledger: str) -> list[Fault]:
    if ledger == "sqlite":
        return [Fault("ledger.locked", "ledger", _lock_sqlite, 1, 40, 1.5)]
    return [
        Fault("ledger.locked", "ledger", _lock_postgresql, 1, 40, 1.5),
        Fault("ledger.cut", "ledger", _cut_postgresql, 0, 0, 1.5),
    ]


# --- programs


def _nothing() -> None:
    pass


def _kill(name: str) -> Begin:
    def begin(site: Site, _: random.Random) -> Undo:
        site.programs[name].kill()
        return _nothing

    return begin


def _kill_first(name: str) -> Begin:
    def begin(site: Site, _: random.Random) -> Undo:
        site.programs[name].kill_first()
        return _nothing

    return begin


def _kill_child(name: str) -> Begin:
    def begin(site: Site, rng: random.Random) -> Undo:
        if children := site.programs[name].children():
            rng.choice(children).kill()
        return _nothing

    return begin


def _down(name: str) -> Begin:
    def begin(site: Site, _: random.Random) -> Undo:
        site.programs[name].hold_down()
        return site.programs[name].start

    return begin


def _freeze(name: str) -> Begin:
    def begin(site: Site, _: random.Random) -> Undo:
        frozen = site.programs[name].freeze()
        return lambda: thaw(frozen)

    return begin


def _freeze_child(name: str) -> Begin:
    def begin(site: Site, rng: random.Random) -> Undo:
        children = site.programs[name].children()
        chosen = [rng.choice(children)] if children else []
        for child in chosen:
            child.suspend()
        return lambda: thaw(chosen)

    return begin


# --- the broker


def _flush(site: Site, _: random.Random) -> Undo:
    # Down or frozen just now: then it is not emptied.
    with contextlib.suppress(redis.RedisError), site.redis() as client:
        client.flushall()
    return _nothing


def _swallow(site: Site, _: random.Random) -> Undo:
    site.proxy.swallow()
    return _nothing


def _reset(site: Site, _: random.Random) -> Undo:
    site.proxy.reset()
    return _nothing


# --- disk and ledger


def _fill_disk(site: Site, _: random.Random) -> Undo:
    if not os.path.ismount(site.data_dir):  # never somebody else's disk
        return _nothing
    ballast = site.data_dir / "ballast"
    chunk = bytes(1 << 20)
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(chunk)
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(chunk[:512]):
            pass
    return lambda: ballast.unlink(missing_ok=True)


def _take_away_folder(site: Site, _: random.Random) -> Undo:
    """As a share that is not mounted."""
    folder = site.folders[FOLDER]
    away = folder.rename(folder.with_suffix(".away"))

    def undo() -> None:
        away.rename(folder)

    return undo


def _lock_sqlite(site: Site, _: random.Random) -> Undo:
    connection = sqlite3.connect(
        site.data_dir / "ledger.sqlite3", timeout=10, isolation_level=None, check_same_thread=False
    )
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("BEGIN EXCLUSIVE")
    return connection.close


def _lock_postgresql(site: Site, _: random.Random) -> Undo:
    engine = create_engine(site.ledger_url)
    connection = engine.connect()
    with contextlib.suppress(OperationalError):
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(text("LOCK TABLE run, delivery IN ACCESS EXCLUSIVE MODE"))

    def undo() -> None:
        connection.rollback()
        connection.close()
        engine.dispose()

    return undo


def _cut_postgresql(site: Site, _: random.Random) -> Undo:
    engine = create_engine(site.ledger_url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    engine.dispose()
    return _nothing


# --- switches of simulators

_keys = itertools.count(1)


def _switch(name: str, **rule: Any) -> Begin:
    def begin(site: Site, _: random.Random) -> Undo:
        key = next(_keys)
        site.boards[name].begin(key, **rule)
        return lambda: site.boards[name].end(key)

    return begin

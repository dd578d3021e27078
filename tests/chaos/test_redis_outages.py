"""Celery on Redis when Redis goes: killed, emptied, away for long, or silent. Real processes.

What is measured is printed (`-s`, or in a failing test's output); asserted are the invariants and
generous bounds.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import create_engine, select

from pacsor_tasks.ledger import schema as t
from pacsor_tasks.models import RunState
from tests.chaos import checks, facts
from tests.chaos.harness import say
from tests.chaos.senders import Senders, Study
from tests.chaos.site import Site, site
from tests.support.net import wait_until

RESTARTS = int(os.environ.get("CHAOS_REDIS_RESTARTS", "25"))
#: `CHAOS_REDIS_GONE_S=600` is the ten minutes of a long coffee break.
GONE_S = float(os.environ.get("CHAOS_REDIS_GONE_S", "30"))
#: What was received meanwhile is worked off on a machine that has other things to do.
BACKLOG_S = GONE_S

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(420 + GONE_S + 2 * BACKLOG_S),
    pytest.mark.xdist_group("gateway"),
]

#: What the steps say when they did their work.
DID = re.compile(rb'"event": "(upload|results|store|delivery|hl7)\.')


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests of this file: each leaves it with everything at its end."""
    with site(tmp_path_factory.mktemp("redis") / "site") as found:
        yield found


@pytest.fixture(scope="module")
def senders(running: Site) -> Senders:
    """Not sending by itself yet."""
    return Senders(running, random.Random(1), per_minute=60)


def runs_of(running: Site, study: Study) -> list[str]:
    """The states of a study's runs."""
    engine = create_engine(running.ledger_url)
    with engine.connect() as c:
        states = c.execute(select(t.run.c.state).where(t.run.c.study_uid == study.uid))
        found = list(states.scalars())
    engine.dispose()
    return found


def is_done(running: Site, study: Study) -> bool:
    states = runs_of(running, study)
    return bool(states) and all(state == RunState.DONE for state in states)


def is_accounted_for(running: Site, senders: Senders) -> None:
    """Wait for the end of everything, and compare."""

    def is_over() -> bool:
        known = facts.Facts()
        facts.read_ledger(running, known)
        facts.read_spool(running, known)
        in_ledger = {uid for _, uid in known.outcomes}
        return not checks.unfinished(known) and in_ledger >= senders.acknowledged.keys()

    wait_until(is_over, 150 + BACKLOG_S, 1)
    known = facts.gather(running, senders.studies)
    assert checks.judge(known, senders.studies).violations == []


def works_again(running: Site, worker: str) -> Callable[[], bool]:
    """A condition: this worker has said of a task that it did it, after now."""
    log = running.programs[worker].log
    seen = log.stat().st_size

    def has_worked() -> bool:
        with log.open("rb") as file:
            file.seek(seen)
            return any(DID.search(line) for line in file)

    return has_worked


def all_work_again(running: Site) -> list[float]:
    """Wait until each worker has done a task from now on; seconds, per worker."""
    began, needed = time.monotonic(), []
    names = (*running.workers, *running.deliverers)
    for condition in [works_again(running, name) for name in names]:
        wait_until(condition, 60, 0.05)
        needed.append(time.monotonic() - began)
    return needed


def took(condition: Callable[[], object], bound_s: float) -> float:
    """Seconds until it was true."""
    began = time.monotonic()
    wait_until(condition, bound_s, 0.1)
    return time.monotonic() - began


def test_workers_resume_by_themselves_however_often_redis_is_killed(
    running: Site, senders: Senders
):
    rng = random.Random(25)
    redis = running.programs["redis"]
    resumed: list[float] = []
    with senders:
        for _ in range(RESTARTS):
            time.sleep(rng.uniform(0.3, 1.5))
            redis.hold_down()
            time.sleep(rng.uniform(0.1, 1.0))
            redis.start()
            redis.wait_ready()
            resumed += all_work_again(running)
    names = (*running.workers, *running.deliverers, "control")
    crashes = {name: running.programs[name].own_ends for name in names}
    say(
        f"{RESTARTS} kills of Redis under load: a worker's next task after its return came in "
        f"{sorted(resumed)[len(resumed) // 2]:.1f} s (median), {max(resumed):.1f} s (longest); "
        f"workers that ended by themselves: {crashes}"
    )
    is_accounted_for(running, senders)


def test_what_stood_in_an_emptied_redis_is_enqueued_again(running: Site, senders: Senders):
    workers = [running.programs[name] for name in running.workers]
    for worker in workers:
        worker.hold_down()
    studies = [senders.send_one(n=2) for _ in range(10)]
    with running.redis() as client:
        wait_until(lambda: client.llen("ingest") >= len(studies), 30)
        client.flushall()
    for worker in workers:
        worker.start()
    needed_s = took(lambda: all(is_done(running, study) for study in studies), 120)
    say(f"10 studies through {needed_s:.1f} s after FLUSHALL and the workers' start")
    is_accounted_for(running, senders)


def test_receiving_goes_on_without_redis_and_the_outbox_drains_when_it_returns(
    running: Site, senders: Senders
):
    refused_before = senders.n_refused + senders.n_broken
    running.programs["redis"].hold_down()
    gone_at, studies = time.monotonic(), []
    while time.monotonic() - gone_at < GONE_S:
        studies.append(senders.send_one(n=2))
        time.sleep(1)
    assert all(study.acknowledged.keys() == study.files.keys() for study in studies)
    assert senders.n_refused + senders.n_broken == refused_before
    wait_until(lambda: len(running.spool.outbox()) == len(studies), 30)
    running.programs["redis"].start()
    first_s = took(lambda: any(runs_of(running, study) for study in studies), 90)
    rest_s = took(lambda: not running.spool.outbox(), 120 + BACKLOG_S)
    say(
        f"Redis gone for {GONE_S:.0f} s, {len(studies)} studies received meanwhile: the first was "
        f"in the ledger {first_s:.1f} s after its return, the outbox empty {rest_s:.1f} s later"
    )
    needed_s = took(lambda: all(is_done(running, study) for study in studies), 150 + BACKLOG_S)
    say(f"all of them delivered {needed_s:.1f} s after that")
    is_accounted_for(running, senders)


def test_a_connection_that_swallows_packets_is_noticed(running: Site, senders: Senders):
    n_connections = running.proxy.swallow()
    assert n_connections > 5
    study = senders.send_one(n=1)
    needed_s = took(lambda: is_done(running, study), 75)
    with senders:
        resumed = all_work_again(running)
    say(
        f"{n_connections} connections to Redis fell silent: a study sent just then was through "
        f"after {needed_s:.1f} s; then each worker worked within {max(resumed):.1f} s"
    )
    is_accounted_for(running, senders)


@pytest.mark.parametrize("victim", ["worker", "control", "beat"])
def test_work_moves_again_soon_after_any_single_crash(running: Site, senders: Senders, victim: str):
    """A worker is killed while it uploads, the others while a study is on its way."""
    slow = {"api": "put", "api1": "upload"}
    for core, operation in slow.items():
        running.boards[core].begin(0, operation=operation, delay_s=2)
    study = senders.send_one(n=1)
    holder = wait_until(lambda: _holder(running, study), 30)
    name = next(n for n in running.workers if holder in _pids(running, n))
    program = running.programs[name if victim == "worker" else victim]
    program.kill()
    for core in slow:
        running.boards[core].end(0)
    moved_s = took(lambda: is_done(running, study) or _holder(running, study) != holder, 60)
    through_s = moved_s + took(lambda: is_done(running, study), 60)
    say(
        f"{program.name} killed: the study moved after {moved_s:.1f} s, was through after "
        f"{through_s:.1f} s"
    )
    is_accounted_for(running, senders)


def _pids(running: Site, name: str) -> set[int]:
    return {process.pid for process in running.programs[name].processes()}


def _holder(running: Site, study: Study) -> int | None:
    """The process that holds the lease of the study's run at the first core."""
    engine = create_engine(running.ledger_url)
    with engine.connect() as c:
        held = select(t.run.c.owner).where(t.run.c.study_uid == study.uid, t.run.c.core == "core")
        owner = c.execute(held).scalar()
    engine.dispose()
    return None if owner is None else int(str(owner).split(":")[1])

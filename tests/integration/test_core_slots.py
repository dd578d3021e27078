"""A slow core takes its slots, not everybody's: claims, sweeps and what follows a free slot."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import guard, pipeline, polling, reconcile
from pacsor_tasks.core_api import StudyStatus
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.models import PeerKind, PeerName, Run, Step
from pacsor_tasks.outcomes import Advance, RetryPolicy
from pacsor_tasks.ports import Ports
from tests.conftest import Clock
from tests.support.bench import Bench, FakeApi
from tests.support.ledgers import bring_to, existing, new_revision

SLOW, OTHER = PeerName(PeerKind.CORE, "core1"), PeerName(PeerKind.CORE, "core")
UID = "1.2.826.0.1.3680043.8.498.7"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is put into the queues: (verb, what)."""
    sent: list[tuple[object, ...]] = []
    for verb in ("launch", "launch_delivery", "launch_polls", "enqueue_ingest"):
        monkeypatch.setattr(pipeline, verb, lambda *args, _verb=verb: sent.append((_verb, *args)))
    return sent


def two_cores(root: Path, ledger: Ledger, slots: int = 2) -> Ports:
    """`core` without a bound, `core1` with one."""
    ports = Bench(root, ledger).ports
    core = ports.cores["core"]
    cores: dict[str, Any] = {"core": core, "core1": replace(core, name="core1", slots=slots)}
    return replace(ports, cores=cores)


def runs(ledger: Ledger, n: int, *, core: str = "core1", step: Step = Step.UPLOAD) -> list[Run]:
    """So many runs of a core, at a step, that no message is under way for."""
    found = []
    for i in range(n):
        number = f"{core.removeprefix('core') or 0}{step.position}{i}"
        new = new_revision(f"t{number}", 1, f"{UID}{number}")
        (run_id,) = ledger.intake.add_revision(new, [Target(core=core, destinations=[])])
        found.append(bring_to(ledger, existing(ledger, run_id), step))
    return found


def lost(ledger: Ledger, clock: Clock) -> None:
    """Every message under way is lost."""
    clock.tick(11)


def step(ports: Ports, run: Run, at: Step, do: Any = lambda _: Advance()) -> bool:
    return guard.run_step(ports.ledger, RetryPolicy(), run.id, at, do, slots_of=ports.slots_of_core)


def launched(published: list[tuple[object, ...]]) -> list[object]:
    return [run_id for verb, run_id, *_ in published if verb == "launch"]


def test_a_core_gets_no_more_steps_at_once_than_its_slots(
    ledger: Ledger, tmp_path: Path, clock: Clock
):
    ports = two_cores(tmp_path, ledger)
    first, second, third = runs(ledger, 3)
    (other,) = runs(ledger, 1, core="core")
    tried: list[bool] = []

    def outer(_: Run) -> Advance:
        step(ports, second, Step.UPLOAD, inner)
        return Advance()

    def inner(_: Run) -> Advance:
        tried.append(step(ports, third, Step.UPLOAD))
        tried.append(step(ports, other, Step.UPLOAD))
        return Advance()

    assert step(ports, first, Step.UPLOAD, outer)
    assert tried == [False, True]
    turned_away = existing(ledger, third.id)
    assert (turned_away.step, turned_away.attempts) == (Step.UPLOAD, 0)
    assert turned_away.waiting_for == "its turn: 2 at once for core core1"
    assert step(ports, third, Step.UPLOAD)


def test_steps_that_do_not_talk_to_the_core_need_no_slot(ledger: Ledger, tmp_path: Path):
    ports = two_cores(tmp_path, ledger, slots=1)
    (busy,) = runs(ledger, 1)
    (filtering,) = runs(ledger, 1, step=Step.FILTER)
    done: list[bool] = []

    def while_busy(_: Run) -> Advance:
        done.append(step(ports, filtering, Step.FILTER))
        return Advance()

    step(ports, busy, Step.UPLOAD, while_busy)
    assert done == [True]


def test_many_workers_at_once_do_not_exceed_the_slots(ledger: Ledger, tmp_path: Path):
    ports = two_cores(tmp_path, ledger)
    todo, lock = runs(ledger, 8), threading.Lock()
    at_once, most = 0, 0
    all_tried = threading.Barrier(8)

    def note(_: Run) -> Advance:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        all_started.wait(5)
        with lock:
            at_once -= 1
        return Advance()

    all_started = threading.Event()

    def work(run: Run) -> None:
        all_tried.wait(10)
        step(ports, run, Step.UPLOAD, note)

    threads = [threading.Thread(target=work, args=(run,)) for run in todo]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 2:
        threads[0].join(0.01)
        if not any(thread.is_alive() for thread in threads):
            break
    all_started.set()
    for thread in threads:
        thread.join(20)
    assert 1 <= most <= 2


def test_the_sweep_launches_what_finds_a_slot_and_hides_no_other_core_s_work(
    ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(reconcile, "LIMIT", 4)  # the backlog is longer than a sweep looks
    ports = two_cores(tmp_path, ledger)
    backlog = runs(ledger, 6)
    clock.tick(1)
    others = runs(ledger, 3, core="core")
    lost(ledger, clock)
    reconcile.reconcile(ports)
    assert launched(published) == [*(r.id for r in others), *(r.id for r in backlog[:2])]


def test_the_sweep_launches_no_step_of_a_core_whose_slots_are_taken(
    ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
):
    ports = two_cores(tmp_path, ledger, slots=1)
    busy, _ = runs(ledger, 2)
    (polling_run,) = runs(ledger, 1, step=Step.POLL)
    (over,) = runs(ledger, 1, step=Step.CLEANUP)
    lost(ledger, clock)
    assert ledger.runs.claim(busy.id, Step.UPLOAD, "w", 99)
    reconcile.reconcile(ports)
    assert published == [("launch", over.id, Step.CLEANUP, [])]
    published.clear()
    clock.tick(99)
    reconcile.reconcile(ports)
    assert ("launch_polls", [polling_run.id]) in published
    assert len(launched(published)) == 2


def test_a_free_slot_goes_to_what_is_nearest_its_end_first(
    ledger: Ledger, tmp_path: Path, published: list[tuple[object, ...]]
):
    ports = two_cores(tmp_path, ledger, slots=1)
    first, waiting = runs(ledger, 2)
    (near_its_end,) = runs(ledger, 1, step=Step.DOWNLOAD)

    def while_busy(_: Run) -> Advance:
        step(ports, waiting, Step.UPLOAD)
        step(ports, near_its_end, Step.DOWNLOAD)
        reconcile.launch_after(waiting.id, ports)
        assert published == []  # no slot is free
        return Advance()

    step(ports, first, Step.UPLOAD, while_busy)
    reconcile.launch_after(first.id, ports)
    reconcile.launch_after(first.id, ports)
    assert launched(published) == [near_its_end.id, waiting.id]


def test_what_was_turned_away_is_not_launched_by_its_own_end(
    ledger: Ledger, tmp_path: Path, published: list[tuple[object, ...]]
):
    ports = two_cores(tmp_path, ledger, slots=1)
    first, waiting = runs(ledger, 2)
    step(ports, first, Step.UPLOAD, lambda _: step(ports, waiting, Step.UPLOAD) or Advance())
    reconcile.launch_after(waiting.id, ports)
    assert published == []


def test_a_core_without_a_bound_costs_no_look_for_what_is_next(
    ledger: Ledger, tmp_path: Path, published: list[tuple[object, ...]]
):
    ports = Bench(tmp_path, ledger).ports
    (run,) = runs(ledger, 1, core="core")
    reconcile.launch_after(run.id, ports)
    assert published == []


class SilentApi(FakeApi):
    """Keeps everybody waiting for nothing."""

    def status(self, study_uid: str) -> StudyStatus:
        raise PeerUnavailable("API: silent")


def test_each_core_s_predictions_are_asked_for_in_a_task_of_its_own(
    ledger: Ledger, tmp_path: Path, clock: Clock, published: list[tuple[object, ...]]
):
    ports = two_cores(tmp_path, ledger)
    slow = runs(ledger, 2, step=Step.POLL)
    others = runs(ledger, 2, core="core", step=Step.POLL)
    lost(ledger, clock)
    reconcile.reconcile(ports)
    polls = [asked for verb, asked in published if verb == "launch_polls"]
    assert polls == [[r.id for r in others], [r.id for r in slow]]

    client: Any = SilentApi()
    silent = replace(ports.cores["core1"], client=client)
    ports = replace(ports, cores={**ports.cores, "core1": silent})
    assert polling.poll_all([r.id for r in slow], ports) == {"core1"}
    assert polling.poll_all([r.id for r in others], ports) == {"core"}
    assert {existing(ledger, r.id).step for r in others} == {Step.DOWNLOAD}
    assert {existing(ledger, r.id).waiting_for for r in slow} == {"API: silent"}

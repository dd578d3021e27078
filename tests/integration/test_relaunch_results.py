"""Results that are on disk already: which a relaunch takes over, also when two ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from pacsor_tasks import relaunching
from pacsor_tasks.errors import Conflict
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import InstanceOutcome, Run, RunState, Step
from pacsor_tasks.steps.download import download
from tests.conftest import Clock
from tests.integration.test_relaunches import Site
from tests.support.ledgers import existing


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger, clock: Clock) -> Site:
    return Site(tmp_path, ledger, clock)


def quarantined(site: Site) -> Run:
    """A run that failed by one delivery: its results are kept."""
    first = existing(site.ledger, site.over("t1", quarantined=True).id)
    assert first.state is RunState.FAILED
    return first


def delivered_to(site: Site, run: Run, name: str) -> None:
    """A run for one destination, through and cleaned up."""
    site.end(site.at_deliver(run), name)
    assert existing(site.ledger, run.id).state is RunState.DONE
    assert not (site.ports.spool.root / "results" / run.id).exists()


def begins_with_results(site: Site, run: Run, name: str) -> bool:
    """It is at delivering, and has every file."""
    delivery = site.ledger.deliveries.claim(f"{site.at_deliver(run).id}:{name}", "w", 10)
    assert delivery is not None
    unsent = site.ledger.deliveries.unsent(delivery)
    return len(unsent) == 2 and all(site.ports.file(r.path).is_file() for r in unsent)


def test_results_outlive_a_relaunch_that_took_them_over_and_cleaned_up(site: Site):
    first = quarantined(site)
    delivered_to(site, site.relaunched(first.study_uid, only="storescu"), "storescu")
    assert relaunching.starts(first.study_uid, site.ports)["core"][Step.DELIVER] is None
    again = site.relaunched(first.study_uid, only="storescu")
    assert again.step is Step.FAN_OUT
    delivered_to(site, again, "storescu")
    whole = site.relaunched(first.study_uid, from_step=Step.DELIVER)
    assert begins_with_results(site, whole, "storescu-2")


def test_results_of_a_run_that_delivers_still_are_taken_over_again(site: Site):
    first = site.delivering()
    site.end(first, "storescu")
    delivered_to(site, site.relaunched(first.study_uid, only="storescu"), "storescu")
    again = site.relaunched(first.study_uid, only="storescu")
    assert begins_with_results(site, again, "storescu")
    assert existing(site.ledger, first.id).state is RunState.DELIVERING


def test_results_of_an_older_download_that_brought_less_are_not_taken_for_the_newest(site: Site):
    first = quarantined(site)
    site.api.results_by_command["smartxpert"] = [site.results(first.study_uid, 1)]
    core = replace(site.ports.cores["core"], commands=("smarturgences", "smartxpert"))
    site.ports = replace(site.ports, cores={"core": core})
    second = site.relaunched(first.study_uid, only="storescu", from_step=Step.DOWNLOAD)
    delivered_to(site, site.do(second, download), "storescu")
    assert site.relaunched(first.study_uid, only="storescu").step is Step.DOWNLOAD


def test_results_of_an_older_upload_are_not_taken_over(site: Site):
    first = quarantined(site)
    afresh = site.relaunched(first.study_uid, only="storescu", from_step=Step.FILTER)
    pending = site.ledger.runs.instances(afresh.id, [InstanceOutcome.PENDING])
    site.ledger.runs.record_uploaded(afresh, pending)
    assert site.ledger.runs.cancel(afresh.id, "by a test")
    assert site.relaunched(first.study_uid, only="storescu").step is not Step.FAN_OUT


# --- two at once


@contextmanager
def beside(ledger: Ledger, at: str, action: Callable[[], object]) -> Iterator[None]:
    """Do `action` in another thread, whole, just before our first statement that holds `at`."""
    us = threading.current_thread()
    did: list[str] = []

    def hook(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is us and at in statement and not did:
            did.append(at)
            with ThreadPoolExecutor(1) as executor:
                executor.submit(action).result(60)

    event.listen(ledger.engine, "before_cursor_execute", hook)
    try:
        yield
    finally:
        event.remove(ledger.engine, "before_cursor_execute", hook)
    assert did


#: Of what is read before the transaction: who has the results, then where they are.
MOMENTS = ["FROM run ", "FROM result"]
WISHES = [{"from_step": Step.DELIVER}, {"only": "storescu"}]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("wish", WISHES)
def test_two_relaunches_at_once_are_one_and_neither_is_refused(
    site: Site, wish: dict[str, Any], moment: str
):
    first = quarantined(site)
    other: list[str] = []
    with beside(site.ledger, moment, lambda: other.extend(site.relaunch(first.study_uid, **wish))):
        ours = site.relaunch(first.study_uid, **wish)
    assert ours == other
    run = existing(site.ledger, ours[0])
    assert run.state is RunState.QUEUED
    assert begins_with_results(site, run, "storescu")
    held = {path.name for path in (site.ports.spool.root / "results").iterdir()}
    assert held == {first.id, run.id}  # what was linked twice is gone


@pytest.mark.parametrize("wish", WISHES)
def test_results_that_went_to_another_relaunch_meanwhile_are_found_there(
    site: Site, wish: dict[str, Any]
):
    first = quarantined(site)
    other: list[str] = []

    def take_over() -> None:
        other.extend(site.relaunch(first.study_uid, **wish))
        site.ports.spool.remove_results(first.id)

    with beside(site.ledger, "FROM result", take_over):
        assert site.relaunch(first.study_uid, **wish) == other
    assert begins_with_results(site, existing(site.ledger, other[0]), "storescu")


def test_results_that_went_meanwhile_are_said_to_be_gone(site: Site):
    first = quarantined(site)
    with (
        beside(site.ledger, "FROM result", lambda: site.ports.spool.remove_results(first.id)),
        pytest.raises(Conflict, match="no longer held; from download would do"),
    ):
        site.relaunch(first.study_uid, from_step=Step.DELIVER)


def test_many_that_relaunch_at_once_end_in_one_run_with_the_results(site: Site):
    first = quarantined(site)
    go = threading.Barrier(6)

    def ask() -> list[str]:
        go.wait(60)
        return site.relaunch(first.study_uid, from_step=Step.DELIVER)

    with ThreadPoolExecutor(6) as executor:
        asked = [executor.submit(ask) for _ in range(6)]
    assert len({tuple(future.result()) for future in asked}) == 1
    (run_id,) = asked[0].result()
    assert begins_with_results(site, existing(site.ledger, run_id), "storescu")

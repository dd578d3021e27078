"""Results that are on disk already: which a relaunch takes over, also when two ask at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import relaunching
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

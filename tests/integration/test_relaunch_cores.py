"""Relaunches of studies that go to two cores, of which one is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import relaunching
from pacsor_tasks.ledger import Choice, Ledger, Relaunch
from pacsor_tasks.models import DeliveryState, Run, RunState, Step
from pacsor_tasks.relaunching import Fared
from pacsor_tasks.steps.download import download
from pacsor_tasks.steps.filter import filter_instances
from pacsor_tasks.steps.ingest import ingest
from pacsor_tasks.steps.poll import poll
from pacsor_tasks.steps.upload import upload
from tests.conftest import Clock
from tests.integration.test_relaunches import Site
from tests.support.ledgers import existing

BOTH = ["core", "core1"]


class Pair(Site):
    """A site with two cores, each to all destinations."""

    def __init__(self, root: Path, ledger: Ledger, clock: Clock) -> None:
        super().__init__(root, ledger, clock)
        (target,) = self.ports.targets
        core = self.ports.cores["core"]
        self.ports = replace(
            self.ports,
            cores={name: replace(core, name=name) for name in BOTH},
            targets=[replace(target, core=name) for name in BOTH],
        )

    def received_on_both(self, token: str = "t1") -> list[Run]:
        """A run on each core."""
        study_uid, _ = self.study(3, token)
        run_ids = ingest(study_uid, self.ports.spool.instance_paths(study_uid, token), self.ports)
        return [existing(self.ledger, run_id) for run_id in run_ids]

    def through(self, run: Run) -> Run:
        """The run, done and delivered everywhere."""
        self.api.results_by_command["smarturgences"] = [self.results(run.study_uid, 2)]
        for step in (filter_instances, upload, poll, download):
            run = self.do(run, step)
        run = self.at_deliver(run)
        for name in ("storescu", "storescu-2", "hl7"):
            self.end(run, name)
        done = existing(self.ledger, run.id)
        assert done.state is RunState.DONE
        return done

    def refused(self, run: Run) -> Run:
        """The run, failed at the upload."""
        run = self.do(run, filter_instances)
        claimed = self.ledger.runs.claim(run.id, Step.UPLOAD, "w", 10)
        assert claimed is not None
        self.ledger.runs.finish(claimed, RunState.FAILED, "upload: the API refused the token")
        return existing(self.ledger, run.id)

    def cores_of(self, run_ids: list[str]) -> list[str]:
        return [existing(self.ledger, run_id).core for run_id in run_ids]

    def many(self, choice: Choice, core: str | None = None, **wish: object) -> Fared:
        """What became of the one study chosen."""
        self.clock.tick(1)
        chosen = relaunching.choose(choice, 9, self.ports)
        given = Relaunch(**{"by": "ada", **wish})  # type: ignore[arg-type]
        (planned,) = relaunching.plan_many(chosen, self.ports, given, core)
        (fared,) = relaunching.relaunch_many(chosen, self.ports, given, core, self.publish)
        assert [p.core for p in planned.planned] == [p.core for p in fared.planned]
        return fared


@pytest.fixture
def pair(tmp_path: Path, ledger: Ledger, clock: Clock) -> Pair:
    return Pair(tmp_path, ledger, clock)


# --- chosen by how they fared


@pytest.mark.parametrize(
    "choice",
    [
        Choice(state=RunState.FAILED),
        Choice(state=DeliveryState.SKIPPED, destination="storescu"),
        Choice(state=DeliveryState.SKIPPED),
    ],
)
def test_only_the_core_on_which_it_fared_so_is_relaunched(pair: Pair, choice: Choice):
    well, ill = pair.received_on_both()
    pair.through(well)
    pair.refused(ill)
    fared = pair.many(choice)
    assert pair.cores_of(list(fared.run_ids)) == ["core1"]
    assert pair.launched == list(fared.run_ids)


def test_what_is_chosen_by_when_it_came_or_by_name_is_relaunched_on_every_core(pair: Pair):
    well, ill = pair.received_on_both()
    pair.through(well)
    pair.refused(ill)
    assert pair.cores_of(list(pair.many(Choice(since=1.0)).run_ids)) == BOTH
    named = Choice(study_uids=(well.study_uid,), state=RunState.QUEUED)
    assert pair.cores_of(list(pair.many(named).run_ids)) == BOTH


def test_the_core_that_is_named_is_the_one(pair: Pair):
    well, ill = pair.received_on_both()
    pair.through(well)
    pair.refused(ill)
    fared = pair.many(Choice(study_uids=(well.study_uid,)), "core")
    assert pair.cores_of(list(fared.run_ids)) == ["core"]


def test_a_core_that_is_configured_no_more_is_told(pair: Pair):
    well, ill = pair.received_on_both()
    pair.through(well)
    pair.refused(ill)
    pair.ports = replace(pair.ports, targets=pair.ports.targets[:1])
    fared = pair.many(Choice(state=RunState.FAILED))
    assert fared.refused == "'core1' is no configured core: there is core"
    assert pair.launched == []

"""Relaunches of studies that go to two cores, of which one is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import relaunching
from pacsor_tasks.errors import Conflict, NotFound
from pacsor_tasks.ledger import Choice, Ledger, Relaunch
from pacsor_tasks.ledger.relaunches import Made
from pacsor_tasks.models import DeliveryState, DestinationKind, Run, RunState, Step
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
        self.at_end(self.downloaded(run))
        done = existing(self.ledger, run.id)
        assert done.state is RunState.DONE
        return done

    def downloaded(self, run: Run) -> Run:
        self.api.results_by_command["smarturgences"] = [self.results(run.study_uid, 2)]
        for step in (filter_instances, upload, poll, download):
            run = self.do(run, step)
        return run

    def delivered_nowhere(self, run: Run) -> Run:
        """The run, with its results handed to the destinations."""
        return self.at_deliver(self.downloaded(run))

    def at_end(self, run: Run) -> None:
        """Delivered everywhere, after the download."""
        self.at_deliver(run)
        for name in ("storescu", "storescu-2", "hl7"):
            self.end(run, name)

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


# --- one core can, the other cannot


def asked(pair: Pair, run: Run, **wish: object) -> Made:
    pair.clock.tick(1)
    given = Relaunch(**{"by": "ada", **wish})  # type: ignore[arg-type]
    return relaunching.relaunch(run.study_uid, pair.ports, given, publish=pair.publish)


def test_for_one_destination_the_core_that_can_is_relaunched_and_the_other_told(pair: Pair):
    well, waiting = pair.received_on_both()
    pair.through(well)
    made = asked(pair, well, only="storescu")
    assert pair.cores_of(made.run_ids) == ["core"]
    assert list(made.refused_on) == ["core1"]
    assert "gets the results of the run on core1 that is under way" in made.refused_on["core1"]
    assert existing(pair.ledger, waiting.id).state is RunState.QUEUED
    assert pair.deliveries(waiting)["storescu"] is DeliveryState.PENDING


def test_from_a_step_the_core_that_can_is_relaunched_and_the_other_told(pair: Pair):
    well, waiting = pair.received_on_both()
    pair.through(well)
    made = asked(pair, well, from_step=Step.POLL)
    assert pair.cores_of(made.run_ids) == ["core"]
    assert "cannot begin at poll" in made.refused_on["core1"]
    assert existing(pair.ledger, waiting.id).state is RunState.QUEUED


def test_what_was_begun_on_a_core_that_refuses_is_undone(pair: Pair):
    well, delivering = pair.received_on_both()
    pair.through(well)
    pair.delivered_nowhere(delivering)
    verbs = pair.ledger.verbs
    verbs.skip_delivery(f"{delivering.id}:storescu", "ada", "not wanted")
    (_, partial) = asked(pair, well, only="storescu").run_ids
    pair.at_deliver(existing(pair.ledger, partial))  # it has begun
    # By now the other run delivers there as well, and the partial one would be replaced.
    verbs.reroute_delivery(
        f"{delivering.id}:storescu-2", ("storescu", DestinationKind.STORESCU), "ada"
    )
    made = asked(pair, well, only="storescu", from_step=Step.DOWNLOAD)
    assert pair.cores_of(made.run_ids) == ["core"]
    assert list(made.refused_on) == ["core1"]
    assert existing(pair.ledger, partial).state is RunState.DELIVERING
    assert pair.deliveries(existing(pair.ledger, partial)) == {"storescu": DeliveryState.PENDING}


def test_it_is_refused_when_no_core_can_with_the_reason_of_each(pair: Pair):
    (one, two) = pair.received_on_both()
    with pytest.raises(Conflict, match=r"on core that is under .*; .* on core1 that is"):
        asked(pair, one, only="storescu")
    with pytest.raises(Conflict, match=r"^storescu gets .* on core1 that is under way"):
        relaunching.relaunch(two.study_uid, pair.ports, Relaunch(only="storescu"), "core1")
    assert pair.launched == []


def test_many_are_told_on_which_cores_they_are_not_relaunched(pair: Pair):
    well, _ = pair.received_on_both()
    pair.through(well)
    fared = pair.many(Choice(since=1.0), only="storescu")
    assert fared.refused is None
    assert pair.cores_of(list(fared.run_ids)) == ["core"]
    assert list(fared.to_json()["refused_on"]) == ["core1"]


# --- the same key


def test_the_same_key_is_honoured_when_the_inputs_are_gone(pair: Pair):
    well, ill = pair.received_on_both()
    pair.through(well)
    pair.refused(ill)
    made = asked(pair, well, from_step=Step.DOWNLOAD, key="k")
    pair.at_end(pair.do(existing(pair.ledger, made.run_ids[0]), download))
    for revision in pair.ledger.retention.removable(-1):
        assert pair.ledger.retention.removed(revision)
    assert asked(pair, well, from_step=Step.DELIVER, key="k") == Made(made.run_ids, {})
    named = Choice(study_uids=(well.study_uid,))
    fared = pair.many(named, from_step=Step.DELIVER, key="k")
    assert (fared.refused, list(fared.run_ids)) == (None, made.run_ids)
    with pytest.raises(NotFound, match="no longer held"):
        asked(pair, well, from_step=Step.DELIVER, key="k2")

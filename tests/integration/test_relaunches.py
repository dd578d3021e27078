"""Relaunches on each database: from any step, for one destination, of many; and asked for twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pacsor_tasks import relaunching
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import Conflict, NotFound
from pacsor_tasks.ledger import Choice, Ledger, Relaunch
from pacsor_tasks.models import DeliveryState, InstanceOutcome, Run, RunState, Selection, Step
from pacsor_tasks.ports import Ports, Ris
from pacsor_tasks.steps.cleanup import cleanup
from pacsor_tasks.steps.download import download
from pacsor_tasks.steps.fan_out import fan_out
from pacsor_tasks.steps.filter import filter_instances
from pacsor_tasks.steps.poll import poll
from pacsor_tasks.steps.upload import upload
from tests.conftest import Clock
from tests.support.bench import Bench
from tests.support.ledgers import existing
from tests.unit.test_steps_filter import rule

NOBODY = Pacs(
    name="", host="127.0.0.1", port=9, called_aet="X", calling_aet="Y", connect_timeout_s=1,
    timeout_s=1,
)  # fmt: skip


class Site(Bench):
    """A bench to two PACS and a RIS, where launching publishes nothing."""

    def __init__(self, root: Path, ledger: Ledger, clock: Clock) -> None:
        pacs = {name: replace(NOBODY, name=name) for name in ("storescu", "storescu-2")}
        ris = {"hl7": Ris(name="hl7", host="127.0.0.1", port=9, timeout_s=1)}
        skips = rule("0020,0013", "^3$", should_match=False)
        super().__init__(root, ledger, pacs=pacs, ris=ris, filters=(skips,))
        self.clock = clock
        self.launched: list[str] = []

    def relaunched(self, study_uid: str, **wish: object) -> Run:
        """The one new run."""
        (run_id,) = self.relaunch(study_uid, **wish)
        return existing(self.ledger, run_id)

    def relaunch(self, study_uid: str, **wish: object) -> list[str]:
        self.clock.tick(1)
        given = Relaunch(**{"by": "ada", **wish})  # type: ignore[arg-type]
        return relaunching.relaunch(study_uid, self.ports, given, publish=self.publish).run_ids

    def publish(self, run_ids: Sequence[str], ports: Ports) -> None:
        self.launched += run_ids

    def delivering(self, token: str = "t1") -> Run:
        """A run of three instances, of which the filters skip the third, that has two results."""
        run = self.do(self.run(3, token), filter_instances)
        run = self.do(self.do(run, upload), poll)
        brought = self.results(run.study_uid, 2)
        self.api.results_by_command["smarturgences"] = [brought]
        run = self.do(run, download)
        assert run.step is Step.FAN_OUT, run.error
        return self.at_deliver(run)

    def over(self, token: str, *, quarantined: bool) -> Run:
        """One that is over."""
        run = self.delivering(token)
        self.end(run, "storescu")
        self.end(run, "hl7")
        state = DeliveryState.QUARANTINED if quarantined else DeliveryState.DELIVERED
        self.end(run, "storescu-2", state)
        return run

    def at_deliver(self, run: Run) -> Run:
        """Fanned out."""
        return self.do(run, fan_out)

    def end(self, run: Run, name: str, state: DeliveryState = DeliveryState.DELIVERED) -> None:
        claimed = self.ledger.deliveries.claim(f"{run.id}:{name}", "w", 10)
        assert claimed is not None
        assert self.ledger.deliveries.finish(claimed, state, f"{name}: said so")
        if self.ledger.runs.settle(run.id):
            self.do(existing(self.ledger, run.id), cleanup)

    def done(self) -> Run:
        run = existing(self.ledger, self.over("t1", quarantined=False).id)
        assert run.state is RunState.DONE
        return run

    def deliveries(self, run: Run) -> dict[str, DeliveryState]:
        return {d.destination: d.state for d in self.ledger.deliveries.of_run(run.id)}


@pytest.fixture
def site(tmp_path: Path, ledger: Ledger, clock: Clock) -> Site:
    return Site(tmp_path, ledger, clock)


@pytest.mark.parametrize(
    ("start", "step", "outcomes"),
    [
        (Step.FILTER, Step.FILTER, {"pending": 3}),
        (Step.UPLOAD, Step.UPLOAD, {"pending": 2, "filtered": 1}),
        (Step.POLL, Step.POLL, {"uploaded": 2, "filtered": 1}),
        (Step.DOWNLOAD, Step.DOWNLOAD, {"uploaded": 2, "filtered": 1}),
    ],
)
def test_a_done_study_begins_again_at_each_step_that_asks_the_ai(
    site: Site, start: Step, step: Step, outcomes: dict[str, int]
):
    first = site.done()
    run = site.relaunched(first.study_uid, from_step=start)
    assert (run.state, run.step, run.force) == (RunState.QUEUED, step, True)
    assert site.outcomes(run) == outcomes
    assert set(site.deliveries(run)) == {"storescu", "storescu-2", "hl7"}
    assert site.launched == [run.id]
    (shown, _) = site.ledger.studies.detail(first.study_uid)["runs"]  # type: ignore[index]
    assert (shown["from"], shown["only"]) == (start, None)


def test_a_run_that_begins_at_the_download_delivers(site: Site):
    first = site.done()
    run = site.relaunched(first.study_uid, from_step=Step.DOWNLOAD)
    run = site.do(run, download)
    assert run.step is Step.FAN_OUT
    assert site.ledger.deliveries.count_results(run.id) == 2


def test_results_that_are_gone_are_said_to_be_and_which_step_would_do(site: Site):
    first = site.done()
    with pytest.raises(Conflict, match="no longer held; from download would do"):
        site.relaunch(first.study_uid, from_step=Step.DELIVER)
    assert relaunching.starts(first.study_uid, site.ports)["core"] == {
        Step.FILTER: None, Step.UPLOAD: None, Step.POLL: None, Step.DOWNLOAD: None,
        Step.DELIVER: "its results are no longer held",
    }  # fmt: skip


def test_results_that_are_held_are_delivered_again_whatever_becomes_of_the_first_run(site: Site):
    first = site.delivering()
    site.end(first, "storescu")
    site.end(first, "hl7")
    site.end(first, "storescu-2", DeliveryState.QUARANTINED)
    run = site.relaunched(first.study_uid, from_step=Step.DELIVER)
    assert run.step is Step.FAN_OUT
    site.ports.spool.remove_results(first.id)
    run = site.at_deliver(run)
    delivery = site.ledger.deliveries.claim(f"{run.id}:storescu", "w", 10)
    assert delivery is not None
    unsent = site.ledger.deliveries.unsent(delivery)
    assert len(unsent) == delivery.total == 2
    assert all(site.ports.file(result.path).is_file() for result in unsent)
    assert site.ledger.deliveries.outcomes(run.id) == {"smarturgences": ("done", "")}


def test_for_one_destination_a_relaunch_begins_as_late_as_it_can(site: Site):
    first = site.done()
    run = site.relaunched(first.study_uid, only="storescu-2")
    assert run.step is Step.DOWNLOAD
    assert set(site.deliveries(run)) == {"storescu-2"}
    message = site.relaunched(first.study_uid, only="hl7")
    assert message.step is Step.FAN_OUT  # a message takes no results
    with pytest.raises(NotFound, match="'storescu-9' is no destination of core"):
        site.relaunch(first.study_uid, only="storescu-9")


def test_for_one_destination_the_others_go_on(site: Site):
    first = site.delivering()
    site.end(first, "storescu-2")
    run = site.relaunched(first.study_uid, only="storescu-2")
    assert run.step is Step.FAN_OUT  # the results are there still
    assert existing(site.ledger, first.id).state is RunState.DELIVERING
    assert site.deliveries(first)["storescu"] is DeliveryState.PENDING
    site.end(first, "hl7")
    site.end(first, "storescu")
    assert existing(site.ledger, first.id).state is RunState.DONE
    run = site.at_deliver(run)
    delivery = site.ledger.deliveries.claim(f"{run.id}:storescu-2", "w", 10)
    assert delivery is not None
    assert all(
        site.ports.file(r.path).is_file() for r in site.ledger.deliveries.unsent(delivery)
    )  # fmt: skip


def test_what_is_to_be_delivered_there_anyway_is_not_relaunched(site: Site):
    first = site.delivering()
    with pytest.raises(Conflict, match="gets the results of the run on core that is under way"):
        site.relaunch(first.study_uid, only="storescu-2")
    with pytest.raises(Conflict, match="under way"):
        relaunching.plan(first.study_uid, site.ports, Relaunch(only="storescu-2"))
    assert site.launched == []
    held = list((site.ports.spool.root / "results").iterdir())
    assert [path.name for path in held] == [first.id]  # what was linked for it is gone


def test_a_quarantined_delivery_is_taken_over_and_its_run_ends_well(site: Site):
    first = site.delivering()
    site.end(first, "storescu")
    site.end(first, "hl7")
    site.end(first, "storescu-2", DeliveryState.QUARANTINED)
    assert existing(site.ledger, first.id).state is RunState.FAILED
    run = site.relaunched(first.study_uid, only="storescu-2")
    assert site.deliveries(first)["storescu-2"] is DeliveryState.SKIPPED
    site.clock.tick(1)
    assert [due.run_id for due in site.ledger.runs.due(stale_s=1e9, limit=9)] == [first.id]
    assert site.ledger.runs.settle(first.id)
    site.do(existing(site.ledger, first.id), cleanup)
    assert site.ledger.studies.page(state=RunState.DONE)["studies"] != []
    page = site.ledger.studies.page()["studies"]
    assert page[0]["state"] == "queued"  # what is done for storescu-2 is the study's state too
    run = site.at_deliver(run)
    site.end(run, "storescu-2")
    assert site.ledger.studies.page()["studies"][0]["state"] == "done"


def test_after_a_partial_relaunch_the_other_deliveries_can_be_retried(site: Site):
    first = site.delivering()
    site.end(first, "hl7")
    site.end(first, "storescu-2", DeliveryState.QUARANTINED)
    site.end(first, "storescu", DeliveryState.QUARANTINED)
    site.relaunch(first.study_uid, only="storescu-2")
    site.ledger.verbs.retry_delivery(f"{first.id}:storescu", "ada")
    assert site.deliveries(first)["storescu"] is DeliveryState.PENDING
    with pytest.raises(Conflict, match="skipped"):
        site.ledger.verbs.retry_delivery(f"{first.id}:storescu-2", "ada")


def test_a_partial_relaunch_replaces_an_unfinished_one_for_the_same_destination(site: Site):
    first = site.done()
    one = site.relaunched(first.study_uid, only="storescu-2", from_step=Step.FILTER)
    site.do(one, filter_instances)
    other = site.relaunched(first.study_uid, only="storescu", from_step=Step.FILTER)
    two = site.relaunched(first.study_uid, only="storescu-2", from_step=Step.FILTER)
    assert existing(site.ledger, one.id).state is RunState.CANCELLED
    assert existing(site.ledger, other.id).state is RunState.QUEUED
    assert existing(site.ledger, two.id).state is RunState.QUEUED


def test_a_relaunch_of_a_running_study_takes_its_place(site: Site):
    first = site.delivering()
    holder = site.ledger.deliveries.claim(f"{first.id}:storescu", "w", 10)
    assert holder is not None
    run = site.relaunched(first.study_uid)
    now = existing(site.ledger, first.id)
    assert (now.state, now.error) == (RunState.CANCELLED, "replaced by a relaunch")
    assert not site.ledger.deliveries.finish(holder, DeliveryState.DELIVERED, "late")
    assert run.step is Step.FILTER


def test_the_same_relaunch_asked_for_twice_is_made_once(site: Site):
    first = site.done()
    one = site.relaunch(first.study_uid)
    assert site.relaunch(first.study_uid) == one  # it had not begun
    site.do(existing(site.ledger, one[0]), filter_instances)
    assert site.relaunch(first.study_uid) != one
    assert existing(site.ledger, one[0]).state is RunState.CANCELLED


def test_a_relaunch_that_has_not_begun_makes_way_for_one_by_other_conditions(site: Site):
    first = site.done()
    one = site.relaunch(first.study_uid)
    (target,) = site.ports.targets
    only_sr = Selection(sop_classes=("1.2.840.10008.5.1.4.1.1.88.33",))
    changed = replace(target, selections={"storescu-2": only_sr})
    site.ports = replace(site.ports, targets=[changed])
    two = site.relaunch(first.study_uid)
    assert two != one
    assert existing(site.ledger, one[0]).state is RunState.CANCELLED
    found = {d.destination: d.selection for d in site.ledger.deliveries.of_run(two[0])}
    assert found["storescu-2"] == only_sr
    assert site.relaunch(first.study_uid) == two


def test_by_the_same_key_a_relaunch_is_made_once_however_late(site: Site):
    first = site.done()
    one = site.relaunch(first.study_uid, key="k")
    site.do(existing(site.ledger, one[0]), filter_instances)
    assert site.relaunch(first.study_uid, key="k") == one
    assert site.relaunch(first.study_uid, key="other") != one


def test_late_instances_that_were_not_judged_yet_need_the_filters(site: Site):
    first = site.done()
    late = site.results(first.study_uid, 1)
    site.received(late, first.study_uid, "t2")
    site.clock.tick(1)
    second = site.ingested(first.study_uid, "t2")
    with pytest.raises(Conflict, match="have not decided on every instance; from filter would"):
        site.relaunch(first.study_uid, from_step=Step.UPLOAD)
    site.do(second, filter_instances)
    with pytest.raises(Conflict, match="not every instance was uploaded; from upload would do"):
        site.relaunch(first.study_uid, from_step=Step.POLL)
    run = site.relaunched(first.study_uid, from_step=Step.UPLOAD)
    assert site.outcomes(run) == {"pending": 3, "filtered": 1}


def test_who_and_when_is_in_the_timeline(site: Site):
    first = site.done()
    site.relaunch(first.study_uid, from_step=Step.DOWNLOAD, only="storescu-2")
    detail = site.ledger.studies.detail(first.study_uid)
    assert detail is not None
    last = detail["events"][-1]
    assert (last["kind"], last["by"]) == ("run.queued", "ada")
    said = "relaunched on core from download, for storescu-2 only: 3 instances"
    assert last["message"] == said
    site.relaunch(first.study_uid)
    detail = site.ledger.studies.detail(first.study_uid)
    assert detail is not None
    events = [(e["kind"], e["by"]) for e in detail["events"][-2:]]
    assert events == [("run.cancelled", "ada"), ("run.queued", "ada")]


def test_what_is_gone_or_was_never_there_says_so(site: Site):
    first = site.done()
    with pytest.raises(NotFound, match="study 123: never received"):
        site.relaunch("123")
    with pytest.raises(NotFound, match="'core9' is no configured core: there is core"):
        relaunching.relaunch(first.study_uid, site.ports, core="core9")
    for revision in site.ledger.retention.removable(-1):
        assert site.ledger.retention.removed(revision)
    for start in (None, Step.UPLOAD, Step.DELIVER):
        with pytest.raises(NotFound, match="its instances are no longer held"):
            site.relaunch(first.study_uid, from_step=start)


def test_the_filters_explanation_is_kept_by_instance(site: Site):
    run = site.do(site.run(3), filter_instances)
    page = site.ledger.studies.instances(run.id, outcome=InstanceOutcome.FILTERED)
    assert page is not None
    (skipped,) = page["instances"]
    assert (skipped["rule"], skipped["tag"]) == (1, "(0020,0013)")
    assert skipped["reason"] == "rule 1: InstanceNumber (0020,0013) matches '^3$'"
    detail = site.ledger.studies.detail(run.study_uid)
    assert detail is not None
    assert detail["runs"][0]["left_out"] == [
        {"outcome": "filtered", "rule": 1, "tag": "(0020,0013)",
         "reason": skipped["reason"], "instances": 1}
    ]  # fmt: skip
    first = site.ledger.studies.instances(run.id, limit=2)
    assert first is not None
    rest = site.ledger.studies.instances(run.id, limit=2, after=first["next_after"])
    assert rest is not None
    assert [len(first["instances"]), len(rest["instances"]), rest["next_after"]] == [2, 1, None]
    assert site.ledger.studies.instances("nope") is None


# --- many


def test_studies_are_chosen_by_when_they_came_and_how_they_fared(site: Site, clock: Clock):
    began = clock()
    done = site.done()
    clock.tick(100)
    failed = site.over("t2", quarantined=True)
    find = site.ledger.choosing.find

    def uids(**choice: object) -> list[str]:
        return [c.study_uid for c in find(Choice(**choice), 9)]  # type: ignore[arg-type]

    both = [done.study_uid, failed.study_uid]
    assert uids(since=began) == both
    assert uids(until=began + 50) == both[:1]
    assert uids(since=began + 50) == both[1:]
    assert uids(state=RunState.FAILED) == both[1:]
    assert uids(state=DeliveryState.QUARANTINED) == both[1:]
    assert uids(state=DeliveryState.QUARANTINED, destination="storescu-2") == both[1:]
    assert uids(state=DeliveryState.QUARANTINED, destination="storescu") == []
    assert uids(destination="hl7") == both
    assert uids(core="core") == both
    assert uids(core="core1") == []
    assert uids(study_uids=(done.study_uid, "9.9")) == both[:1]
    site.relaunch(failed.study_uid)
    assert uids(state=RunState.FAILED) == []  # the relaunch is what counts now


def test_many_are_planned_then_relaunched_and_what_cannot_be_stops_no_other(
    site: Site, clock: Clock
):
    done = site.done()
    clock.tick(100)
    gone = site.over("t2", quarantined=False)
    for revision in site.ledger.retention.removable(-1):
        if revision.study_uid == gone.study_uid:
            assert site.ledger.retention.removed(revision)
    chosen = relaunching.choose(Choice(destination="storescu-2"), 9, site.ports)
    wish = Relaunch(only="storescu-2", by="ada", key="bulk-1")
    planned = relaunching.plan_many(chosen, site.ports, wish)
    assert [(f.chosen.study_uid, [p.start for p in f.planned]) for f in planned] == [
        (done.study_uid, [Step.DOWNLOAD]), (gone.study_uid, []),
    ]  # fmt: skip
    assert "no longer held" in str(planned[1].refused)
    assert site.launched == []
    fared = relaunching.relaunch_many(chosen, site.ports, wish, publish=site.publish)
    assert [bool(f.run_ids) for f in fared] == [True, False]
    again = relaunching.relaunch_many(chosen, site.ports, wish, publish=site.publish)
    assert [f.run_ids for f in again] == [f.run_ids for f in fared]


def test_more_than_the_limit_or_nothing_to_choose_by_is_refused(site: Site, clock: Clock):
    site.done()
    clock.tick(1)
    site.over("t2", quarantined=False)
    assert len(relaunching.choose(Choice(core="core"), 2, site.ports)) == 2
    with pytest.raises(Conflict, match="more than 1 studies are meant"):
        relaunching.choose(Choice(core="core"), 1, site.ports)
    with pytest.raises(Conflict, match="choose studies by"):
        relaunching.choose(Choice(), 9, site.ports)

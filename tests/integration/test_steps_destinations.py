"""Deliveries to every kind of destination as the worker makes them, against real peers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsor_tasks import guard
from pacsor_tasks.breaker import LedgerBreaker
from pacsor_tasks.core_api import Outcome
from pacsor_tasks.dicom.sop_classes import uids_of
from pacsor_tasks.dicomweb import stow
from pacsor_tasks.errors import Conflict, RateLimited
from pacsor_tasks.folder import Folder
from pacsor_tasks.http_out import Endpoint
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger.peers import OPEN_AT
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    DestinationKind,
    PeerKind,
    PeerName,
    PeerState,
    Run,
    Selection,
    Step,
)
from pacsor_tasks.operations import reroute_delivery
from pacsor_tasks.pipeline import DELIVER
from pacsor_tasks.probing import probe
from pacsor_tasks.steps.download import download
from pacsor_tasks.steps.hl7 import send_message
from pacsor_tasks.steps.store import store_results
from pacsor_tasks.steps.webhook import post_event
from pacsor_tasks.webhook import Webhook
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.conftest import Clock
from tests.integration.test_steps_deliveries import pacs_at, ris_at
from tests.support.bench import Bench
from tests.support.dicomweb_peers import orthanc_dicomweb, parts_of, server_at, stored
from tests.support.http_script import Call, Reply, ScriptedServer, answering
from tests.support.ledgers import existing
from tests.support.net import free_port

SC, SR = uids_of("SC")[0], "1.2.840.10008.5.1.4.1.1.88.33"
ONLY_SR = Selection(sop_classes=uids_of("SR"), sop_class_names=("SR",))
ONLY_SC = Selection(sop_classes=uids_of("SC"), sop_class_names=("SC",))
STEPS = {"pacsor.store": store_results, "pacsor.hl7": send_message, "pacsor.webhook": post_event}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty directory."""
    (tmp_path / "share").mkdir()
    return Folder(name="folder", path=tmp_path / "share", layout="{command}/{sop_uid}.dcm")


@pytest.fixture
def pacs() -> Iterator[PacsSimulator]:
    """A PACS that takes everything."""
    with PacsSimulator() as server:
        yield server


def hook(url: str, **webhook: object) -> Webhook:
    endpoint = Endpoint(
        name="webhook", url=url, connect_timeout_s=2, timeout_s=2, setting="WEBHOOK"
    )
    return replace(Webhook(endpoint=endpoint), **webhook)  # type: ignore[arg-type]


def with_results(bench: Bench, **by_command: Sequence[str]) -> Run:
    """A run whose results, of these SOP classes by command, wait for their deliveries."""
    run = bench.at(bench.run(1), Step.DOWNLOAD)
    for command, classes in by_command.items():
        files = [bench.results(run.study_uid, 1, SOPClassUID=uid)[0] for uid in classes]
        bench.api.results_by_command[command] = [files or Outcome.EMPTY]
    return bench.at(bench.do(run, download), Step.DELIVER)


def deliver(bench: Bench, run: Run, destination: str, clock: Clock | None = None) -> Delivery:
    """One try of a delivery, when its time has come; the delivery afterwards."""
    delivery_id = f"{run.id}:{destination}"
    found = bench.ledger.deliveries.get(delivery_id)
    assert found is not None
    if clock is not None:
        clock.now = max(clock.now, found.due_at or 0)
    step = STEPS[DELIVER[found.kind]]
    guard.deliver(bench.ledger, bench.ports.retry, delivery_id, lambda d: step(d, bench.ports))
    found = bench.ledger.deliveries.get(delivery_id)
    assert found is not None
    return found


# --- DICOMweb


def test_results_are_stored_by_dicomweb_and_counted(sqlite_ledger: Ledger, tmp_path: Path):
    with orthanc_dicomweb(tmp_path / "orthanc") as peer:
        bench = Bench(tmp_path, sqlite_ledger, others={"stow": {"stow": server_at(peer.url)}})
        run = with_results(bench, smarturgences=[SC, SC, SR])
        done = deliver(bench, run, "stow")
        assert len(peer.instances(run.study_uid)) == 3
    assert (done.state, done.sent, done.total) == (DeliveryState.DELIVERED, 3, 3)
    assert any("3 instances stored at 127.0.0.1:" in text for _, text in bench.events(run))


def test_a_retry_posts_only_what_the_server_lacks(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    refused: list[str] = []
    posted: list[int] = []

    def script(call: Call) -> Reply:
        uids = [str(dcmread(BytesIO(part)).SOPInstanceUID) for part in parts_of(call)]
        posted.append(len(uids))
        if not refused:
            refused.append(uids[1])
            return stored(dict.fromkeys({uids[0], uids[2]}), {uids[1]: 0xA700}, 202)
        return stored(dict.fromkeys(uids))

    with ScriptedServer(script) as server:
        bench = Bench(tmp_path, sqlite_ledger, others={"stow": {"stow": server_at(server.url)}})
        run = with_results(bench, smarturgences=[SC, SC, SC])
        first = deliver(bench, run, "stow")
        assert (first.state, first.sent) == (DeliveryState.RETRYING, 2)
        assert "0xA700" in (first.waiting_for or "")
        done = deliver(bench, run, "stow", clock)
    assert (done.state, done.sent, posted) == (DeliveryState.DELIVERED, 3, [3, 1])


def test_what_a_server_chokes_on_keeps_it_from_no_other(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    stored_there: list[str] = []

    def script(call: Call) -> Reply:
        sent = [dcmread(BytesIO(part)) for part in parts_of(call)]
        if any(str(instance.SOPClassUID) == SR for instance in sent):
            return Reply(status=500)
        stored_there.extend(str(instance.SOPInstanceUID) for instance in sent)
        return stored(dict.fromkeys(stored_there))

    with ScriptedServer(script) as server:
        to = server_at(server.url, batch=2)
        bench = Bench(tmp_path, sqlite_ledger, others={"stow": {"stow": to}})
        run = with_results(bench, smarturgences=[SR] * 4 + [SC] * 3)
        for _ in range(3):
            found = deliver(bench, run, "stow", clock)
    assert (found.state, found.sent) == (DeliveryState.RETRYING, 3)


def test_a_server_that_is_away_is_left_alone_probed_and_tried_again(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    server = server_at(f"http://127.0.0.1:{free_port()}")
    bench = Bench(tmp_path, sqlite_ledger, others={"stow": {"stow": server}})
    name = PeerName(PeerKind.DESTINATION, "stow")
    bench.ports = replace(
        bench.ports,
        breaker=LedgerBreaker(sqlite_ledger.peers),
        probes={name: lambda: stow.probe(server)},
    )
    run = with_results(bench, smarturgences=[SC])
    for _ in range(OPEN_AT):
        deliver(bench, run, "stow", clock)
    assert sqlite_ledger.peers.get(name).state is PeerState.OPEN
    probe(name, bench.ports)
    assert sqlite_ledger.peers.get(name).state is PeerState.OPEN
    with answering(Reply(status=404)) as living:
        bench.ports = replace(bench.ports, probes={name: lambda: stow.probe(server_at(living.url))})
        probe(name, bench.ports)
    assert sqlite_ledger.peers.get(name).state is PeerState.TRIAL


def test_a_pause_that_the_server_asks_for_is_everybodys(sqlite_ledger: Ledger, tmp_path: Path):
    limit = FakeLimit()
    with answering(Reply(status=429, headers={"Retry-After": "33"})) as server:
        bench = Bench(
            tmp_path, sqlite_ledger,
            others={"stow": {"stow": server_at(server.url)}}, limits={"stow": limit},
        )  # fmt: skip
        waiting = deliver(bench, with_results(bench, smarturgences=[SC]), "stow")
    assert waiting.state is DeliveryState.RETRYING
    assert limit.pauses == [33]


# --- rates


class FakeLimit:
    """So many turns, then none for five seconds."""

    def __init__(self, turns: int = 1000) -> None:
        self.turns = turns
        self.pauses: list[float] = []

    def wait(self, max_wait_s: float = 2) -> None:
        if not self.turns:
            raise RateLimited("the limit deliver:x is used up", 5)
        self.turns -= 1

    def pushback(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_who_waits_for_a_turn_has_not_failed(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, pacs: PacsSimulator
):
    limit = FakeLimit(2)
    bench = Bench(
        tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)}, limits={"storescu": limit}
    )
    run = with_results(bench, smarturgences=[SC] * 3)
    waiting = deliver(bench, run, "storescu")
    assert (waiting.state, waiting.sent, waiting.attempts) == (DeliveryState.PENDING, 2, 0)
    assert waiting.waiting_for == "the limit deliver:x is used up"
    assert waiting.due_at == clock() + 5
    limit.turns = 1
    done = deliver(bench, run, "storescu", clock)
    assert (done.state, done.sent) == (DeliveryState.DELIVERED, 3)
    assert list(pacs.journal.counts().values()) == [1, 1, 1]
    assert limit.pauses == []


@pytest.mark.parametrize("destination", ["hl7", "webhook", "folder"])
def test_every_kind_waits_for_its_turn(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder, destination: str
):
    bench = Bench(
        tmp_path, sqlite_ledger, ris={"hl7": ris_at(free_port())},
        others={"folders": {"folder": folder}, "webhooks": {"webhook": hook("http://127.0.0.1:1")}},
        limits={destination: FakeLimit(0)},
    )  # fmt: skip
    bench.api.findings_by_command["smarturgences"] = [RateLimited("unused")]
    bench.ports = replace(
        bench.ports,
        hl7={n: replace(c, detections_command=None) for n, c in bench.ports.hl7.items()},
    )
    waiting = deliver(bench, with_results(bench, smarturgences=[SC]), destination)
    assert (waiting.state, waiting.attempts) == (DeliveryState.PENDING, 0)


# --- conditions


def test_reports_go_here_and_captures_there(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder, pacs: PacsSimulator
):
    bench = Bench(
        tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)},
        others={"folders": {"folder": folder}},
        selections={"storescu": ONLY_SC, "folder": ONLY_SR},
        commands=("smarturgences", "smartxpert"),
    )  # fmt: skip
    run = with_results(bench, smarturgences=[SC, SR], smartxpert=[SC])
    images, reports = (deliver(bench, run, name) for name in ("storescu", "folder"))
    assert (images.state, images.sent, images.total) == (DeliveryState.DELIVERED, 2, 2)
    assert (reports.state, reports.sent, reports.total) == (DeliveryState.DELIVERED, 1, 1)
    assert {str(dcmread(p).SOPClassUID) for p in pacs.files()} == {SC}
    (file,) = folder.path.glob("*/*.dcm")
    assert str(dcmread(file).SOPClassUID) == SR
    assert file.parent.name == "smarturgences"


def test_of_one_command_only(sqlite_ledger: Ledger, tmp_path: Path, folder: Folder):
    bench = Bench(
        tmp_path, sqlite_ledger, others={"folders": {"folder": folder}},
        selections={"folder": Selection(commands=("smartxpert",))},
        commands=("smarturgences", "smartxpert"),
    )  # fmt: skip
    done = deliver(bench, with_results(bench, smarturgences=[SC, SC], smartxpert=[SC]), "folder")
    assert (done.state, done.total) == (DeliveryState.DELIVERED, 1)
    assert [p.parent.name for p in folder.path.glob("*/*.dcm")] == ["smartxpert"]


def test_where_nothing_fits_there_is_nothing_to_store(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder
):
    bench = Bench(
        tmp_path, sqlite_ledger, others={"folders": {"folder": folder}},
        selections={"folder": replace(ONLY_SR, commands=("smarturgences",))},
    )  # fmt: skip
    skipped = deliver(bench, with_results(bench, smarturgences=[SC]), "folder")
    assert skipped.state is DeliveryState.SKIPPED
    assert skipped.error == "nothing to store: no SR of smarturgences among them"


@pytest.mark.parametrize(
    ("results", "state"), [([SC], "delivered"), ([], "delivered"), (None, "skipped")]
)
def test_a_message_about_one_command_goes_when_that_has_results(
    sqlite_ledger: Ledger, tmp_path: Path, results: list[str] | None, state: str
):
    with RisSimulator() as server:
        bench = Bench(
            tmp_path, sqlite_ledger, ris={"hl7": ris_at(server.port)},
            selections={"hl7": Selection(commands=("smartxpert",))},
            commands=("smarturgences", "smartxpert"),
        )  # fmt: skip
        bench.ports = replace(
            bench.ports,
            hl7={n: replace(c, detections_command=None) for n, c in bench.ports.hl7.items()},
        )
        bench.api.results_by_command["smartxpert"] = [Outcome.FORBIDDEN]
        given = {"smarturgences": [SC]} | ({} if results is None else {"smartxpert": results})
        ended = deliver(bench, with_results(bench, **given), "hl7")
    assert ended.state == state


def test_what_an_operator_sends_elsewhere_is_what_it_was(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder, pacs: PacsSimulator
):
    """Whatever the other destination's own conditions are: nothing is lost on the way."""
    bench = Bench(
        tmp_path, sqlite_ledger,
        pacs={"storescu": pacs_at(free_port()), "storescu-2": pacs_at(pacs.port)},
        others={"folders": {"folder": folder}},
        selections={"storescu": ONLY_SR, "storescu-2": ONLY_SC, "folder": ONLY_SC},
    )  # fmt: skip
    run = with_results(bench, smarturgences=[SR, SR, SC])
    bench.ports.ledger.verbs.skip_delivery(f"{run.id}:folder", "ada", "not wanted")
    assert deliver(bench, run, "storescu").state is DeliveryState.RETRYING
    reroute_delivery(f"{run.id}:storescu", "folder", "ada", bench.ports)
    done = deliver(bench, run, "folder")
    assert (done.state, done.sent, done.total) == (DeliveryState.DELIVERED, 2, 2)
    assert {str(dcmread(p).SOPClassUID) for p in folder.path.glob("*/*.dcm")} == {SR}


def test_instances_cannot_be_sent_where_events_go(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder
):
    bench = Bench(
        tmp_path, sqlite_ledger,
        others={"folders": {"folder": folder}, "webhooks": {}},
    )  # fmt: skip
    bench.ports = replace(bench.ports, webhooks={"webhook": hook("http://127.0.0.1:1")})
    run = with_results(bench, smarturgences=[SC])
    with pytest.raises(Conflict, match="folder is folder, webhook is webhook"):
        reroute_delivery(f"{run.id}:folder", "webhook", "ada", bench.ports)


def test_a_run_whose_results_nobody_takes_goes_on_to_its_end(sqlite_ledger: Ledger, tmp_path: Path):
    bench = Bench(tmp_path, sqlite_ledger)  # every …_CORES is false
    run = with_results(bench, smarturgences=[SC])
    (due,) = sqlite_ledger.runs.due(stale_s=10, limit=1)
    assert (due.run_id, due.step) == (run.id, Step.DELIVER)
    assert sqlite_ledger.runs.settle(run.id)
    assert existing(sqlite_ledger, run.id).step is Step.CLEANUP


# --- webhooks


def test_an_event_says_what_there_is_and_nothing_of_the_patient(
    sqlite_ledger: Ledger, tmp_path: Path
):
    with answering(Reply()) as server:
        bench = Bench(
            tmp_path, sqlite_ledger, others={"webhooks": {"webhook": hook(server.url)}},
            commands=("smarturgences", "smartxpert"),
        )  # fmt: skip
        bench.api.results_by_command["smartxpert"] = [Outcome.FORBIDDEN]
        run = with_results(bench, smarturgences=[SC])
        done = deliver(bench, run, "webhook")
        (call,) = server.calls
    assert (done.state, done.sent, done.total) == (DeliveryState.DELIVERED, 1, 1)
    event = json.loads(call.body)
    (result,) = event.pop("results")
    assert event.pop("run_created_at").startswith("20")
    assert event == {
        "version": 1,
        "event": "results.ready",
        "id": f"{run.id}:webhook",
        "study_instance_uid": run.study_uid,
        "core": "core",
        "run_id": run.id,
        "commands": [
            {"name": "smarturgences", "outcome": "done"},
            {"name": "smartxpert", "outcome": "forbidden"},
        ],
    }
    assert (result["command"], result["sop_class_uid"]) == ("smarturgences", SC)
    for told in ("PX-1", "TEST", "ACC-1", "19700101"):
        assert told not in call.body.decode()


def test_an_event_on_some_commands_says_nothing_of_the_others(
    sqlite_ledger: Ledger, tmp_path: Path
):
    with answering(Reply()) as server:
        bench = Bench(
            tmp_path, sqlite_ledger, others={"webhooks": {"webhook": hook(server.url)}},
            commands=("smarturgences", "smartxpert"),
            selections={"webhook": Selection(commands=("smartxpert",))},
        )  # fmt: skip
        run = with_results(bench, smarturgences=[SC], smartxpert=[SC])
        assert deliver(bench, run, "webhook").state is DeliveryState.DELIVERED
        event = json.loads(server.calls[0].body)
    assert event["commands"] == [{"name": "smartxpert", "outcome": "done"}]
    assert [result["command"] for result in event["results"]] == ["smartxpert"]


def test_patient_data_is_told_where_that_is_asked_for(sqlite_ledger: Ledger, tmp_path: Path):
    with answering(Reply()) as server:
        to = hook(server.url, include=("patient_id", "accession_number"))
        bench = Bench(tmp_path, sqlite_ledger, others={"webhooks": {"webhook": to}})
        deliver(bench, with_results(bench, smarturgences=[SC]), "webhook")
        (call,) = server.calls
    assert json.loads(call.body)["patient"] == {"patient_id": "PX-1", "accession_number": "ACC-1"}


def test_a_repetition_is_the_same_byte_by_byte(sqlite_ledger: Ledger, tmp_path: Path, clock: Clock):
    with answering(Reply(status=503), Reply(status=202)) as server:
        bench = Bench(tmp_path, sqlite_ledger, others={"webhooks": {"webhook": hook(server.url)}})
        run = with_results(bench, smarturgences=[SC])
        assert deliver(bench, run, "webhook").state is DeliveryState.RETRYING
        assert deliver(bench, run, "webhook", clock).state is DeliveryState.DELIVERED
        first, second = server.calls
    assert first.body == second.body
    assert first.headers["X-Pacsor-Delivery"] == second.headers["X-Pacsor-Delivery"]


def test_an_event_waits_for_the_images_at_every_pacs(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, folder: Folder
):
    away = server_at(f"http://127.0.0.1:{free_port()}")
    with answering(Reply()) as server:
        to = hook(server.url, after_images=True)
        bench = Bench(
            tmp_path, sqlite_ledger,
            others={"stow": {"stow": away}, "folders": {"folder": folder},
                    "webhooks": {"webhook": to}},
        )  # fmt: skip
        run = with_results(bench, smarturgences=[SC])
        waiting = deliver(bench, run, "webhook")
        assert waiting.state is DeliveryState.PENDING
        assert waiting.waiting_for == "the images at stow (WEBHOOK_AFTER_IMAGES)"
        with ScriptedServer(lambda _: Reply()) as archive:
            bench.ports = replace(bench.ports, stow={"stow": server_at(archive.url)})
            assert deliver(bench, run, "stow").state is DeliveryState.DELIVERED
        assert bench.ports.wakes_messages("stow")
        assert not bench.ports.wakes_messages("folder")
        sqlite_ledger.deliveries.wake_after_images(run.id)
        woken = sqlite_ledger.deliveries.get(f"{run.id}:webhook")
        assert woken is not None
        assert woken.due_at == clock()
        assert deliver(bench, run, "webhook").state is DeliveryState.DELIVERED


def test_a_destination_that_is_configured_no_more_is_quarantined_with_its_name(
    sqlite_ledger: Ledger, tmp_path: Path, folder: Folder
):
    bench = Bench(
        tmp_path, sqlite_ledger,
        others={"stow": {"stow": server_at("http://127.0.0.1:1")},
                "folders": {"folder": folder},
                "webhooks": {"webhook": hook("http://127.0.0.1:1")}},
    )  # fmt: skip
    run = with_results(bench, smarturgences=[SC])
    bench.ports = replace(bench.ports, stow={}, folders={}, webhooks={})
    for name in ("stow", "folder", "webhook"):
        ended = deliver(bench, run, name)
        assert ended.state is DeliveryState.QUARANTINED
        assert ended.error == f"destination {name} is not configured"


def test_every_kind_has_a_task():
    assert set(DELIVER) == set(DestinationKind)
    assert set(STEPS) == set(DELIVER.values())

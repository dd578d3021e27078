"""Store and HL7 steps against real servers: what is sent again, what is not, and what ends it."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import guard
from pacsor_tasks.asides import Asides
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import NotReady
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.milvue.outcomes import CommandForbidden, UnknownStudy
from pacsor_tasks.milvue.schemas import Detections
from pacsor_tasks.models import Delivery, DeliveryState, Run, Step
from pacsor_tasks.ports import Ris
from pacsor_tasks.steps.download import download
from pacsor_tasks.steps.hl7 import send_message
from pacsor_tasks.steps.store import store_results
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.conftest import Clock
from tests.support.bench import Bench
from tests.support.net import free_port, wait_until


@pytest.fixture
def pacs() -> Iterator[PacsSimulator]:
    """A PACS that takes everything."""
    with PacsSimulator() as server:
        yield server


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    """A RIS that acknowledges everything."""
    with RisSimulator() as server:
        yield server


def pacs_at(port: int) -> Pacs:
    return Pacs(
        name="storescu",
        host="127.0.0.1",
        port=port,
        called_aet="PACS",
        calling_aet="MILVUE",
        connect_timeout_s=2,
        timeout_s=5,
    )


def ris_at(port: int) -> Ris:
    return Ris(name="hl7", host="127.0.0.1", port=port, timeout_s=1)


def with_results(bench: Bench, n: int = 3, token: str = "t1") -> Run:
    """A run whose results wait for their deliveries."""
    run = bench.at(bench.run(1, token), Step.DOWNLOAD)
    bench.api.results_by_command["smarturgences"] = [bench.results(run.study_uid, n)]
    run = bench.do(run, download)
    return bench.at(run, Step.DELIVER)


def deliver(bench: Bench, run: Run, destination: str) -> Delivery:
    """One try of a delivery; the delivery afterwards."""
    step = store_results if destination.startswith("storescu") else send_message
    delivery_id = f"{run.id}:{destination}"
    guard.deliver(bench.ledger, bench.ports.retry, delivery_id, lambda d: step(d, bench.ports))
    found = bench.ledger.deliveries.get(delivery_id)
    assert found is not None
    return found


def later(bench: Bench, clock: Clock, run: Run, destination: str) -> Delivery:
    """The same when its time has come."""
    now = bench.ledger.deliveries.get(f"{run.id}:{destination}")
    assert now is not None
    clock.now = max(clock.now, now.due_at or 0)
    return deliver(bench, run, destination)


def test_every_result_is_stored_and_counted(
    sqlite_ledger: Ledger, tmp_path: Path, pacs: PacsSimulator
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)})
    run = with_results(bench)
    done = deliver(bench, run, "storescu")
    assert (done.state, done.sent, done.total) == (DeliveryState.DELIVERED, 3, 3)
    assert len(pacs.files()) == 3


def test_after_a_broken_association_only_what_the_pacs_lacks_is_sent(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, pacs: PacsSimulator
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)})
    run = with_results(bench, 4)
    pacs.switches.set(drop_after=2)
    first = deliver(bench, run, "storescu")
    assert first.state is DeliveryState.RETRYING
    stored = first.sent
    assert 0 < stored < 4
    pacs.switches.set(drop_after=None)
    done = later(bench, clock, run, "storescu")
    assert (done.state, done.sent) == (DeliveryState.DELIVERED, 4)
    # What was dropped in place of an answer may be there and is sent again; the answered are not.
    assert max(pacs.journal.counts().values()) <= 2
    assert list(pacs.journal.counts().values()).count(1) >= stored


def test_a_full_pacs_is_tried_again_and_a_refusal_is_quarantined(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, pacs: PacsSimulator
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)})
    run = with_results(bench, 2)
    pacs.switches.set(status=0xA700)
    full = deliver(bench, run, "storescu")
    assert full.state is DeliveryState.RETRYING
    assert "0xA700" in (full.waiting_for or "")
    pacs.switches.set(status=0xC000)
    refused = later(bench, clock, run, "storescu")
    assert refused.state is DeliveryState.QUARANTINED
    assert refused.sent == 0


def test_a_pacs_that_is_away_is_tried_until_it_is_back(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock
):
    port = free_port()
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(port)})
    run = with_results(bench, 1)
    for attempt in (1, 2, 3):
        waiting = later(bench, clock, run, "storescu")
        assert (waiting.state, waiting.attempts) == (DeliveryState.RETRYING, attempt)
    with PacsSimulator(port=port):
        assert later(bench, clock, run, "storescu").state is DeliveryState.DELIVERED


def test_a_run_without_results_has_nothing_to_store(
    sqlite_ledger: Ledger, tmp_path: Path, pacs: PacsSimulator
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)})
    run = bench.at(bench.run(1), Step.DELIVER)
    assert deliver(bench, run, "storescu").state is DeliveryState.SKIPPED
    assert pacs.files() == []


@pytest.mark.parametrize("destination", ["storescu", "hl7"])
def test_a_destination_no_longer_configured_is_quarantined_with_its_name(
    sqlite_ledger: Ledger, tmp_path: Path, destination: str
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(9)}, ris={"hl7": ris_at(9)})
    run = with_results(bench)
    bench.ports = dataclasses.replace(bench.ports, pacs={}, ris={})
    ended = deliver(bench, run, destination)
    assert ended.state is DeliveryState.QUARANTINED
    assert f"destination {destination} is not configured" in (ended.error or "")


def test_a_cancelled_delivery_stops_at_the_next_instance(
    sqlite_ledger: Ledger, tmp_path: Path, pacs: PacsSimulator, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, sqlite_ledger, pacs={"storescu": pacs_at(pacs.port)})
    run = with_results(bench, 4)
    record = sqlite_ledger.deliveries.record_answers

    def recorded_and_cancelled(*args: Any) -> bool:
        record(*args)
        sqlite_ledger.runs.cancel(run.id, "replaced by a relaunch")
        return record(*args)

    monkeypatch.setattr(sqlite_ledger.deliveries, "record_answers", recorded_and_cancelled)
    assert deliver(bench, run, "storescu").state is DeliveryState.SKIPPED
    assert len(pacs.files()) == 1


# --- HL7


def findings() -> Detections:
    return Detections.model_validate(
        {
            "StudyInstanceUID": "1.2",
            "status": "done",
            "version": "1",
            "flag": {"score": 1, "label": "normal"},
            "hl7": "",
            "findings": [],
            "instances": [],
        }
    )


def hl7_bench(tmp_path: Path, ledger: Ledger, port: int, answers: list[object]) -> Bench:
    bench = Bench(tmp_path, ledger, ris={"hl7": ris_at(port)})
    bench.api.findings_by_command["smarturgences"] = list(answers)
    return bench


def messages(ris: RisSimulator) -> list[bytes]:
    return [base64.b64decode(event["raw"]) for event in ris.journal.events("message")]


def test_a_message_is_sent_and_acknowledged_once(
    sqlite_ledger: Ledger, tmp_path: Path, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    run = with_results(bench)
    done = deliver(bench, run, "hl7")
    assert (done.state, done.sent, done.total) == (DeliveryState.DELIVERED, 1, 1)
    (message,) = messages(ris)
    assert (done.control_id or "?").encode() in message.split(b"\r")[0]
    assert run.study_uid.encode() in message


@pytest.mark.parametrize("answer", ["none", "close", "garbage", "wrong_id", "AE"])
def test_a_repetition_has_the_very_same_bytes(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, ris: RisSimulator, answer: str
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    run = with_results(bench)
    ris.switches.set(answer=answer)
    assert deliver(bench, run, "hl7").state is DeliveryState.RETRYING
    bench.api.findings_by_command["smarturgences"] = [UnknownStudy("gone since")]
    ris.switches.set(answer="AA")
    assert later(bench, clock, run, "hl7").state is DeliveryState.DELIVERED
    first, second = messages(ris)
    assert first == second


def test_a_refusal_is_quarantined_at_once(sqlite_ledger: Ledger, tmp_path: Path, ris: RisSimulator):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    run = with_results(bench)
    ris.switches.set(answer="AR", text="unknown receiving facility")
    ended = deliver(bench, run, "hl7")
    assert ended.state is DeliveryState.QUARANTINED
    assert "unknown receiving facility" in (ended.error or "")


@pytest.mark.parametrize("answer", [UnknownStudy("404"), CommandForbidden("no licence")])
def test_without_findings_the_message_goes_all_the_same(
    sqlite_ledger: Ledger, tmp_path: Path, ris: RisSimulator, answer: Exception
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [answer])
    assert deliver(bench, with_results(bench), "hl7").state is DeliveryState.DELIVERED
    assert len(messages(ris)) == 1


def test_findings_that_run_are_waited_for_so_long_and_no_longer(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [NotReady("running")])
    run, began = with_results(bench), clock()
    found = deliver(bench, run, "hl7")
    assert found.waiting_for == "the AI's JSON results"
    assert messages(ris) == []
    while not found.state.is_terminal:
        found = later(bench, clock, run, "hl7")
    assert found.state is DeliveryState.DELIVERED
    assert 600 <= clock() - began < 640
    assert len(messages(ris)) == 1


def test_a_silent_core_holds_up_its_own_message_and_no_other(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    bench.ports = dataclasses.replace(bench.ports, asides=Asides(patience_s=0.2))
    let_go, ask, asked = threading.Event(), bench.api.findings, list[str]()

    def silent(study_uid: str, command: str, language: str | None = None) -> Any:
        asked.append(study_uid)
        assert let_go.wait(60)
        return ask(study_uid, command, language)

    bench.api.findings = silent  # type: ignore[method-assign]
    runs = [with_results(bench)]
    clock.tick(1)
    runs.append(with_results(bench, token="t2"))
    for run in runs:
        waiting = deliver(bench, run, "hl7")
        assert (waiting.state, waiting.error) == (DeliveryState.PENDING, None)
        assert waiting.waiting_for == "the AI's JSON results"
    assert asked == [runs[0].study_uid]  # the second did not wait for it at all
    let_go.set()
    for run in runs:
        wait_until(
            lambda run=run: later(bench, clock, run, "hl7").state is DeliveryState.DELIVERED  # type: ignore[misc]
        )
    assert asked == [run.study_uid for run in runs]
    assert len(messages(ris)) == 2


def test_waiting_for_findings_does_not_use_up_the_tries_at_the_ris(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [*[NotReady("running")] * 25, findings()])
    run = with_results(bench)
    ris.switches.set(answer="AE")
    for _ in range(26):
        found = later(bench, clock, run, "hl7")
    assert (found.state, found.attempts) == (DeliveryState.RETRYING, 1)


def test_a_worker_that_died_after_sending_repeats_the_same_message(
    sqlite_ledger: Ledger, tmp_path: Path, clock: Clock, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    run = with_results(bench)
    dead = sqlite_ledger.deliveries.claim(f"{run.id}:hl7", "dead", 10)
    assert dead is not None
    send_message(dead, bench.ports)
    clock.tick(11)
    assert deliver(bench, run, "hl7").state is DeliveryState.DELIVERED
    first, second = messages(ris)
    assert first == second


def test_a_message_cancelled_while_it_is_made_is_not_sent(
    sqlite_ledger: Ledger, tmp_path: Path, ris: RisSimulator
):
    bench = hl7_bench(tmp_path, sqlite_ledger, ris.port, [findings()])
    run = with_results(bench)
    ask = bench.api.findings

    def cancelled_meanwhile(study_uid: str, command: str, language: str | None = None) -> Any:
        sqlite_ledger.runs.cancel(run.id, "replaced by a relaunch")
        return ask(study_uid, command, language)

    bench.api.findings = cancelled_meanwhile  # type: ignore[method-assign]
    assert deliver(bench, run, "hl7").state is DeliveryState.SKIPPED
    assert messages(ris) == []

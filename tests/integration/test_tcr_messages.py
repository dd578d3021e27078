"""TechCare reports in the messages, and a provider's core, from the settings to the RIS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import guard, wiring
from pacsor_tasks.ledger import Ledger, migrate
from pacsor_tasks.models import DeliveryState, Run, RunState, Step
from pacsor_tasks.ports import TECHCARE, Ports
from pacsor_tasks.settings import load
from pacsor_tasks.steps.cleanup import cleanup
from pacsor_tasks.steps.download import download
from pacsor_tasks.steps.fan_out import fan_out
from pacsor_tasks.steps.filter import filter_instances
from pacsor_tasks.steps.hl7 import send_message
from pacsor_tasks.steps.ingest import ingest_token
from pacsor_tasks.steps.poll import poll
from pacsor_tasks.steps.upload import upload
from simulators.milvue import MilvueSimulator
from simulators.ris import RisSimulator
from simulators.tcr import TcrSimulator
from tests.conftest import Clock
from tests.support.ledgers import existing
from tests.support.net import free_port
from tests.support.studies import make_study, study_uid_of
from tests.unit.test_tcr_reports import TEXT

STEPS: dict[Step, Any] = {
    Step.FILTER: filter_instances, Step.UPLOAD: upload, Step.POLL: poll,
    Step.DOWNLOAD: download, Step.FAN_OUT: fan_out,
}  # fmt: skip
ABOUT_FINDINGS, ABOUT_REPORT = "SmartUrgences", "CONCLUSION^Conclusion^LN"


class Gateway:
    """Ports from settings, with a clock that a test moves; steps are done by hand."""

    def __init__(self, directory: Path, clock: Clock, **environment: str) -> None:
        self.clock = clock
        settings = load(
            {
                "API_URL": "http://127.0.0.1:9", "TOKEN": "key", "SIGNED_URL": "false",
                "INFERENCE_COMMANDS": "smarturgences", "DESTINATIONS": "hl7",
                "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
                "RIS_HOST_IP": "127.0.0.1", "TECHCARE_REPORT_FORMAT": "PLAIN",
                "DATA_DIR": str(directory / "data"), "BROKER_URL": "redis://127.0.0.1:9/0",
                **environment,
            },
            None,
        )  # fmt: skip
        settings.DATA_DIR.mkdir()
        migrate(settings.ledger_url)
        self.ports: Ports = wiring.build(settings)
        self.ledger: Ledger = self.ports.ledger
        for part in vars(self.ledger).values():
            if hasattr(part, "clock"):
                part.clock = clock
        self.ledger.clock = clock
        self._directory = directory

    def received(self) -> Run:
        """A study's first run."""
        files = make_study(self._directory / "study", 2, side=8)
        uid = study_uid_of(files)
        into = self.ports.spool.revision_dir(uid, "t1")
        into.mkdir(parents=True)
        for file in files:
            file.rename(into / file.name)
        (run_id,) = ingest_token(uid, "t1", self.ports)
        return existing(self.ledger, run_id)

    def do(self, run: Run) -> Run:
        """One try of the run's step."""
        action = STEPS[run.step]
        guard.run_step(
            self.ledger, self.ports.retry, run.id, run.step, lambda r: action(r, self.ports)
        )
        return existing(self.ledger, run.id)

    def brought_to(self, run: Run, step: Step) -> Run:
        """The run when it has come to this step."""
        for _ in range(20):
            if run.step is step or run.state.is_terminal:
                break
            self.clock.now = max(self.clock.now, run.due_at or 0)
            run = self.do(run)
        assert run.step is step, (run.state, run.error, run.waiting_for)
        return run

    def deliver(self, run: Run) -> tuple[DeliveryState, str]:
        """One try of the message when it is due; its state, and what it says."""
        delivery_id, ledger, ports = f"{run.id}:hl7", self.ledger, self.ports
        before = ledger.deliveries.get(delivery_id)
        assert before is not None
        self.clock.now = max(self.clock.now, before.due_at or 0)
        guard.deliver(ledger, ports.retry, delivery_id, lambda d: send_message(d, ports))
        now = ledger.deliveries.get(delivery_id)
        assert now is not None
        return now.state, now.waiting_for or now.error or ""

    def close(self) -> None:
        """Close the connections."""
        self.ports.mllp.close()
        for core in self.ports.cores.values():
            core.client.close()
            if core.reports is not None:
                core.reports.close()
        self.ledger.close()


class World:
    """A gateway's peers."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory, self.clock = directory, clock
        self.ai = MilvueSimulator(token="key", running_times=0).start()
        self.tcr = TcrSimulator(token=("key", "mine"), pubsub_port=None, known_only=True).start()
        self.ris = RisSimulator().start()
        self.gateways: list[Gateway] = []

    def gateway(self, **environment: str) -> Gateway:
        """One that talks to them."""
        given = {
            "API_URL": self.ai.url, "RIS_HOST_PORT": str(self.ris.port),
            "TCR_API_URL": self.tcr.url, "INCLUDE_REPORT": "true", **environment,
        }  # fmt: skip
        made = Gateway(self.directory, self.clock, **given)
        self.gateways.append(made)
        return made

    @property
    def sent(self) -> str:
        """The one message the RIS got."""
        (message,) = self.ris.messages
        return message.decode()

    def stop(self) -> None:
        """End everything."""
        for gateway in self.gateways:
            gateway.close()
        for server in (self.ai, self.tcr, self.ris):
            server.stop()


@pytest.fixture
def world(tmp_path: Path, clock: Clock) -> Iterator[World]:
    """An AI, TechCare Report and a RIS."""
    made = World(tmp_path, clock)
    yield made
    made.stop()


def delivered(gateway: Gateway, run: Run) -> None:
    assert gateway.deliver(run)[0] is DeliveryState.DELIVERED


def test_a_message_carries_the_report_beside_the_findings(world: World):
    gateway = world.gateway()
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    world.tcr.reports[run.study_uid] = {"report": TEXT}
    delivered(gateway, run)
    assert ABOUT_FINDINGS in world.sent
    assert "Nothing to see \\F\\ here." in world.sent
    assert world.sent.index(ABOUT_FINDINGS) < world.sent.index(ABOUT_REPORT)


def test_without_the_switch_nothing_is_asked_of_techcare(world: World):
    gateway = world.gateway(INCLUDE_REPORT="false")
    delivered(gateway, gateway.brought_to(gateway.received(), Step.DELIVER))
    assert ABOUT_REPORT not in world.sent
    assert world.tcr.journal.events("report") == []


def test_a_study_unknown_to_the_milvue_suite_still_sends_its_report(world: World):
    gateway = world.gateway()
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    world.ai.switches.set(fault=404, operation="findings")
    world.tcr.reports[run.study_uid] = {"report": TEXT}
    delivered(gateway, run)
    assert ABOUT_FINDINGS not in world.sent
    assert ABOUT_REPORT in world.sent


def test_a_report_that_is_being_written_is_waited_for(world: World):
    gateway = world.gateway()
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    world.tcr.reports[run.study_uid] = {"report": TEXT}
    world.tcr.switches.set(status="running")
    for _ in range(3):
        state, said = gateway.deliver(run)
        assert (state, said) == (DeliveryState.PENDING, "the AI's JSON results")
    world.tcr.switches.set(status="done")
    delivered(gateway, run)
    assert ABOUT_REPORT in world.sent


@pytest.mark.parametrize(
    ("switches", "longest_s"),
    [({"status": "running"}, 600), ({"known_only": True}, 60)],
)
def test_a_report_that_does_not_come_is_not_waited_for_too_long(
    world: World, clock: Clock, switches: dict[str, Any], longest_s: float
):
    gateway = world.gateway()
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    if "status" in switches:
        world.tcr.reports[run.study_uid] = {"report": TEXT}
    world.tcr.switches.set(**switches)
    since = clock.now
    while gateway.deliver(run)[0] is DeliveryState.PENDING:
        assert clock.now - since < longest_s
    assert clock.now - since >= longest_s
    assert ABOUT_REPORT not in world.sent
    assert ABOUT_FINDINGS in world.sent


def test_an_api_that_is_away_is_not_held_against_the_ris_and_the_message_waits(world: World):
    gateway = world.gateway(TCR_API_URL=f"http://127.0.0.1:{free_port()}")
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    state, said = gateway.deliver(run)
    assert state is DeliveryState.RETRYING
    assert "report of" in said
    assert world.ris.messages == []
    peers = gateway.ledger.peers.all()
    assert [str(peer) for peer, found in peers.items() if found.strikes] == [str(TECHCARE)]
    with pytest.raises(Exception, match="report of"):
        gateway.ports.probes[TECHCARE]()


def test_a_refused_token_is_shown_and_the_message_held(world: World):
    gateway = world.gateway()
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    world.tcr.switches.set(fault=403)
    state, said = gateway.deliver(run)
    assert state is DeliveryState.QUARANTINED
    assert "check TOKEN" in said


def test_html_stands_in_the_message_without_indentation(world: World):
    import base64

    gateway = world.gateway(TECHCARE_REPORT_FORMAT="HTML")
    run = gateway.brought_to(gateway.received(), Step.DELIVER)
    html = "<ul>\n      <li>No <b>fracture</b>.</li>\n    </ul>"
    world.tcr.reports[run.study_uid] = {"format": "html", "report": {"results": html}}
    delivered(gateway, run)
    line = next(s for s in world.sent.split("\r") if "CRHTML" in s)
    page = base64.b64decode(line.split("^Base64^")[1].split("|")[0]).decode()
    assert "<ul>\n<li>No <b>fracture</b>.</li>\n</ul>" in page


def tcr_core(world: World, **more: str) -> Gateway:
    return world.gateway(
        **{
            "CORE_TYPE": "tcr", "PROVIDER_TOKEN": "mine", "ORGANIZATION_ID": "site-7",
            "INCLUDE_REPORT": "false", "DESTINATIONS": "", **more,
        }
    )  # fmt: skip


def test_a_provider_s_study_goes_to_techcare_and_its_report_to_the_ris(world: World):
    gateway = tcr_core(world)
    run = gateway.received()
    run = gateway.brought_to(run, Step.POLL)
    assert len(world.tcr.studies[run.study_uid]) == 2
    world.tcr.switches.set(study_status="running")
    run = gateway.do(run)
    assert run.state is RunState.PREDICTING
    world.tcr.switches.set(study_status="done")
    world.tcr.reports[run.study_uid] = {"report": TEXT}
    run = gateway.brought_to(run, Step.DELIVER)
    assert [d.destination for d in gateway.ledger.deliveries.of_run(run.id)] == ["hl7"]
    delivered(gateway, run)
    assert ABOUT_REPORT in world.sent
    assert ABOUT_FINDINGS not in world.sent
    tokens = {e["token"] for e in world.tcr.journal.events() if "token" in e}
    assert tokens == {"mine"}
    assert world.ai.journal.events() == []
    run = existing(gateway.ledger, run.id)
    assert run.step is Step.CLEANUP
    guard.run_step(
        gateway.ledger, gateway.ports.retry, run.id, run.step, lambda r: cleanup(r, gateway.ports)
    )
    assert existing(gateway.ledger, run.id).state is RunState.DONE


def test_a_core_of_each_type_can_stand_side_by_side(world: World):
    gateway = world.gateway(
        ADDITIONAL_CORES="core1", CORE_TYPE_1="tcr", PROVIDER_TOKEN_1="mine",
        ORGANIZATION_ID_1="site-7",
    )  # fmt: skip
    cores = gateway.ports.cores
    assert (cores["core"].is_reporting, cores["core1"].is_reporting) == (False, True)
    assert cores["core"].findings is not None
    assert cores["core1"].findings is None
    for core in cores.values():
        core.client.check()

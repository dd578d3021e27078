"""The operator's verbs on the command line, over a real ledger."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.errors import Conflict, NotFound, PacsorError
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import DeliveryState, RunState, Step
from tests.support.ledger_seed import PACS, PACS_2, RIS, Clock, Seed, new_ledger

UID = "1.2.3"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger of a gateway with two PACS, that `pacsor` finds too."""
    for name, value in {
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x", "PACS_IP": "127.0.0.1", "PACS_PORT": "104",
        "PACS_AET": "PACS", "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": "104", "PACS_AET_2": "PACS2",
        "DESTINATIONS": "storescu,storescu-2", "DATA_DIR": str(tmp_path),
        "BROKER_URL": "redis://127.0.0.1:9/0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    made = new_ledger(tmp_path, Clock())
    yield made
    made.close()


@pytest.fixture
def run(ledger: Ledger) -> str:
    """A run whose one delivery is quarantined."""
    (run_id,) = Seed(ledger).receive(UID, destinations=(PACS,))
    Seed(ledger).bring_to(run_id, Step.DELIVER, 0)
    Seed(ledger).end(run_id, "storescu", DeliveryState.QUARANTINED, "0xC000")
    return run_id


def pacsor(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=input)


def said(ledger: Ledger) -> tuple[str, str, str]:
    detail = ledger.studies.detail(UID)
    assert detail is not None
    last = detail["events"][-1]
    return last["kind"], last["message"], last["by"]


@pytest.mark.parametrize("by_study", [True, False])
def test_a_quarantined_delivery_is_retried_by_study_or_run(
    ledger: Ledger, run: str, by_study: bool
) -> None:
    result = pacsor("retry", UID if by_study else run, "storescu")
    assert result.output == f"run {run} (core) is tried again now\n"
    assert said(ledger) == ("operator.retried", "retried now", getpass.getuser())
    assert pacsor("retry", UID, "hl7").exception.__class__ is NotFound


def test_a_delivery_is_skipped_for_a_reason_only(ledger: Ledger, run: str) -> None:
    assert pacsor("skip", UID, "storescu").exit_code == 2
    assert "goes on without storescu" in pacsor("skip", UID, "storescu", "--reason", "sold").output
    assert said(ledger) == ("delivery.skipped", "skipped: sold", getpass.getuser())
    assert isinstance(pacsor("skip", UID, "storescu", "--reason", "sold").exception, Conflict)


def test_a_delivery_is_rerouted(ledger: Ledger, run: str) -> None:
    result = pacsor("reroute", UID, "storescu", "--to", "storescu-2")
    assert "goes to storescu-2 instead of storescu" in result.output
    new = ledger.deliveries.get(f"{run}:storescu-2")
    assert new is not None
    assert new.state is DeliveryState.PENDING
    assert isinstance(pacsor("reroute", UID, "storescu", "--to", "pacs9").exception, NotFound)


def test_a_run_is_cancelled_once_it_was_asked_for_twice(ledger: Ledger) -> None:
    (run_id,) = Seed(ledger).receive(UID, destinations=(PACS,))
    assert pacsor("cancel", UID, input="n\n").exit_code == 1
    assert pacsor("cancel", UID, "--yes").output == f"run {run_id} (core) is cancelled\n"
    now = ledger.runs.get(run_id)
    assert now is not None
    assert now.state is RunState.CANCELLED


def test_of_several_cores_each_is_acted_on_or_the_one_named(ledger: Ledger) -> None:
    Seed(ledger).receive(UID, cores=("core", "core1"), destinations=(PACS_2, RIS))
    one = pacsor("skip", UID, "storescu-2", "--reason", "sold", "--core", "core1")
    assert one.output.count("goes on without") == 1
    rest = pacsor("skip", UID, "storescu-2", "--reason", "sold")
    assert rest.exit_code == 0
    assert "(core) goes on without" in rest.output
    assert "(core1): the delivery to storescu-2 is skipped already" in rest.output


def test_a_destination_is_paused_listed_and_resumed(ledger: Ledger) -> None:
    assert pacsor("pause", "storescu", "--reason", "moving").output == (
        "destination storescu is paused\n"
    )
    listed = {p["name"]: p for p in json.loads(pacsor("peers", "--json").output)}
    assert (listed["storescu"]["state"], listed["storescu"]["reason"]) == ("paused", "moving")
    assert "moving" in pacsor("peers").output
    assert pacsor("resume", "storescu").exit_code == 0
    assert isinstance(pacsor("resume", "storescu").exception, Conflict)
    assert isinstance(pacsor("pause", "nowhere").exception, NotFound)
    assert pacsor("pause", "core").output == "core core is paused\n"


def test_where_no_gateway_has_run_nothing_is_made(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "elsewhere"))
    assert isinstance(pacsor("peers").exception, PacsorError)
    assert not (tmp_path / "elsewhere").exists()

"""`pacsor relaunch` of one study and of many, over a real ledger; the broker is away."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.errors import ConfigError, Conflict, NotFound
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import DeliveryState, Step
from tests.support.ledger_seed import PACS, Clock, Seed, new_ledger

DONE, FAILED = "1.2.3", "1.2.4"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A study that is done, and one whose PACS refused it."""
    for name, value in {
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x", "PACS_IP": "127.0.0.1", "PACS_PORT": "104",
        "PACS_AET": "PACS", "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": "104", "PACS_AET_2": "PACS2",
        "DESTINATIONS": "storescu,storescu-2", "DATA_DIR": str(tmp_path),
        "BROKER_URL": "redis://127.0.0.1:9/0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    made = new_ledger(tmp_path, Clock())
    seed = Seed(made)
    seed.done(DONE)
    (run_id,) = seed.receive(FAILED, destinations=(PACS,))
    seed.bring_to(run_id, Step.DELIVER, 0)
    seed.end(run_id, "storescu", DeliveryState.QUARANTINED, "0xC000")
    yield made
    made.close()


def pacsor(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, ("relaunch", *arguments), input=input)


def steps(ledger: Ledger, uid: str) -> list[tuple[str, str | None]]:
    """Where the relaunched runs of a study began, and for whom, the newest first."""
    detail = ledger.studies.detail(uid)
    assert detail is not None
    return [(r["from"], r["only"]) for r in detail["runs"] if r["relaunched"]]


def test_one_study_is_relaunched_and_its_runs_are_told(ledger: Ledger) -> None:
    result = pacsor(DONE)
    (run_id,) = result.output.split()
    run = ledger.runs.get(run_id)
    assert run is not None
    assert run.step is Step.FILTER
    detail = ledger.studies.detail(DONE)
    assert detail is not None
    assert detail["events"][-1]["by"] == getpass.getuser()


def test_from_a_step_and_for_one_destination(ledger: Ledger) -> None:
    assert pacsor(DONE, "--from", "poll").exit_code == 0
    assert pacsor(FAILED, "--only", "storescu").exit_code == 0
    assert steps(ledger, DONE) == [("poll", None)]
    assert steps(ledger, FAILED) == [("deliver", "storescu")]  # it had no results to hold
    assert pacsor(DONE, "--from", "cleanup").exit_code == 2
    refused = pacsor(DONE, "--from", "deliver", "--core", "core").exception
    assert isinstance(refused, Conflict)
    assert "from download would do" in str(refused)
    assert isinstance(pacsor(DONE, "--only", "storescu-9").exception, NotFound)
    assert isinstance(pacsor("9.9").exception, NotFound)


def test_several_studies_by_name(ledger: Ledger) -> None:
    result = pacsor(DONE, FAILED)
    assert result.exit_code == 0
    assert len(result.stdout.split()) == 2
    assert "2 studies are relaunched" in result.stderr
    assert isinstance(pacsor(DONE, "9.9").exception, NotFound)


def test_a_dry_run_lists_and_does_nothing(ledger: Ledger) -> None:
    result = pacsor("--state", "failed", "--only", "storescu-2", "--dry-run")
    assert FAILED in result.stdout
    assert DONE not in result.stdout
    assert "core from deliver to storescu-2" in " ".join(result.stdout.split())
    assert "1 study would be relaunched" in result.stderr
    assert steps(ledger, FAILED) == []
    (shown,) = json.loads(pacsor("--state", "failed", "--dry-run", "--json").stdout)
    assert shown["study_instance_uid"] == FAILED
    assert shown["runs"] == [
        {"core": "core", "from": "filter", "destinations": ["storescu", "storescu-2"]}
    ]


def test_many_are_relaunched_once_it_was_asked_for_twice(ledger: Ledger) -> None:
    choice = ("--state", "quarantined", "--destination", "storescu", "--from", "poll")
    refused = pacsor(*choice, input="n\n")
    assert (refused.exit_code, FAILED in refused.stderr) == (1, True)
    assert steps(ledger, FAILED) == []
    done = pacsor(*choice, input="y\n")
    assert (done.exit_code, len(done.stdout.split())) == (0, 1)
    assert steps(ledger, FAILED) == [("poll", None)]
    assert steps(ledger, DONE) == []


def test_what_is_gone_is_told_and_stops_no_other(ledger: Ledger) -> None:
    for revision in ledger.retention.removable(-1):
        assert ledger.retention.removed(revision)  # the done one's
    result = pacsor("--since", "2020-01-01", "--until", "2100-01-01T12:00", "--yes")
    assert result.exit_code == 1
    assert f"study {DONE}: its instances are no longer held" in result.stderr
    assert "1 study is relaunched, 1 cannot be" in result.stderr
    assert steps(ledger, FAILED) == [("filter", None)]
    assert isinstance(pacsor("--state", "done", "--yes").exception, Conflict)


def test_a_choice_that_is_none_is_refused(ledger: Ledger) -> None:
    assert isinstance(pacsor().exception, Conflict)
    assert isinstance(pacsor("--since", "yesterday").exception, ConfigError)
    refused = pacsor("--core", "core", "--limit", "1", "--yes").exception
    assert isinstance(refused, Conflict)
    assert "more than 1 studies" in str(refused)


def test_studies_are_listed_by_the_states_that_the_pages_show(ledger: Ledger) -> None:
    listed = CliRunner().invoke(cli, ("status", "--state", "failed", "--json"))
    assert [s["study_instance_uid"] for s in json.loads(listed.stdout)["studies"]] == [FAILED]
    shown = CliRunner().invoke(cli, ("status", FAILED))
    assert pacsor(FAILED, "--only", "storescu").exit_code == 0
    assert "relaunched" not in shown.stdout
    shown = CliRunner().invoke(cli, ("status", FAILED))
    assert "relaunched from deliver for storescu only" in shown.stdout


def test_on_which_core_it_is_not_relaunched_is_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDITIONAL_CORES", "core1")
    monkeypatch.setenv("API_URL_1", "http://127.0.0.1:9")
    monkeypatch.setenv("TOKEN_1", "y")
    told = f"pacsor: study {DONE}: not on core1: a relaunch on core1 cannot begin at poll"
    one = pacsor(DONE, "--from", "poll")
    assert (one.exit_code, len(one.stdout.split())) == (1, 1)
    assert told in one.stderr
    many = pacsor(DONE, FAILED, "--from", "poll")
    assert (many.exit_code, len(many.stdout.split())) == (1, 2)
    assert told in many.stderr
    listed = pacsor("--since", "2020-01-01", "--from", "poll", "--dry-run")
    assert "not on core1: a relaunch on core1" in " ".join(listed.stdout.split())
    by_core = pacsor(DONE, "--from", "poll", "--core", "core")
    assert (by_core.exit_code, by_core.stderr) == (0, "")

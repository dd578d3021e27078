"""`pacsor hl7`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli.hl7 import hl7
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.settings import Settings
from simulators.ris import RisSimulator


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with settings of its own in the environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
    values = {
        "API_URL": "http://x", "TOKEN": "k", "DESTINATIONS": "hl7", "RIS_HOST_IP": "192.0.2.2",
        "RIS_HOST_PORT": "2575", "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
        "DATA_DIR": str(tmp_path / "data"), "HL7_CONF_DIR": str(tmp_path / "conf"),
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    with RisSimulator() as server:
        yield server


def run(*arguments: str) -> Result:
    return CliRunner().invoke(hl7, arguments)


def test_the_example_is_shown_readable_and_raw(site: Path) -> None:
    shown = run("preview", "--example", "--format", "plain").output
    assert "patient name" in shown
    assert "EXAMPLE^Zoé" in shown
    assert "OBX||TX|RESULTS^Results^LN||" in shown


def test_raw_is_the_message_alone(site: Path) -> None:
    raw = run("preview", "--example", "--raw").stdout_bytes
    assert raw.startswith(b"MSH|^~\\&|MILVUE_GATEWAY|MILVUE|RIS|SITE|")
    assert raw.endswith(b"||||||F\r")
    assert b"\n" not in raw


def test_the_example_without_settings_reads_none(
    site: Path, monkeypatch: pytest.MonkeyPatch, ris: RisSimulator
) -> None:
    for name in ("API_URL", "TOKEN", "DESTINATIONS", "RECEIVING_APPLICATION"):
        monkeypatch.delenv(name)
    assert isinstance(run("preview", "--example").exception, PacsorError)
    shown = run("preview", "--example", "--defaults", "--raw")
    assert shown.stdout_bytes.startswith(b"MSH|^~\\&|MILVUE_GATEWAY|MILVUE|RIS|SITE|")
    assert run("preview", "1.2.3", "--defaults").exit_code == 2
    sent = run("send-example", f"127.0.0.1:{ris.port}", "--defaults")
    assert sent.exit_code == 0, sent.output
    assert len(ris.messages) == 1


def test_one_of_the_two_has_to_be_asked_for(site: Path) -> None:
    assert run("preview").exit_code == 2
    assert run("preview", "1.2.3", "--example").exit_code == 2


def test_a_destination_that_is_none_is_named(site: Path) -> None:
    result = run("preview", "--example", "--destination", "hl7-9")
    assert isinstance(result.exception, PacsorError)
    assert "hl7-9 is not among the destinations" in str(result.exception)


def test_the_example_is_sent_as_a_test_and_the_answer_told(site: Path, ris: RisSimulator) -> None:
    result = run("send-example", f"127.0.0.1:{ris.port}")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("AA (message GW")
    (message,) = ris.messages
    assert message.split(b"\r")[0].split(b"|")[10] == b"T"
    ris.switches.set(answer="AR", text="unknown facility")
    refused = run("send-example", f"127.0.0.1:{ris.port}")
    assert refused.exit_code == 1
    assert "AR: unknown facility" in str(refused.exception)


@pytest.mark.parametrize("address", ["ris", "ris:", ":1", "ris:x", "ris:0", "ris:70000"])
def test_an_address_is_a_host_and_a_port(site: Path, address: str) -> None:
    assert run("send-example", address).exit_code == 2


def test_a_configuration_is_loaded_shown_and_put_away(site: Path) -> None:
    (site / "conf" / "other.json").write_text('{"REC_APP": "OTHER"}')
    assert run("load", "other").output == "loaded other: RECEIVING_APPLICATION\n"
    assert json.loads(run("load").output)["loaded"]["name"] == "other"
    assert b"|OTHER|SITE|" in run("preview", "--example", "--raw").stdout_bytes
    assert run("load", "--unload").output == "unloaded\n"
    assert run("load", "--unload").output == "nothing was loaded\n"
    assert b"|RIS|SITE|" in run("preview", "--example", "--raw").stdout_bytes

"""The simulators as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.dcmtk import start_storescu
from tests.support.net import wait_until
from tests.support.simulators import Mllp
from tests.support.studies import make_study


@contextmanager
def process(kind: str, folder: Path, *options: str) -> Iterator[dict[str, Any]]:
    """A simulator's address; it must end well on SIGTERM."""
    port_file, journal = folder / "port", folder / "journal.jsonl"
    command = [sys.executable, "-m", "simulators", kind]
    common = ["--port-file", str(port_file), "--journal", str(journal)]
    with subprocess.Popen(
        [*command, *common, *options], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            wait_until(lambda: port_file.exists() or running.poll() is not None)
            assert running.stdout is not None
            address: dict[str, Any] = json.loads(running.stdout.readline())
            assert int(port_file.read_text()) == address["port"]
            yield address | {"journal": journal}
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=10) == 0


def kinds(journal: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in journal.read_text().splitlines()]


def test_milvue(tmp_path: Path) -> None:
    switches = tmp_path / "switches.json"
    options = (
        "--token",
        "a key",
        "--set",
        "version=9.9",
        "--set",
        "fault=500",
        "--switches",
        str(switches),
    )
    with process("milvue", tmp_path, *options) as address:
        url = f"{address['url']}/v3/studies/1.2/status"
        good = {"x-goog-meta-owner": "a key"}
        assert requests.get(url, timeout=10).status_code == 403
        assert requests.get(url, headers=good, timeout=10).status_code == 500
        switches.write_text('{"fault": 503}')
        assert requests.get(url, headers=good, timeout=10).status_code == 503
        assert kinds(address["journal"]) == ["refused", "status", "status"]
        shown = requests.get(f"{address['url']}/_simulator/switches", timeout=10).json()
        assert shown["values"]["fault"] == 503


def test_pacs(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with process("pacs", tmp_path, "--folder", str(kept), "--set", "status=0xB007") as address:
        sender = start_storescu(address["port"], *make_study(tmp_path / "study", 1))
        sender.communicate(timeout=30)
        assert kinds(address["journal"]) == ["association", "store"]
    assert len(list(kept.glob("*.dcm"))) == 1  # a folder that was given stays


def test_ris(tmp_path: Path) -> None:
    with process("ris", tmp_path, "--answer", "CA") as address, Mllp(address["port"]) as client:
        client.send(b"MSH|^~\\&|A|B|C|D|||ORU^R01|X1|P|2.5.1\r")
        assert b"MSA|CA|X1" in client.read()
        assert kinds(address["journal"]) == ["connected", "message"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["milvue", "--set", "nonsense=1"], "nonsense"),
        (["pacs", "--set", "status"], "NAME=VALUE"),
        (["ris", "--answer", "maybe"], "answer"),
        (["ris", "--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_a_mistake_is_named_and_nothing_starts(options: list[str], named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simulators", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr

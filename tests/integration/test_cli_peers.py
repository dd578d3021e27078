"""`pacsor check` and `pacsor send` against peers that answer, well and badly."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.support.gateway import FILTER_CFG, PACSOR
from tests.support.net import free_port
from tests.support.radiographs import radiographs
from tests.support.redis_server import redis_server


def pacsor(directory: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(directory / "data"), **settings}
    return subprocess.run(
        [PACSOR, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def site(api: str, pacs: int, ris: int) -> dict[str, str]:
    return {
        "API_URL": api, "TOKEN": "right", "DESTINATIONS": "storescu,hl7",
        "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs), "PACS_AET": "PACS",
        "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris),
        "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "H", "FILTER_CFG": str(FILTER_CFG),
        "PORT": str(free_port()), "ADMIN_PORT": str(free_port()), "FLOWER_PORT": str(free_port()),
    }  # fmt: skip


def test_check_is_content_when_every_peer_answers_and_makes_nothing(tmp_path: Path) -> None:
    with MilvueSimulator(token="right") as api, PacsSimulator() as pacs, RisSimulator() as ris:
        settings = site(api.url, pacs.port, ris.port)
        done = pacsor(tmp_path, "check", **settings)
        wrong = pacsor(tmp_path, "check", **settings | {"TOKEN": "wrong"})
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "all well"
    assert list(tmp_path.iterdir()) == []
    assert wrong.returncode == 1
    assert "1 problem" in wrong.stdout
    (line,) = (line for line in wrong.stdout.splitlines() if "PROBLEM" in line)
    assert "API core" in line
    assert "see API_URL" in line


def test_check_names_each_thing_that_is_wrong(tmp_path: Path) -> None:
    with redis_server(tmp_path) as broker:
        with broker.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        settings = site("http://127.0.0.1:9", 9, 9) | {
            "BROKER_URL": broker.url,
            "FILTER_CFG": str(tmp_path / "none.cfg"),
            "LEDGER_URL": "postgresql+psycopg://nobody@127.0.0.1:9/none",
        }
        done = pacsor(tmp_path, "check", **settings)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert done.returncode == 1
    assert [line[9:25].strip() for line in wrong] == [
        "filter.cfg", "broker", "ledger", "API core", "PACS storescu", "RIS hl7",
    ]  # fmt: skip
    assert "maxmemory-policy is allkeys-lru, set noeviction" in wrong[1]
    assert "Traceback" not in done.stderr


def test_check_counts_a_foreign_program_on_a_port_as_a_problem(tmp_path: Path) -> None:
    with RisSimulator() as foreign, PacsSimulator() as pacs:
        settings = site("http://127.0.0.1:9", pacs.port, foreign.port)
        done = pacsor(tmp_path, "check", **settings | {"ADMIN_PORT": str(foreign.port)})
    (line,) = (line for line in done.stdout.splitlines() if "ADMIN_PORT" in line)
    assert line.startswith("PROBLEM")
    assert "not by this gateway" in line


def test_send_tells_what_was_refused_and_fails(tmp_path: Path) -> None:
    one, two = radiographs()
    with PacsSimulator(status=0xA900) as pacs:
        node = f"PACS@127.0.0.1:{pacs.port}"
        done = pacsor(tmp_path, "send", str(one), str(two), "--to", node)
    assert done.returncode == 1
    assert done.stderr.count("not stored: ") == 2
    assert f"{one}: 0xA900" in done.stderr
    assert done.stdout.startswith(f"0 instances of 0 studies to {node}")


def test_send_to_nobody_says_so(tmp_path: Path) -> None:
    done = pacsor(tmp_path, "send", str(radiographs()[0]), "--to", "PACS@127.0.0.1:9")
    assert done.returncode == 1
    assert "stopped: PACS (127.0.0.1:9): no TCP connection" in done.stderr


@pytest.mark.parametrize("arguments", [("config",), ("config", "--json")])
def test_config_prints_no_secret(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    secrets = {
        "TOKEN": "s3cret-1", "ADMIN_TOKEN": "s3cret-2", "FLOWER_BASIC_AUTH": "me:s3cret-3",
        "BROKER_URL": "redis://:s3cret-4@127.0.0.1:1/0", "TOKEN_1": "s3cret-5",
        "LEDGER_URL": "postgresql+psycopg://u:s3cret-6@db/x", "ADDITIONAL_CORES": "core1",
        "API_URL_1": "http://127.0.0.1:9",
    }  # fmt: skip
    done = pacsor(tmp_path, *arguments, **site("http://127.0.0.1:9", 9, 9) | secrets)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "environment" in done.stdout
    assert "API_URL_1" in done.stdout


def test_status_where_no_gateway_ever_ran_makes_nothing(tmp_path: Path) -> None:
    settings = site("http://127.0.0.1:9", 9, 9)
    for arguments in (("status",), ("relaunch", "1.2.3")):
        done = pacsor(tmp_path, *arguments, **settings)
        assert done.returncode == 1
        assert "no gateway has run there" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""A silent and a dead PACS beside a living one: a whole gateway, and what an operator then does."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from tests.support.gateway import Gateway, gateway
from tests.support.net import free_port, wait_until
from tests.support.studies import make_study, study_uid_of

N_STUDIES = 12
SILENT, DEAD, GOOD = "storescu", "storescu-2", "storescu-3"


def send(running: Gateway, root: Path) -> list[str]:
    """Send studies through the receiver; their UIDs."""
    made = [make_study(root / f"s{n}", 1, side=16) for n in range(N_STUDIES)]
    done = running.run("pacsor", "send", *(str(root / f"s{n}") for n in range(N_STUDIES)))
    assert done.returncode == 0, done.stderr
    return [study_uid_of(files) for files in made]


def states(running: Gateway, uids: list[str], destination: str) -> list[str]:
    """States of the studies' deliveries to one destination."""
    found = (running.study(uid) for uid in uids)
    return [
        d["state"]
        for study in found
        if study is not None
        for run in study["runs"]
        for d in run["deliveries"]
        if d["destination"] == destination
    ]


def peer(running: Gateway, name: str) -> dict[str, Any]:
    """A destination as the API shows it."""
    found: dict[str, Any] = next(p for p in running.get("/api/peers") if p["name"] == name)
    return found


def test_a_living_pacs_gets_everything_and_a_dead_one_when_it_is_back(tmp_path: Path) -> None:
    dead = free_port()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=100) as silent,
        MilvueSimulator(token="t") as api,
        PacsSimulator() as good,
    ):
        settings = {
            "API_URL": api.url, "TOKEN": "t", "INFERENCE_COMMANDS": "smarturgences",
            "DESTINATIONS": f"{SILENT},{DEAD},{GOOD}", "PACS_CONNECT_TIMEOUT": "2",
        }  # fmt: skip
        for suffix, port in (("", silent.getsockname()[1]), ("_2", dead), ("_3", good.port)):
            settings |= {
                f"PACS_IP{suffix}": "127.0.0.1", f"PACS_PORT{suffix}": str(port),
                f"PACS_AET{suffix}": f"PACS{suffix}",
            }  # fmt: skip
        with gateway(tmp_path, settings) as running:
            uids = send(running, tmp_path)
            everything = ["delivered"] * N_STUDIES
            wait_until(lambda: states(running, uids, GOOD) == everything, 60, 0.3)
            wait_until(lambda: peer(running, SILENT)["state"] == "open", 60, 0.3)
            wait_until(lambda: peer(running, DEAD)["state"] == "open", 60, 0.3)
            assert peer(running, DEAD)["waiting"] == N_STUDIES

            with PacsSimulator(port=dead) as back:
                wait_until(lambda: states(running, uids, DEAD) == everything, 90, 0.3)
                assert set(back.journal.counts().values()) == {1}

            assert running.run("pacsor", "pause", SILENT).returncode == 0
            for uid in uids:
                skipped = running.run("pacsor", "skip", uid, SILENT, "--reason", "it is sold")
                assert skipped.returncode == 0, skipped.stderr
            assert states(running, uids, SILENT) == ["skipped"] * N_STUDIES
            assert {running.ended(u)["state"] for u in uids} == {"done"}

"""Cores that are away, refuse or misbehave beside one that works: a whole gateway each."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from simulators.milvue import MilvueSimulator
from simulators.pacs import PacsSimulator
from simulators.ris import RisSimulator
from tests.support.gateway import Gateway, gateway
from tests.support.net import free_port, wait_until
from tests.support.packages import add_package
from tests.support.studies import make_study, study_uid_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("core-isolation")]

N_STUDIES = 6
RIS = {"RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE", "RIS_HOST_IP": "127.0.0.1"}
#: A core of a package that does what nobody should.
WILD = """
import sys

class Wild:
    def upload(self, uid, items, on_uploaded, before_put):
        sys.exit("no")
    def status(self, uid): raise KeyError(uid)
    def results(self, uid, command, into, params): return None
    def check(self): raise ZeroDivisionError
    def close(self): raise ValueError

def make(config): return Wild()
"""


def pacs_settings(*ports: int) -> dict[str, str]:
    """`storescu`, `storescu-2`, … on these ports."""
    found: dict[str, str] = {}
    for number, port in enumerate(ports, 1):
        suffix = f"_{number}" if number > 1 else ""
        found |= {
            f"PACS_IP{suffix}": "127.0.0.1", f"PACS_PORT{suffix}": str(port),
            f"PACS_AET{suffix}": f"PACS{suffix}",
        }  # fmt: skip
    return found


def send(running: Gateway, root: Path, n: int = N_STUDIES) -> list[str]:
    """Send studies through the receiver; their UIDs."""
    made = [make_study(root / f"s{i}", 1, side=16) for i in range(n)]
    done = running.run("pacsor", "send", *(str(root / f"s{i}") for i in range(n)))
    assert done.returncode == 0, done.stderr
    return [study_uid_of(files) for files in made]


def runs(running: Gateway, uids: Iterable[str], core: str) -> list[dict[str, Any]]:
    """The studies' runs on a core."""
    studies = (running.study(uid) for uid in uids)
    return [r for study in studies if study for r in study["runs"] if r["core"] == core]


def deliveries(running: Gateway, uids: Iterable[str], core: str, to: str) -> list[str]:
    """States of the deliveries of a core's results to a destination."""
    found = (d for r in runs(running, uids, core) for d in r["deliveries"])
    return [d["state"] for d in found if d["destination"] == to]


def peer(running: Gateway, name: str) -> dict[str, Any]:
    """A core or destination as the API shows it."""
    found: dict[str, Any] = next(p for p in running.get("/api/peers") if p["name"] == name)
    return found


def test_two_cores_and_three_destinations_with_one_of_each_dead(tmp_path: Path) -> None:
    dead_pacs, everything = free_port(), ["delivered"] * N_STUDIES
    with ExitStack() as stack:
        # It takes connections and says nothing: the way of being away that costs most.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        api = stack.enter_context(MilvueSimulator(token="t"))
        pacs = stack.enter_context(PacsSimulator())
        ris = stack.enter_context(RisSimulator())
        settings = {
            "API_URL": api.url, "TOKEN": "t", "INFERENCE_COMMANDS": "smarturgences",
            "ADDITIONAL_CORES": "core1", "TOKEN_1": "t", "INFERENCE_COMMANDS_1": "smartchest",
            "API_URL_1": f"http://127.0.0.1:{silent.getsockname()[1]}", "API_READ_TIMEOUT": "5",
            "DESTINATIONS": "storescu,storescu-2,hl7", **pacs_settings(dead_pacs, pacs.port),
            **RIS, "RIS_HOST_PORT": str(ris.port),
        }  # fmt: skip
        running = stack.enter_context(gateway(tmp_path, settings))
        uids = send(running, tmp_path)
        # The living core's results are everywhere they can be …
        for to in ("storescu-2", "hl7"):
            wait_until(lambda to=to: deliveries(running, uids, "core", to) == everything, 60, 0.3)  # type: ignore[misc]
        # … and of the silent one's studies everybody can read what they wait for.
        assert {r["state"] for r in runs(running, uids, "core1")} <= {"queued", "uploading"}
        wait_until(lambda: peer(running, "storescu")["state"] == "open", 60, 0.3)
        wait_until(lambda: peer(running, "core1")["state"] == "open", 120, 0.5)
        assert all(r["waiting_for"] for r in runs(running, uids, "core1"))

        port = silent.getsockname()[1]
        silent.close()
        stack.enter_context(MilvueSimulator(token="t", port=port))
        for to in ("storescu-2", "hl7"):
            wait_until(lambda to=to: deliveries(running, uids, "core1", to) == everything, 90, 0.3)  # type: ignore[misc]
        back = stack.enter_context(PacsSimulator(port=dead_pacs))
        for core in ("core", "core1"):
            wait_until(
                lambda core=core: deliveries(running, uids, core, "storescu") == everything, 90, 0.3  # type: ignore[misc]
            )  # fmt: skip
        wait_until(
            lambda: {
                r["state"] for c in ("core", "core1") for r in runs(running, uids, c)
            } == {"done"}, 30, 0.3,
        )  # fmt: skip
        assert set(pacs.journal.counts().values()) == {1}
        assert set(back.journal.counts()) == set(pacs.journal.counts())
        assert len(ris.messages) == 2 * N_STUDIES


def test_however_a_core_fails_the_others_work(tmp_path: Path) -> None:
    add_package(tmp_path / "site", "wild", WILD)
    dead = {"core1": "refused", "core2": "500", "core3": "401", "core4": "silent", "core5": "wild"}
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        api = stack.enter_context(MilvueSimulator(token="t"))
        failing = stack.enter_context(MilvueSimulator(token="t", fault=500))
        refusing = stack.enter_context(MilvueSimulator(token="t", fault=401))
        pacs = stack.enter_context(PacsSimulator())
        urls = {
            "1": f"http://127.0.0.1:{free_port()}", "2": failing.url, "3": refusing.url,
            "4": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }  # fmt: skip
        settings = {
            "API_URL": api.url, "TOKEN": "t", "INFERENCE_COMMANDS": "smarturgences",
            "ADDITIONAL_CORES": ",".join(dead), "API_READ_TIMEOUT": "5", "CORE_TYPE_5": "wild",
            **{f"API_URL_{n}": url for n, url in urls.items()},
            **{f"TOKEN_{n}": "t" for n in urls}, **pacs_settings(pacs.port),
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "site")]), "WORKER_CONCURRENCY": "6",
        }  # fmt: skip
        running = stack.enter_context(gateway(tmp_path, settings))
        workers = {p.pid for p in running.processes()}
        uids = send(running, tmp_path)
        everything = ["delivered"] * N_STUDIES
        wait_until(
            lambda: deliveries(running, uids, "core", "storescu") == everything, 90, 0.3
        )  # fmt: skip
        assert {r["state"] for r in runs(running, uids, "core")} == {"done"}
        wait_until(
            lambda: {r["state"] for r in runs(running, uids, "core3")} == {"failed"}, 60, 0.3
        )
        error = runs(running, uids, "core3")[0]["error"]
        assert "HTTP 401" in error
        assert "check TOKEN_3" in error
        for core in ("core1", "core2", "core4"):
            wait_until(lambda core=core: peer(running, core)["state"] == "open", 120, 0.5)  # type: ignore[misc]
        said = {r["error"] or r["waiting_for"] for r in runs(running, uids, "core5")}
        assert any("internal error SystemExit in upload()" in text for text in said), said
        assert workers <= {p.pid for p in running.processes()}  # nobody died of any of it

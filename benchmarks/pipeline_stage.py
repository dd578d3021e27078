"""A gateway with everything around it, each a process of its own, so that its cost can be told."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.receive_servers import program
from benchmarks.send import STORESCP, _sinks, sink
from tests.support.gateway import Gateway, gateway
from tests.support.net import wait_until

#: What a command line has in it → whose cost it is. The first that fits.
ROLES = (
    ("-m receiver", "receiver"), ("-Q control", "worker for control"),
    ("-Q deliver", "worker for deliveries"), (" worker", "worker"),
    (" beat", "beat"), (" flower", "Flower"), ("pacsor_tasks.admin", "admin"),
    ("redis-server", "Redis"), (" up", "`pacsor up`"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs."""

    gateway: Gateway
    #: the peers' processes, by what they play
    peers: Mapping[str, int]

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds so far, by role; of the sender it is this process."""
        found: dict[str, float] = {}
        for role, process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            # Children that ended are counted by their parent; those that run, by themselves.
            ended = times.children_user + times.children_system if _reaps(process) else 0.0
            found[role] = found.get(role, 0.0) + times.user + times.system + ended
        own = psutil.Process().cpu_times()
        found["sender"] = own.user + own.system
        return found

    def resident_bytes(self) -> dict[str, int]:
        """Memory by role, what processes share counted for each."""
        found: dict[str, int] = {}
        for role, process in self._processes():
            try:
                found[role] = found.get(role, 0) + process.memory_info().rss
            except psutil.Error:
                continue
        return found

    def redis(self) -> redis.Redis:
        """A client of the gateway's Redis."""
        url = (self.gateway.directory / "data" / "redis" / "url").read_text().strip()
        return redis.Redis.from_url(url)

    @contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """The ledger, to read."""
        path = self.gateway.directory / "data" / "ledger.sqlite3"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        try:
            yield connection
        finally:
            connection.close()

    def ledger_bytes(self) -> int:
        """Size of the ledger."""
        return (self.gateway.directory / "data" / "ledger.sqlite3").stat().st_size

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        for process in self.gateway.processes():
            try:
                command = process.cmdline()
                parent = process.parent()
                is_slot = "worker" in command and parent and parent.cmdline() == command
                yield _role(" ".join(command)) + (", slots" if is_slot else ""), process
            except psutil.Error:
                continue
        for role, pid in self.peers.items():
            try:
                root = psutil.Process(pid)
                family = [root, *root.children(recursive=True)]
            except psutil.Error:
                continue
            for process in family:
                yield role, process


@contextmanager
def stage(directory: Path, settings: Mapping[str, str]) -> Iterator[Stage]:
    """A gateway and its peers, running."""
    with peers(directory) as (environment, pids):
        wanted = {**environment, "WORKER_CONCURRENCY": "4", **settings}
        with gateway(directory, wanted) as running:
            yield Stage(running, pids)


@contextmanager
def peers(directory: Path) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """Two PACSs (DCMTK's storescp, which keeps nothing), an AI and a RIS; settings, process ids."""
    with ExitStack() as stack:
        storescp = _sinks(directory)[STORESCP]
        ports = [stack.enter_context(sink(storescp)) for _ in range(2)]
        # `sink` knows its process; from here it is found by its port.
        pids = {f"PACS {n}": _listener(port) for n, port in enumerate(ports, 1)}
        api_port, pids["AI"] = stack.enter_context(
            simulator(directory, "milvue", "--running-times", "0", "--token", "key")
        )
        ris_port, pids["RIS"] = stack.enter_context(simulator(directory, "ris"))
        environment = {
            "API_URL": f"http://127.0.0.1:{api_port}", "TOKEN": "key",
            "PACS_IP": "127.0.0.1", "PACS_PORT": str(ports[0]), "PACS_AET": "PACS",
            "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": str(ports[1]), "PACS_AET_2": "PACS2",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris_port),
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "DESTINATIONS": "storescu,storescu-2,hl7",
        }  # fmt: skip
        yield environment, pids


@contextmanager
def simulator(directory: Path, name: str, *options: str) -> Iterator[tuple[int, int]]:
    """A simulator as a process of its own: its port and process id."""
    port_file = directory / f"{name}.port"
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "simulators", name, "--port-file", str(port_file), *options],
            env={**os.environ, "TMPDIR": str(directory)},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 30)
        yield int(port_file.read_text()), process.pid
    finally:
        process.terminate()
        process.wait(20)


def _listener(port: int) -> int:
    mine = psutil.Process().children()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for process in mine:
            if str(port) in process.cmdline():
                return process.pid
    raise RuntimeError(f"nobody listens on {port}")


def _role(command: str) -> str:
    return next((role for words, role in ROLES if words in f" {command}"), command[:40])


def _reaps(process: psutil.Process) -> bool:
    """Whether the children that ended were not of another role: `pacsor up` starts them all."""
    return " up" not in " ".join(process.cmdline())


def asked_of_the_ledger(directory: Path, environment: Mapping[str, str], n: int) -> dict[str, Any]:
    """What `benchmarks.pipeline_ledger` says of `n` studies, in a directory of their own."""
    settings = {"DATA_DIR": str(directory / "counted"), "BROKER_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pipeline_ledger", str(n)],
        env={**os.environ, **environment, **settings},
        check=True,
        capture_output=True,
        text=True,
    )
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def require_peers() -> None:
    """SystemExit without DCMTK."""
    if program("storescp") is None:
        raise SystemExit("no storescp: apt install dcmtk")

"""A hospital on one machine: the gateway's processes, its broker and ledger, and all its peers.

senders ──► receiver ─► spool, ledger (a small file system of its own, where that can be made)
            worker-1, worker-2, deliverer-1, deliverer-2, control, beat ──► proxy ──► redis
core  ─► api   (signed URLs)  ─► storescu (DCMTK), storescu-2 (simulated PACS), hl7 (RIS), webhook
core1 ─► api1  (direct)       ─► storescu-3 (DCMTK), folder
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from pacsor_tasks.spool import Spool
from tests.chaos.programs import Keeper, Program
from tests.support.net import free_port
from tests.support.peers import require_program
from tests.support.postgres import postgres_server
from tests.support.tcp_proxy import TcpProxy

FILTER_CFG = Path(__file__).parents[2] / "conf" / "filter.cfg"
WEBHOOKS = Path(__file__).with_name("webhooks.py")
DISK_BYTES = 1 << 30  # memory only as far as it is used
#: Patient IDs that begin so are filtered.
SKIPPED = "SKIP"
FILTERS = json.dumps(
    [{"tag": {"group": "0010", "element": "0020"}, "pattern": f"^{SKIPPED}", "should_match": False}]
)
TOKEN = "key"


@dataclass(frozen=True)
class CoreFacts:
    """One core, as its peers know it."""

    name: str
    api: str
    commands: tuple[str, ...]
    #: destinations that get instances
    archives: tuple[str, ...]
    #: destinations that get one message per run
    told: tuple[str, ...]


CORES = (
    CoreFacts(
        name="core", api="api", commands=("smarturgences", "smartxpert"),
        archives=("storescu", "storescu-2"), told=("hl7", "webhook"),
    ),
    CoreFacts(
        name="core1", api="api1", commands=("smartchest",),
        archives=("storescu-3", "folder"), told=(),
    ),
)  # fmt: skip
DCMTK = ("storescu", "storescu-3")
FOLDER = "folder"


class Board:
    """A simulator's switches file: rules for good, and the faults of the moment."""

    def __init__(self, path: Path, *rules: dict[str, Any]) -> None:
        self.path = path
        self._rules = list(rules)
        self._faults: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._write()

    def add_rule(self, **rule: Any) -> None:
        """From now on."""
        with self._lock:
            self._rules.append(rule)
            self._write()

    def begin(self, key: int, **rule: Any) -> None:
        """Until `end`."""
        with self._lock:
            self._faults[key] = rule
            self._write()

    def end(self, key: int) -> None:
        """Forget a fault."""
        with self._lock:
            self._faults.pop(key, None)
            self._write()

    def _write(self) -> None:
        # Rules last: the latest one wins, and a study that is to fail must fail for its own reason.
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps([*self._faults.values(), *self._rules]))
        partial.replace(self.path)


class Site:
    """Everything above. Use `site`.

    Args:
        directory: For data and logs.
        data_dir: DATA_DIR of the gateway.
        ledger_url: None for SQLite in the data directory.
        settings: More settings of the gateway.
    """

    def __init__(
        self,
        directory: Path,
        data_dir: Path,
        ledger_url: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.directory, self.data_dir = directory, data_dir
        self.keeper = Keeper()
        self.programs: dict[str, Program] = {}
        self.ports = {
            name: free_port()
            for name in (
                "receiver", "redis", *DCMTK, "storescu-2", "hl7", "webhook", "api", "api1",
            )
        }  # fmt: skip
        self.proxy = TcpProxy(self.ports["redis"])
        self.ledger_url = ledger_url or f"sqlite:///{data_dir / 'ledger.sqlite3'}"
        self.boards = {
            name: Board(directory / f"{name}.switches.json", *rules)
            for name, rules in {
                "api": [{"running_times": 1}], "api1": [{"running_times": 1}],
                "storescu-2": [], "hl7": [], "webhook": [],
            }.items()
        }  # fmt: skip
        #: where each archive keeps what it got
        self.folders = {name: directory / name for name in (*DCMTK, "storescu-2", FOLDER)}
        self.environment = self._environment() | (settings or {})
        self._make_programs()

    @property
    def spool(self) -> Spool:
        """The gateway's."""
        return Spool(self.data_dir / "spool")

    #: of the processes that do the work: what talks to the AI, and what delivers
    workers = ("worker-1", "worker-2")
    deliverers = ("deliverer-1", "deliverer-2")

    @property
    def heartbeats(self) -> Path:
        """Where workers and beat leave their signs of life."""
        return self.directory / "heartbeats"

    def redis(self) -> redis.Redis:
        """A client of the broker, past the proxy."""
        return redis.Redis(port=self.ports["redis"], socket_timeout=2, socket_connect_timeout=2)

    def url(self, api: str) -> str:
        """Of a simulated API."""
        return f"http://127.0.0.1:{self.ports[api]}"

    def start(self) -> None:
        """Start everything, and return when it does its work."""
        self.proxy.start()
        self.keeper.start()
        order = [name for name in self.programs if name not in {"receiver", "beat"}]
        for name in order:
            self.programs[name].start()
            if name == "redis":
                self.programs[name].wait_ready()
        for name in order:
            self.programs[name].wait_ready(90)
        for name in ("receiver", "beat"):
            self.programs[name].start()
            self.programs[name].wait_ready(90)

    def stop(self) -> None:
        """End everything."""
        self.keeper.stop()
        self.proxy.stop()

    def _environment(self) -> dict[str, str]:
        ports = {name: str(port) for name, port in self.ports.items()}
        inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
        inherited |= {k: v for k, v in os.environ.items() if k == "PYTHONPATH"}
        return inherited | {
            "DATA_DIR": str(self.data_dir), "FILTER_CFG": str(FILTER_CFG),
            "LEDGER_URL": self.ledger_url,
            "BROKER_URL": f"redis://127.0.0.1:{self.proxy.port}/0",
            "RECEIVER_HOST": "127.0.0.1", "PORT": ports["receiver"], "RECEIVER_PROCESSES": "2",
            "RECEIVER_IDLE_TIMEOUT": "10", "WORKER_CONCURRENCY": "2",
            # Fewer than both workers' slots together, so that work has to wait for them.
            "CORE_CONCURRENCY": "3", "DELIVERY_CONCURRENCY": "3",
            "STUDY_QUIET_SECONDS": "1", "STUDY_MAX_WAIT_SECONDS": "20",
            "API_URL": self.url("api"), "TOKEN": TOKEN, "SIGNED_URL": "true",
            "INFERENCE_COMMANDS": ",".join(CORES[0].commands), "DICOM_FILTERS": FILTERS,
            "DESTINATIONS": "storescu,storescu-2,hl7,webhook",
            "ADDITIONAL_CORES": "core1", "API_URL_1": self.url("api1"), "TOKEN_1": TOKEN,
            "SIGNED_URL_1": "false", "INFERENCE_COMMANDS_1": ",".join(CORES[1].commands),
            "DESTINATIONS_1": "storescu-3,folder",
            "PACS_IP": "127.0.0.1", "PACS_PORT": ports["storescu"], "PACS_AET": "PACS",
            "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": ports["storescu-2"], "PACS_AET_2": "SECOND",
            "PACS_IP_3": "127.0.0.1", "PACS_PORT_3": ports["storescu-3"], "PACS_AET_3": "THIRD",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": ports["hl7"],
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "FOLDER_PATH": str(self.folders[FOLDER]),
            "WEBHOOK_URL": f"http://127.0.0.1:{ports['webhook']}/events", "WEBHOOK_TIMEOUT": "4",
            "WEBHOOK_INCLUDE": "patient_id",
            "API_CONNECT_TIMEOUT": "3", "API_READ_TIMEOUT": "5", "PACS_CONNECT_TIMEOUT": "3",
            "PACS_TIMEOUT": "5", "RIS_TIMEOUT": "4", "UPLOAD_RATE": "50",
            "POLL_INTERVAL": "0.5", "POLL_MAX_INTERVAL": "3", "RETRY_MAX_DELAY": "5",
            "DISK_HIGH_WATERMARK": "64MB", "DISK_LOW_WATERMARK": "128MB",
        }  # fmt: skip

    def _make_programs(self) -> None:
        for directory in (self.data_dir, self.heartbeats, self.directory / "redis"):
            directory.mkdir(exist_ok=True)
        for folder in self.folders.values():
            folder.mkdir(exist_ok=True)
        self._add("redis", [
            require_program("redis-server"), "--port", str(self.ports["redis"]),
            "--bind", "127.0.0.1", "--dir", self.directory / "redis", "--appendonly", "yes",
            "--save", "", "--maxmemory-policy", "noeviction",
        ])  # fmt: skip
        for name in DCMTK:
            self._add(name, [
                require_program("storescp"), "--fork", "+B", "+xa", "-od", self.folders[name],
                "-fe", ".dcm", "-xcr", f"echo #f >> {self.directory / name}.received",
                str(self.ports[name]),
            ], {"TCP_NODELAY": "1"})  # fmt: skip
        for core in CORES:
            self._simulator(core.api, "milvue", "--token", TOKEN)
        self._simulator("storescu-2", "pacs", "--aet", "SECOND", "--folder",
                        str(self.folders["storescu-2"]))  # fmt: skip
        self._simulator("hl7", "ris")
        self._simulator("webhook")
        for name in self.workers:
            self._celery(name, "worker", "-Q", "ingest,transfer")
        for name in self.deliverers:
            at_once = self.environment["DELIVERY_CONCURRENCY"]
            self._celery(name, "worker", "-Q", "deliver", "-c", at_once)
        self._celery("control", "worker", "-Q", "control", "-c", "1")
        self._celery("beat", "beat", "--pidfile=")
        self._add("receiver", _python("receiver"))

    def _simulator(self, name: str, kind: str = "", *options: str) -> None:
        """A simulator of a kind; without one, ours of who gets webhooks."""
        command = _python("simulators", kind) if kind else [sys.executable, "-P", str(WEBHOOKS)]
        board = self.boards[name].path
        journal = ["--journal", str(self.directory / f"{name}.journal")]
        common = ["--port", str(self.ports[name]), "--switches", str(board)]
        self._add(name, [*command, *common, *options, *journal])

    def _celery(self, name: str, *arguments: str) -> None:
        flags: tuple[str, ...] = ()
        if arguments[0] == "worker":
            flags = ("-n", f"{name}@%h", "--without-mingle", "--without-gossip")
        file = self.heartbeats / name
        command = _python("celery", "-q", "-A", "pacsor_tasks", *arguments, *flags)
        program = self._add(name, command, {"HEARTBEAT_FILE": str(file)})
        program.is_ready = file.exists

    def _add(
        self, name: str, command: Sequence[str | Path], more: dict[str, str] | None = None
    ) -> Program:
        environment = self.environment | {"PYTHONWARNINGS": "ignore"} | (more or {})
        log = self.directory / f"{name}.log"
        program = Program(name, command, environment, log)
        if name in self.ports:
            program.is_ready = lambda: _listens(self.ports[name])
        self.programs[name] = self.keeper.add(program)
        return program


@contextmanager
def site(
    directory: Path, *, ledger: str = "sqlite", settings: dict[str, str] | None = None
) -> Iterator[Site]:
    """A running site.

    Args:
        directory: Empty.
        ledger: sqlite or postgresql.
        settings: More settings of the gateway.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        data_dir = stack.enter_context(small_disk(directory / "data"))
        url = stack.enter_context(postgres_server()) if ledger == "postgresql" else None
        found = Site(directory, data_dir, url, settings)
        stack.callback(found.stop)
        found.start()
        yield found


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled, where one may be mounted; else a directory."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    is_mounted = False
    if os.geteuid() == 0:
        done = subprocess.run(mount, capture_output=True, check=False)
        is_mounted = done.returncode == 0
    try:
        yield path
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=False)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-u", "-m", module, *arguments]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

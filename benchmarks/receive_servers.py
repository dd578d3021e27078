"""The receivers that are compared: how each is started, and where its files end up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pacsor_tasks.settings import Settings
from tests.support.net import free_port
from tests.support.peers import ELSEWHERE
from tests.support.receivers import settings_for

MAX_PDU = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A server about to be started."""

    command: tuple[str, ...]
    #: gets what it writes
    files: Callable[[], int]
    env: Mapping[str, str] = field(default_factory=dict)
    #: known before, or written to the file when it listens
    port: int = 0
    port_file: Path | None = None
    cwd: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One that is compared."""

    name: str
    #: makes it ready to start in an empty directory
    launch: Callable[[Path], Launch]
    #: which part of each set it is sent: the slow ones get less
    shares: Mapping[str, float] = field(default_factory=dict)

    def share(self, set_name: str, n_instances: int, n_associations: int) -> int:
        """How many of a set's instances it gets: some for each association at least."""
        wanted = round(n_instances * self.shares.get(set_name, 1.0))
        return min(n_instances, max(wanted, n_associations))


# What they are called in the table, and by the targets.
OURS, OURS_UNSAFE = "pacsor-tasks (durable, as shipped)", "pacsor-tasks, DURABILITY=none"
OURS_EACH = "pacsor-tasks, DURABILITY=instance"
FLOOR, FLOOR_SYNC = "C floor", "C floor, fdatasync"
DCMTK, DCMTK_SHIPPED = "DCMTK, TCP_NODELAY, 128 kB", "DCMTK as shipped"
DCMTK_EXEC = "DCMTK, TCP_NODELAY, --exec-on-reception"
ORTHANC, STOCK = "Orthanc, TCP_NODELAY", "pynetdicom's storescp"


def servers(floor: Path) -> list[Server]:
    """All that are installed, ours first.

    Args:
        floor: The compiled C floor.
    """
    found = [Server(name=OURS, launch=_ours)]
    if "DURABILITY" in Settings.model_fields:
        found += [
            Server(name=OURS_EACH, launch=lambda d: _ours(d, DURABILITY="instance")),
            Server(name=OURS_UNSAFE, launch=lambda d: _ours(d, DURABILITY="none")),
        ]
    found += [
        Server(name=FLOOR_SYNC, launch=lambda d: _floor(floor, d, "sync")),
        Server(name=FLOOR, launch=lambda d: _floor(floor, d)),
    ]
    if storescp := program("storescp"):
        found += _dcmtk(storescp)
    if orthanc := program("Orthanc"):
        found.append(Server(name=ORTHANC, launch=lambda d: _orthanc(orthanc, d)))
    slow = {"small": 0.2, "CT": 0.4, "DX": 0.5}
    return [*found, Server(name=STOCK, launch=_stock, shares=slow)]


def program(name: str) -> str | None:
    """Where a program is."""
    places = os.environ.get("PATH", "").split(os.pathsep) + list(ELSEWHERE)
    return next((str(p) for d in places if os.access(p := Path(d) / name, os.X_OK)), None)


def _dcmtk(storescp: str) -> list[Server]:
    best = ("--bit-preserving", "--max-pdu", str(MAX_PDU))
    run = (*best, "--exec-on-reception", "/bin/true #p/#f")
    no_delay = {"TCP_NODELAY": "1"}
    return [
        Server(name=DCMTK, launch=lambda d: _storescp(storescp, d, best, no_delay)),
        Server(
            name=DCMTK_EXEC,
            launch=lambda d: _storescp(storescp, d, run, no_delay),
            shares={"small": 0.4},
        ),
        Server(
            name=DCMTK_SHIPPED,
            launch=lambda d: _storescp(storescp, d, (), {}),
            shares={"small": 0.03, "CT": 0.2},  # 40 ms for each instance
        ),
    ]


def _ours(directory: Path, **settings: str) -> Launch:
    env = settings_for(directory, **settings)
    for name in ("RECEIVER_PROCESSES", "STUDY_QUIET_SECONDS"):
        del env[name]
    port_file = directory / "port"
    incoming = directory / "data" / "spool" / "incoming"
    return Launch(
        command=(sys.executable, "-m", "receiver", "--port", "0", "--port-file", str(port_file)),
        env=env,
        port_file=port_file,
        files=lambda: _count(incoming, ".dcm"),
    )


def _floor(program_: Path, directory: Path, *options: str) -> Launch:
    port = free_port()
    return Launch(
        command=(str(program_), str(port), str(directory), str(MAX_PDU), *options),
        port=port,
        files=lambda: _count(directory, ".dcm"),
    )


def _storescp(
    storescp: str, directory: Path, options: tuple[str, ...], env: Mapping[str, str]
) -> Launch:
    port = free_port()
    # Without --fork, DCMTK serves one association at a time.
    return Launch(
        command=(storescp, "--fork", *options, "--output-directory", str(directory), str(port)),
        env={**os.environ, **env},
        port=port,
        files=lambda: sum(not p.name.startswith((".", "log")) for p in directory.iterdir()),
    )


def _orthanc(orthanc: str, directory: Path) -> Launch:
    port, storage = free_port(), directory / "storage"
    config = directory / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "Name": "BENCHMARK", "DicomPort": port, "HttpServerEnabled": False, "Plugins": [],
                "StorageDirectory": str(storage), "IndexDirectory": str(storage),
                "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
            }
        )
    )  # fmt: skip
    return Launch(
        command=(orthanc, str(config)),
        env={**os.environ, "TCP_NODELAY": "1"},  # it is built on DCMTK
        port=port,
        files=lambda: _count_dicom(storage),
    )


def _stock(directory: Path) -> Launch:
    port = free_port()
    return Launch(
        command=(
            sys.executable, "-m", "pynetdicom", "storescp", str(port), "--quiet",
            "--output-directory", str(directory),
        ),
        env=os.environ,
        port=port,
        files=lambda: sum(not p.name.startswith("log") for p in directory.iterdir()),
    )  # fmt: skip


def _count(directory: Path, suffix: str) -> int:
    return sum(1 for _ in directory.rglob(f"*{suffix}"))


def _count_dicom(storage: Path) -> int:
    """Orthanc's files have UUIDs for names: those that are DICOM, not its summaries of them."""
    n = 0
    for path in storage.glob("??/??/*"):
        with path.open("rb") as file:
            n += file.read(132)[128:] == b"DICM"
    return n

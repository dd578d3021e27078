"""What the demo runs: three kinds of simulated peers, and a gateway that knows only them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pacsor_tasks.child_process import ProcessSpec
from pacsor_tasks.embedded_redis import free_port
from pacsor_tasks.environment import ALIASES, IGNORED, LEGACY, NUMBERED, REMOVED
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.supervisor import python_module

TOKEN = "demo-token"  # noqa: S105 - the simulator's own, on loopback
PORTS = (
    "PORT", "ADMIN_PORT", "FLOWER_PORT", "API", "PACS_PORT", "PACS_PORT_2", "RIS_HOST_PORT",
    "RIS_PAGE", "TCR",
)  # fmt: skip
PACS = {"storescu": "PACS", "storescu-2": "ARCHIVE"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A directory, the settings of the gateway in it, and the peers around it."""

    directory: Path
    environment: Mapping[str, str]
    settings: Settings
    #: of the page on which the simulated RIS shows what it got
    ris_page: int

    @property
    def journals(self) -> dict[str, Path]:
        """What each peer says it received, by destination; the AI is `api`, the reports `tcr`."""
        names = ("api", "tcr", *PACS, "hl7")
        return {name: self.directory / "journals" / f"{name}.jsonl" for name in names}

    @property
    def log(self) -> Path:
        """Every line of every process."""
        return self.directory / "gateway.log"

    def simulators(self) -> list[ProcessSpec]:
        """The peers, each a process of its own."""
        api = self.settings.API_URL.rsplit(":", 1)[1]
        specs = [self._simulator("api", "milvue", api, "--token", TOKEN)]
        for name, pacs in self.settings.storescu.items():
            specs.append(self._simulator(name, "pacs", str(pacs.port), "--aet", pacs.called_aet))
        tcr = (self.settings.TCR_API_URL or "").rsplit(":", 1)[1]
        specs.append(self._simulator("tcr", "tcr", tcr, "--token", TOKEN))
        ris, page = self.settings.ris["hl7"], str(self.ris_page)
        return [*specs, self._simulator("hl7", "ris", str(ris.port), "--web-port", page)]

    def _simulator(self, name: str, kind: str, port: str, *options: str) -> ProcessSpec:
        journal = self.journals[name]
        command = python_module("simulators", kind, "--port", port, "--journal", str(journal))
        return ProcessSpec(
            name=f"sim-{name}",
            command=(*command, *options),
            is_ready=lambda: _accepts(int(port)),
        )


def build_stage(directory: Path) -> Stage:
    """Choose free ports and write down the settings; starts nothing."""
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    loopback, ris_page = "127.0.0.1", ports.pop("RIS_PAGE")
    environment = _without_settings(os.environ) | {
        "DATA_DIR": str(directory / "data"),
        "TMPDIR": str(directory / "tmp"),
        "LOG_FORMAT": "console",
        "RECEIVER_HOST": loopback,
        "RECEIVER_PROCESSES": "1",
        "WORKER_CONCURRENCY": "2",
        "STUDY_QUIET_SECONDS": "1",
        "POLL_INTERVAL": "1",
        "API_URL": f"http://{loopback}:{ports.pop('API')}",
        "TOKEN": TOKEN,
        "DESTINATIONS": "storescu,storescu-2,hl7",
        "PACS_IP": loopback,
        "PACS_AET": PACS["storescu"],
        "PACS_IP_2": loopback,
        "PACS_AET_2": PACS["storescu-2"],
        "RIS_HOST_IP": loopback,
        "RECEIVING_APPLICATION": "RIS",
        "RECEIVING_FACILITY": "DEMO",
        "HL7_LANGUAGE": "EN",
        "INCLUDE_TECHCARE_REPORT": "true",
        "TECHCARE_REPORT_FORMAT": "HTML",
        "TCR_API_URL": f"http://{loopback}:{ports.pop('TCR')}",
        **{name: str(port) for name, port in ports.items()},
    }
    for name in ("journals", "tmp"):
        (directory / name).mkdir(parents=True)
    return Stage(directory, environment, load(environment, dotenv=None), ris_page)


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """A site's own settings must not send the demo's study to the site's peers."""
    ours = {*Settings.model_fields, *ALIASES, *LEGACY, *REMOVED, *IGNORED}
    return {
        name: value
        for name, value in environ.items()
        if name not in ours and not NUMBERED.match(name) and not name.startswith("FLOWER_")
    }


def _free_ports(count: int) -> list[int]:
    """So many different ports: each is held until all are chosen."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = free_port()
            server = held.enter_context(socket.socket())
            with suppress(OSError):  # somebody else was faster
                server.bind(("127.0.0.1", port))
                found.append(port)
        return found


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False

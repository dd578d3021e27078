"""A subscriber as a process of its own, with the API and hub it listens to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pacsor_tasks import guard, wiring
from pacsor_tasks.ledger import migrate
from pacsor_tasks.models import Delivery
from pacsor_tasks.ports import Ports
from pacsor_tasks.settings import load
from pacsor_tasks.steps.hl7 import send_message
from simulators.ris import RisSimulator
from simulators.tcr import TcrSimulator
from simulators.tcr.pubsub import PubSub
from tests.support.net import wait_until

PROVIDER = "radio-a"
REPORT = {"title": "Hand", "conclusion": "No fracture | seen.", "type": "radiograph"}


def message(study_uid: str, number: int = 1, **more: Any) -> dict[str, Any]:
    """A provider's message, by the contract of docs/techcare-report.md."""
    return {
        "id": f"r-{number}",
        "study": {
            "StudyInstanceUID": study_uid,
            "PatientID": "PX-9",
            "PatientName": "LEGRAND^Anaïs",
            "PatientBirthDate": "19610412",
            "PatientSex": "F",
            "AccessionNumber": "ACC-9",
        },
        "report": REPORT,
        **more,
    }


class Site:
    """A gateway's directory, its RIS and its TechCare Report API; and the subscriber's process.

    Args:
        directory: For DATA_DIR and the log.
        api: Started.
        ris: Started.
    """

    def __init__(self, directory: Path, api: TcrSimulator, ris: RisSimulator) -> None:
        self.api, self.ris = api, ris
        assert api.pubsub is not None
        self.hub: PubSub = api.pubsub
        self.log = directory / "webps.log"
        self.environment = {
            "API_URL": "http://127.0.0.1:9", "TOKEN": "key", "TCR_API_URL": api.url,
            "PACS_IP": "127.0.0.1", "PACS_PORT": "104", "PACS_AET": "PACS",
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris.port),
            "TECHCARE_REPORT_FORMAT": "PLAIN", "DATA_DIR": str(directory / "data"),
            "BROKER_URL": "redis://127.0.0.1:9/0", "LOG_FORMAT": "json",
            "WEBPS_ENABLE": "true", "WEBPS_PROVIDERS": PROVIDER,
            "HEARTBEAT_FILE": str(directory / "heartbeat"),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = load(self.environment, None)
        self.settings.DATA_DIR.mkdir()
        migrate(self.settings.ledger_url)
        self.ports: Ports = wiring.build(self.settings)

    def start(self, *, listening: bool = True) -> None:
        """Start the subscriber; and wait until it listens."""
        inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pacsor_tasks.webps"],
                env=inherited | self.environment,
                cwd=self.log.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if listening:
            wait_until(self.listens, 30)

    def listens(self) -> bool:
        """Whether the subscriber is in its group."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return self.hub.members(PROVIDER) == 1

    def end(self, number: int = signal.SIGTERM) -> int:
        """End the subscriber; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def recorded(self, n: int, timeout_s: float = 20) -> list[str]:
        """The ids of the reports' deliveries, once there are so many."""

        def found() -> list[str]:
            due = self.ports.ledger.deliveries.due(stale_s=0, limit=10_000)
            return [d.delivery_id for d in due] if len(due) >= n else []

        return wait_until(found, timeout_s)

    def deliver(self, delivery_id: str) -> Delivery:
        """One try of a delivery, and what became of it."""
        ports = self.ports
        guard.deliver(ports.ledger, ports.retry, delivery_id, lambda d: send_message(d, ports))
        now = ports.ledger.deliveries.get(delivery_id)
        assert now is not None
        return now

    @property
    def waiting(self) -> list[Path]:
        """Messages on disk that the ledger does not know."""
        return list((self.ports.spool.root / "reports").glob("*.json"))


@contextmanager
def open_site(directory: Path) -> Iterator[Site]:
    """Everything but the subscriber, which is killed at the end."""
    with TcrSimulator(token="key") as api, RisSimulator() as ris:
        site = Site(directory, api, ris)
        try:
            yield site
        finally:
            if site.process is not None:
                site.process.kill()
                site.process.wait()
            site.ports.mllp.close()
            for core in site.ports.cores.values():
                core.client.close()
                if core.reports is not None:
                    core.reports.close()
            site.ports.ledger.close()

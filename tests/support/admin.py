"""The admin application over a real ledger, for tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pacsor_tasks import operations, relaunching
from pacsor_tasks.admin.app import create_app
from pacsor_tasks.admin.deps import AdminDeps
from pacsor_tasks.admin.health import Check, Report
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.ports import Ris
from pacsor_tasks.receiving import Receiving
from pacsor_tasks.spool import Spool
from tests.support.bench import Bench
from tests.support.ledger_seed import PACS, PACS_2, RIS, Clock, Seed, new_ledger

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Using `httpx` with", category=UserWarning)
    from fastapi.testclient import TestClient as TestClient

TOKEN = "a-token-of-some-length"
BASE_URL = "http://127.0.0.1:7000"
UID = "1.2.826.0.1.3680043.8.498.77"
QUIET_S = 30
HTML = {"Accept": "text/html,application/xhtml+xml"}
WELL = Report(
    {
        "ledger": Check(ok=True, detail="answers"),
        "redis": Check(ok=True, detail="3 messages queued", values={"ingest": 0, "transfer": 3}),
        "disk": Check(ok=True, detail="1 GB", values={"free_bytes": 10**9, "total_bytes": 2**31}),
        "workers": Check(ok=True, detail="2 workers answering", values={"count": 2}),
        "receiver": Check(ok=True, detail="listening on port 1040"),
    }
)


@dataclass(frozen=True)
class Admin:
    """The application's parts that tests look at."""

    ledger: Ledger
    clock: Clock
    seed: Seed
    deps: AdminDeps
    spool: Spool

    def client(self, **changed: Any) -> TestClient:
        """A client on this machine; `changed` replaces dependencies."""
        return client(replace(self.deps, **changed))


def new_admin(directory: Path) -> Admin:
    """An application over an empty ledger in `directory`."""
    clock = Clock()
    ledger = new_ledger(directory, clock)
    targets = [Target(core="core", destinations=(PACS, RIS))]

    spool = Spool(directory / "spool")
    spool.prepare()
    bench = Bench(
        directory,
        ledger,
        pacs={
            name: Pacs(
                name=name, called_aet="PACS", calling_aet="MILVUE", connect_timeout_s=1,
                timeout_s=1, host="127.0.0.1", port=11112,
            )
            for name in (PACS[0], PACS_2[0])
        },
        ris={RIS[0]: Ris(name=RIS[0], timeout_s=1, host="127.0.0.1", port=2575)},
    )  # fmt: skip
    ports = replace(bench.ports, targets=targets)
    deps = AdminDeps(
        ports=ports,
        studies=ledger.studies,
        receiving=Receiving(spool, quiet_s=QUIET_S, max_wait_s=600),
        relaunch=lambda uid, wish, core: relaunching.relaunch(uid, ports, wish, core, unpublished),
        publish=unpublished,
        complete=lambda study_uid: operations.complete(study_uid, spool),
        health=lambda: WELL,
    )
    return Admin(ledger, clock, Seed(ledger), deps, spool)


def unpublished(*_: object) -> None:
    """Instead of a broker."""


def client(deps: AdminDeps) -> TestClient:
    """A client of an application made from these."""
    return TestClient(create_app(deps), base_url=BASE_URL, follow_redirects=False)


def report(**down: str) -> Callable[[], Report]:
    """A health report in which these dependencies are down, for these reasons."""
    checks = {**WELL.checks, **{name: Check(ok=False, detail=why) for name, why in down.items()}}
    return lambda: Report(checks)

"""Reports as they came, on disk until the ledger knows them.

They hold patient data: readable by the gateway's user only, gone once recorded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger.reports import NewReport
from pacsor_tasks.spool import Spool, write_durably
from pacsor_tasks.tcr.received import ReceivedReport, received_of, run_id_of

log = structlog.get_logger(__name__)

#: Of a run's results, the directory of the report; its only file.
DIRECTORY, FILE = "webps", "report.json"


class Inbox:
    """A directory of the spool; what is in it waits to be recorded.

    Args:
        spool: The gateway's.
        ledger: The gateway's.
        destinations: Who gets the reports.
    """

    def __init__(self, spool: Spool, ledger: Ledger, destinations: Sequence[str]) -> None:
        self._spool = spool
        self._ledger = ledger
        self._destinations = tuple(destinations)
        self._directory = spool.root / "reports"
        self._directory.mkdir(mode=0o700, exist_ok=True)

    def put(self, provider: str, data: Any) -> None:
        """Keep a message, whole and lasting when this returns. Safe to repeat.

        Args:
            provider: Who published it.
            data: JSON, text or bytes, as it came.

        Raises:
            OSError: The disk does not take it.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            data = base64.b64encode(data).decode("ascii")
        envelope = {"provider": provider, "data": data}
        content = json.dumps(envelope).encode("utf-8")
        write_durably(self._directory / f"{run_id_of(envelope)}.json", content)

    def record_all(self) -> int:
        """Make deliveries of what waits; how many reports were new.

        Raises:
            PeerUnavailable: The ledger is away; what is left waits.
        """
        waiting = sorted(self._directory.glob("[!.]*.json"), key=lambda p: p.stat().st_mtime_ns)
        return sum(self._record(path) for path in waiting)

    def _record(self, path: Path) -> bool:
        run_id = path.stem
        if self._ledger.reports.knows(run_id):
            path.unlink()
            log.info("webps.repeated", run_id=run_id)
            return False
        content = path.read_bytes()
        envelope = json.loads(content)
        try:
            found = received_of(envelope)
        except BadResponse as exc:
            kept = self._spool.quarantine(DIRECTORY, path)
            self._ledger.reports.refused(str(envelope["provider"]), str(exc), kept)
            log.error("webps.unusable", error=str(exc), kept=kept)  # noqa: TRY400 - the message says it
            return False
        # Where the message is made from, before there is a delivery that looks for it.
        write_durably(self._spool.results_dir(run_id, DIRECTORY) / FILE, content)
        is_new = self._ledger.reports.add(_new(run_id, found), self._destinations)
        path.unlink()
        log.info("webps.recorded", run_id=run_id, study_uid=found.study_uid)
        return is_new


def _new(run_id: str, found: ReceivedReport) -> NewReport:
    return NewReport(run_id=run_id, study_uid=found.study_uid, provider=found.provider)

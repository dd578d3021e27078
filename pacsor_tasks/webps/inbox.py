"""Reports as they came, on disk until the ledger knows them.

They hold patient data: readable by the gateway's user only, gone once recorded.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from pacsor_tasks.errors import BadResponse, PacsorError, Retryable
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.ledger.reports import NewReport
from pacsor_tasks.spool import Spool, write_durably
from pacsor_tasks.tcr.received import (
    WHAT,
    ReceivedReport,
    envelope_of,
    received_of,
    run_id_of,
)
from pacsor_tasks.tcr.reports import read_object, unshown

log = structlog.get_logger(__name__)

#: Of a run's results, the directory of the report; its only file.
DIRECTORY, FILE = "webps", "report.json"
UNKNOWN = "unknown"


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
        envelope = envelope_of(provider, data)
        content = json.dumps(envelope).encode("utf-8")
        write_durably(self._directory / f"{run_id_of(envelope)}.json", content)

    def record_all(self) -> int:
        """Make deliveries of what waits; how many reports were new.

        What cannot be used goes to the quarantine: no message has to wait for another one.

        Raises:
            PeerUnavailable: The ledger is away; what is left waits.
            OSError: Some could not be read or moved; they wait.
        """
        waiting = sorted(self._directory.glob("[!.]*.json"), key=lambda p: p.lstat().st_mtime_ns)
        n_new = 0
        failed: OSError | None = None
        for path in waiting:
            try:
                n_new += self._record(path)
            except OSError as exc:
                failed = exc
        if failed is not None:
            raise failed
        return n_new

    def _record(self, path: Path) -> bool:
        """Make deliveries of a message, or put it away; whether it was new."""
        provider = UNKNOWN
        try:
            content = path.read_bytes()
            envelope = read_object(content, WHAT)
            provider = _provider(envelope)
            return self._deliver(path, envelope, content)
        except (OSError, Retryable):
            raise
        except PacsorError as exc:
            self._refuse(path, provider, str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever one provider sends, the others go on
            # Not its own words, which may quote the message.
            self._refuse(path, provider, f"{WHAT}: it cannot be used ({type(exc).__name__})")
        return False

    def _deliver(self, path: Path, envelope: Mapping[str, Any], content: bytes) -> bool:
        run_id = _run_id(path)
        if self._ledger.reports.knows(run_id):
            path.unlink()
            log.info("webps.repeated", run_id=run_id)
            return False
        found = received_of(envelope)
        if parts := unshown(found.report):
            log.warning("report.unshown", study_uid=found.study_uid, parts=parts)
        # Where the message is made from, before there is a delivery that looks for it.
        write_durably(self._spool.results_dir(run_id, DIRECTORY) / FILE, content)
        is_new = self._ledger.reports.add(_new(run_id, found), self._destinations)
        path.unlink()
        log.info("webps.recorded", run_id=run_id, study_uid=found.study_uid)
        return is_new

    def _refuse(self, path: Path, provider: str, why: str) -> None:
        kept = self._spool.quarantine(DIRECTORY, path)
        log.error("webps.unusable", error=why, kept=kept)
        self._ledger.reports.refused(provider, why, kept)


def _run_id(path: Path) -> str:
    try:
        return str(uuid.UUID(path.stem))
    except ValueError:
        raise BadResponse(f"{WHAT}: its file was not written by the gateway") from None


def _provider(envelope: Mapping[str, Any]) -> str:
    """Whom to name; a name that no ledger takes is not one of ours."""
    given = envelope.get("provider")
    return given if isinstance(given, str) and given.isprintable() else UNKNOWN


def _new(run_id: str, found: ReceivedReport) -> NewReport:
    return NewReport(run_id=run_id, study_uid=found.study_uid, provider=found.provider)

"""Tells the pipeline of new revisions. Redis may be away: the outbox on disk is what counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from pacsor_tasks.errors import PacsorError
from pacsor_tasks.spool import Spool

log = structlog.get_logger(__name__)

#: As `pipeline.enqueue_ingest`: (study UID, relative paths); raises PacsorError when it cannot.
Enqueue = Callable[[str, Sequence[str]], None]

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0


class Announcer:
    """Enqueues each outbox entry once, and again after a failure.

    The ledger removes the entries. One whose message is lost stays, and the reconciler finds it.
    A thread of its own, so that a broker that hangs delays no study's closing.
    """

    def __init__(self, spool: Spool, enqueue: Enqueue) -> None:
        self.spool = spool
        self.enqueue = enqueue
        self._news = threading.Event()
        self._announced: set[str] = set()

    def wake(self) -> None:
        """There is a new revision."""
        self._news.set()

    def run(self, stop: threading.Event) -> None:
        """Announce until `stop`. `wake` once more after setting it."""
        pause_s: float | None = None
        while not stop.is_set():
            self._news.clear()
            reason = self._try()
            if reason is None:
                pause_s = None
                self._news.wait()
            else:
                pause_s = min(LONGEST_RETRY_S, pause_s * 2) if pause_s else FIRST_RETRY_S
                log.warning("ingest.not_enqueued", reason=reason, retry_in_s=pause_s)
                stop.wait(pause_s)

    def announce_all(self) -> None:
        """Enqueue what is in the outbox and was not announced yet.

        Raises:
            PacsorError: The broker is away; nothing is lost.
        """
        tokens = set(self.spool.outbox_tokens())
        self._announced &= tokens
        for token in sorted(tokens - self._announced):
            self._announce(token)

    def _try(self) -> str | None:
        """Why it failed; None if it did not."""
        try:
            self.announce_all()
        except PacsorError as exc:
            return str(exc)
        except Exception as exc:
            log.exception("announcer.failed")
            return type(exc).__name__
        return None

    def _announce(self, token: str) -> None:
        study_uid = self.spool.outbox_study(token)
        if study_uid is None or not self.spool.revision_dir(study_uid, token).is_dir():
            return  # acknowledged meanwhile, or not complete: then we are woken again
        started = time.monotonic()
        self.enqueue(study_uid, self.spool.instance_paths(study_uid, token))
        self._announced.add(token)
        log.info(
            "ingest.enqueued",
            study_uid=study_uid,
            revision=token,
            took_s=round(time.monotonic() - started, 3),
        )

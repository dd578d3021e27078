"""Storage Commitment, the work: a request is on disk before it is accepted, and until it is told.

commitments/<process>.<n>    asked for, not reported yet; a process that died is taken over from
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION

from pacsor_tasks.errors import BadResponse, PeerUnavailable
from pacsor_tasks.spool import COMMITTED, write_durably
from receiver.commitment import Reference, judge
from receiver.processes import Living, Process
from receiver.reporting import (
    REQUEST_COMMITMENT,
    SOP_INSTANCE,
    Where,
    read_request,
    report_here,
    report_of,
    report_there,
)

log = structlog.get_logger(__name__)

#: Statuses of an N-ACTION response. Source: PS3.7 Annex C.
SUCCESS, NO_SUCH_INSTANCE = 0x0000, 0x0112
INVALID_ARGUMENT, NO_SUCH_ACTION, RESOURCE_LIMITATION = 0x0115, 0x0123, 0x0213
#: Seconds between the tries to report over an association of our own.
RETRIES_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
N_THREADS, MAX_WAITING = 4, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request."""

    transaction_uid: str
    calling_aet: str
    references: tuple[Reference, ...]
    n_tries: int = 0
    #: epoch seconds: it outlives the process
    due_at: float = 0.0

    @classmethod
    def from_json(cls, text: str) -> Job:
        """As written by `to_json`. ValueError, KeyError, TypeError: it is something else."""
        given = json.loads(text)
        references = tuple(Reference(*pair) for pair in given.pop("references"))
        return cls(references=references, **given)

    def to_json(self) -> str:
        """For the spool."""
        return json.dumps(asdict(self))


class Commitments:
    """Answers N-ACTION, and reports.

    Args:
        process: This one.
        own_aet: Our AE title.
        peers: Where to report, by AE title.
        must_sync: Receiving does not sync, so this has to.
        clock: Epoch seconds.
    """

    def __init__(
        self,
        process: Process,
        own_aet: str,
        peers: Mapping[str, Where],
        *,
        must_sync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._process = process
        self._own_aet = own_aet
        self._peers = peers
        self._must_sync = must_sync
        self._clock = clock
        self._directory = process.spool.root / "commitments"
        self._guard = threading.Lock()
        #: by file name; None: somebody is at work on it
        self._waiting: dict[str, Job | None] = {}
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="commitment")

    @property
    def handlers(self) -> list[tuple[Any, Any]]:
        """What to bind to the server."""
        return [(evt.EVT_N_ACTION, self._on_action)]

    def tend(self) -> None:
        """Begin what is due, and take over from processes that died. Call about once a second."""
        self._adopt()
        now = self._clock()
        with self._guard:
            due = {n: job for n, job in self._waiting.items() if job and job.due_at <= now}
            self._waiting |= dict.fromkeys(due)
        for name, job in due.items():
            self._pool.submit(self._work, name, job, None)

    def _on_action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        association, request = event.assoc, cast(N_ACTION, event.request)
        if request.ActionTypeID != REQUEST_COMMITMENT:
            return NO_SUCH_ACTION, None
        if request.RequestedSOPInstanceUID != SOP_INSTANCE:
            return NO_SUCH_INSTANCE, None
        try:
            asked = read_request(event.action_information)
        except BadResponse:
            return INVALID_ARGUMENT, None
        job = Job(
            transaction_uid=asked.transaction_uid,
            calling_aet=str(association.requestor.ae_title).strip(),
            references=asked.references,
        )
        name = self._keep(job)
        if name is None:
            return RESOURCE_LIMITATION, None
        # Its thread is marked as held up while it serves us: it is not before it has answered.
        association._is_paused = False
        self._pool.submit(self._work, name, job, association)
        return SUCCESS, None

    def _keep(self, job: Job) -> str | None:
        name = self._process.new_name()
        with self._guard:
            if len(self._waiting) >= MAX_WAITING:
                return None
            self._waiting[name] = None
        try:
            write_durably(self._directory / name, job.to_json().encode())
        except OSError as exc:
            log.warning("commitment.not_kept", reason=exc.strerror)
            self._forget(name)
            return None
        return name

    def _work(self, name: str, job: Job, association: Association | None) -> None:
        try:
            self._report(job, association)
        except PeerUnavailable as exc:
            self._put_off(name, job, str(exc))
        except Exception:
            log.exception("commitment.failed", transaction_uid=job.transaction_uid)
            self._put_off(name, job, "a mistake of ours")
        else:
            self._forget(name)

    def _report(self, job: Job, association: Association | None) -> None:
        spool = self._process.spool
        judgement = judge(spool, job.references, must_sync=self._must_sync)
        for study_uid in judgement.complete:
            spool.request_stable(study_uid, COMMITTED)
        event_type, report = report_of(job.transaction_uid, judgement)
        is_told = association is not None and report_here(association, event_type, report)
        if not is_told:
            where = self._peers.get(job.calling_aet)
            if where is None:
                raise PeerUnavailable(f"STORAGE_COMMITMENT_PEERS: no {job.calling_aet}@host:port")
            report_there(where, self._own_aet, event_type, report)
        log.info(
            "commitment.reported",
            transaction_uid=job.transaction_uid,
            calling_aet=job.calling_aet,
            n_held=len(judgement.held),
            n_failed=len(judgement.failed),
            studies_completed=list(judgement.complete),
            over="the same association" if is_told else "an association of its own",
        )

    def _put_off(self, name: str, job: Job, reason: str) -> None:
        is_hopeless = job.calling_aet not in self._peers or job.n_tries >= len(RETRIES_S)
        retry_in_s = None if is_hopeless else RETRIES_S[job.n_tries]
        log.warning(
            "commitment.not_reported",
            transaction_uid=job.transaction_uid,
            calling_aet=job.calling_aet,
            reason=reason,
            retry_in_s=retry_in_s,
        )
        if retry_in_s is None:
            self._forget(name)
            return
        later = replace(job, n_tries=job.n_tries + 1, due_at=self._clock() + retry_in_s)
        try:
            write_durably(self._directory / name, later.to_json().encode())
        except OSError as exc:
            log.warning("commitment.not_kept", reason=exc.strerror)
        with self._guard:
            self._waiting[name] = later

    def _forget(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)
        with self._guard:
            self._waiting.pop(name, None)

    def _adopt(self) -> None:
        living = Living(self._process.spool)
        for path in list(self._directory.iterdir()):
            if path.name.startswith(".") or living.owns(path.name):
                continue
            mine = path.with_name(self._process.new_name())
            try:
                path.rename(mine)
                job = Job.from_json(mine.read_text())
            except FileNotFoundError:
                continue  # a sibling was faster
            except (OSError, ValueError, KeyError, TypeError):
                log.warning("commitment.unreadable", file=path.name)
                mine.unlink(missing_ok=True)
                continue
            with self._guard:
                self._waiting[mine.name] = job

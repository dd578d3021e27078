"""Sends instances by STOW-RS, a few to a request, streamed from their files.

The body is ours: dicomweb-client, which the tests use to look at what arrived, takes data sets and
holds the whole message in memory twice.

Source: DICOM PS3.18 §10.5.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import requests
import structlog

from pacsor_tasks.core_api import UnreadableInstance, UploadItem
from pacsor_tasks.dicom.data_sets import StoreItem
from pacsor_tasks.dicom.headers import read_header
from pacsor_tasks.dicom.statuses import DUPLICATE, UNSENDABLE
from pacsor_tasks.dicom.tally import OnAnswer, Tally
from pacsor_tasks.dicomweb import answers
from pacsor_tasks.dicomweb.answers import Said
from pacsor_tasks.errors import LedgerUnavailable, PacsorError, PeerUnavailable, RateLimited
from pacsor_tasks.http_out import Answer, Endpoint, check, exchange, refusal, session
from pacsor_tasks.milvue.bodies import FileBody, RelatedBody

log = structlog.get_logger(__name__)

JSON = "application/dicom+json"
#: Bytes of one request, unless one instance is larger: what a lost connection makes us send again.
REQUEST_BYTES = 256 * 1024 * 1024
#: So many instances in a row, each alone, at which the server failed: it is the server.
FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StowServer:
    """A DICOMweb server."""

    endpoint: Endpoint
    #: instances of one request
    batch: int

    @property
    def name(self) -> str:
        """The destination's name."""
        return self.endpoint.name

    def __str__(self) -> str:
        return str(self.endpoint)


def store(
    server: StowServer,
    items: Sequence[StoreItem],
    on_answer: OnAnswer,
    before_each: Callable[[], None] | None = None,
) -> None:
    """Deliver instances to a DICOMweb server.

    Where the answer to a request about several does not say what became of each, and it was not
    simply a success, those are sent again one by one: one of them is the reason.

    Args:
        server: Where to.
        items: What.
        on_answer: Called with item, status (as of C-STORE) and words as soon as an instance is
            settled.
        before_each: Called before each instance is sent. What it raises ends the delivery, once
            those before are settled.

    Raises:
        PeerUnavailable: Something was not stored that may be later.
        Rejected: Something was refused for good, and nothing is left that may be stored later; or
            the server does not let us in.
        BadResponse: Something else answers there.
    """
    started = time.monotonic()
    tally = Tally(server, len(items), on_answer)
    try:
        with session(server.endpoint) as opened:
            _Sending(server, opened, tally, before_each).all(items)
    except LedgerUnavailable:
        raise  # of whoever keeps the answers
    except PeerUnavailable as exc:
        text = f"{exc}; {tally.delivered} of {tally.total} stored"
        raise type(exc)(text, exc.retry_after_s) from exc
    finally:
        log.info(
            "stow.sent",
            destination=server.name,
            n=tally.delivered,
            failed=tally.total - tally.delivered,
            seconds=round(time.monotonic() - started, 3),
        )
    tally.raise_if_incomplete()


def probe(server: StowServer) -> None:
    """Prove that the server answers and lets us in: a search that finds nothing.

    Raises:
        PeerUnavailable: It does not answer, or not well.
        Rejected: It does not let us in.
    """
    url = f"{server.endpoint.url}/studies?StudyInstanceUID=2.25.0&limit=1"
    check(server.endpoint, "GET", url, {"Accept": JSON})


class _Sending:
    """One delivery's requests on one session."""

    def __init__(
        self,
        server: StowServer,
        opened: requests.Session,
        tally: Tally,
        before_each: Callable[[], None] | None,
    ) -> None:
        self._to = server.endpoint
        self._batch = server.batch
        self._session = opened
        self._tally = tally
        self._before_each = before_each
        self._failures = 0
        self._can_search = True

    def all(self, items: Sequence[StoreItem]) -> None:
        """Send everything, in order."""
        waiting, limit = deque(items), None
        while waiting and limit is None:
            batch, limit = self._next(waiting)
            self._send(batch)
        if limit is not None:
            raise limit

    def _next(
        self, waiting: deque[StoreItem]
    ) -> tuple[list[tuple[StoreItem, FileBody]], RateLimited | None]:
        """The next request's instances, and why there are no more of them now."""
        batch: list[tuple[StoreItem, FileBody]] = []
        size = 0
        while waiting and len(batch) < self._batch and size < REQUEST_BYTES:
            try:
                if self._before_each is not None:
                    self._before_each()
            except RateLimited as exc:
                return batch, exc
            item = waiting.popleft()
            try:
                body = FileBody.whole(UploadItem(item.path, item.sop_instance_uid))
            except UnreadableInstance as exc:
                self._tally.settle(item, UNSENDABLE, str(exc))
                continue
            batch.append((item, body))
            size += len(body)
        return batch, None

    def _send(self, batch: list[tuple[StoreItem, FileBody]]) -> None:
        if not batch:
            return
        try:
            answer = self._post([body for _, body in batch])
        except UnreadableInstance as exc:
            bad = [item for item, _ in batch if item.sop_instance_uid == exc.sop_instance_uid]
            for item in bad:
                self._tally.settle(item, UNSENDABLE, str(exc))
            self._send([(item, body) for item, body in batch if item not in bad])
            return
        if answer.status == 500:
            self._broke(batch, answer)
            return
        # A success with a web page is a proxy's login, say: nobody has stored anything.
        is_success = 200 <= answer.status < 300 and answer.media.name != "text/html"
        if not is_success and answer.status not in answers.REFUSALS:
            raise refusal(self._to, answer)
        self._failures = 0
        self._settle(batch, answer)

    def _settle(self, batch: list[tuple[StoreItem, FileBody]], answer: Answer) -> None:
        asked = {item.sop_instance_uid for item, _ in batch}
        found = answers.read(answer.status, answer.body, asked)
        unclear = [(i, body) for i, body in batch if i.sop_instance_uid not in found]
        for item, _ in batch:
            if (what := found.get(item.sop_instance_uid)) is None:
                continue
            if what.status == answers.PROCESSING_FAILURE and self._is_there(item):
                what = Said(DUPLICATE, "a failure, but it has it")
            self._tally.settle(item, what.status, what.words or f"HTTP {answer.status}")
        self._one_by_one(unclear)

    def _is_there(self, item: StoreItem) -> bool:
        """Whether the server has an instance that it says it failed at.

        Some say so of one that they have already: after an answer that was lost, for ever.
        """
        if not self._can_search:
            return False
        try:
            study_uid = read_header(item.path).study_uid
            url = f"{self._to.url}/studies/{study_uid}/instances"
            url += f"?SOPInstanceUID={item.sop_instance_uid}&limit=1"
            answer = exchange(self._session, self._to, "GET", url, headers={"Accept": JSON})
        except PacsorError:
            self._can_search = False  # one that keeps silent is not asked of each instance
            return False
        return answer.status == 200 and answers.lists(answer.body, item.sop_instance_uid)

    def _broke(self, batch: list[tuple[StoreItem, FileBody]], answer: Answer) -> None:
        """The server failed, perhaps at one of the instances."""
        if len(batch) > 1:
            self._one_by_one(batch)
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise refusal(self._to, answer)
        self._tally.settle(batch[0][0], answers.PROCESSING_FAILURE, f"HTTP {answer.status}")

    def _one_by_one(self, batch: list[tuple[StoreItem, FileBody]]) -> None:
        for each in batch:
            self._send([each])

    def _post(self, bodies: list[FileBody]) -> Answer:
        body = RelatedBody(bodies)
        return exchange(
            self._session,
            self._to,
            "POST",
            f"{self._to.url}/studies",
            headers={"Content-Type": body.content_type, "Accept": JSON},
            data=body,
        )

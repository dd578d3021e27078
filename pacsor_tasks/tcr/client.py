"""The client of the TechCare Report API: reports, studies of a provider, access to Web PubSub.

Raises only errors of `pacsor_tasks.errors` and `core_api`, by the policy of `milvue.refusals`.

Source: docs/techcare-report.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from pacsor_tasks.core_api import (
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UnknownStudy,
    UploadItem,
)
from pacsor_tasks.errors import BadResponse, NotReady, Rejected
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.milvue.bodies import FileBody, RelatedBody
from pacsor_tasks.milvue.dialect import OWNER_HEADER, Dialect
from pacsor_tasks.milvue.refusals import clean
from pacsor_tasks.milvue.transport import Answer, Transport
from pacsor_tasks.routes import ORGANIZATION, PROVIDERS, STUDY, Route
from pacsor_tasks.tcr.reports import is_empty, read_object, report_of, unshown

log = structlog.get_logger(__name__)

RUNNING = frozenset({"running", "pending", "queued"})
EMPTY = frozenset({"empty", "none"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TcrRoutes:
    """Where the API has what."""

    report: Route
    upload: Route
    status: Route
    access: Route


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TcrAccess:
    """An API and a token of it. No repr: it holds the token."""

    url: str
    token: str
    routes: TcrRoutes
    organization_id: str = ""
    #: header of the token; `Authorization` gets it as a bearer token
    header: str = OWNER_HEADER
    #: where the token stands
    token_setting: str = "TOKEN"  # noqa: S105 - a name

    @property
    def dialect(self) -> Dialect:
        """How its calls look."""
        return Dialect(
            header=self.header,
            scheme="Bearer" if self.header.lower() == "authorization" else "",
            root=(),
            url_setting="TCR_API_URL",
            token_setting=self.token_setting,
        )


class TcrClient:
    """Talks to one API with one token over kept connections. A core by `CoreClient`.

    Args:
        access: Where, and with which token.
        timeouts_s: (connect, read).

    Raises:
        ConfigError: The URL or the token cannot be used.
    """

    def __init__(
        self, access: TcrAccess, *, timeouts_s: tuple[float, float] = (10.0, 120.0)
    ) -> None:
        self._routes = access.routes
        self._organization_id = access.organization_id
        self._transport = Transport(
            access.url, access.token, timeouts_s=timeouts_s, parallel=2, dialect=access.dialect
        )

    def close(self) -> None:
        """Close the kept connections."""
        self._transport.close()

    def report(self, study_uid: str) -> Report | None:
        """The report of a study; None when there is none to come.

        Raises:
            NotReady: It is being written.
            UnknownStudy: The API has no report of this study, yet or ever.
            BadResponse: The answer is no report, or of another study.
        """
        what = f"report of {study_uid}"
        with self._call("GET", self._routes.report, what, study_uid) as answer:
            value = read_object(answer.body(), what)
        _require_study(value, study_uid, what)
        status = _status(value)
        if status in RUNNING:
            raise NotReady(f"{what}: {status}")
        if status != "done":
            if status not in EMPTY:
                log.warning("report.none", study_uid=study_uid, status=clean(status)[:32])
            return None
        report = report_of(value, what)
        if parts := unshown(report):
            log.warning("report.unshown", study_uid=study_uid, parts=parts)
        return None if is_empty(report) else report

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        """Send instances of one study in one request, as `CoreClient.upload`."""
        what = f"upload of {study_uid}"
        body = RelatedBody([FileBody.whole(item) for item in items], before_put)
        headers = {"Content-Type": body.content_type}
        route = self._routes.upload
        try:
            with self._call("POST", route, what, study_uid, headers, body) as answer:
                answer.drain()
        except UnknownStudy as exc:
            said = "there is no upload at this address; check TCR_API_URL and TCR_UPLOAD_PATH"
            raise Rejected(f"{exc}: {said}") from exc
        log.info("upload.posted", study_uid=study_uid, n_instances=len(items), n_bytes=len(body))
        for item in items:
            on_uploaded(item)

    def status(self, study_uid: str) -> StudyStatus:
        """How far the provider is with a study.

        Raises:
            UnknownStudy: Not uploaded, or not visible yet.
        """
        what = f"status of {study_uid}"
        with self._call("GET", self._routes.status, what, study_uid) as answer:
            value = answer.json_object()
        _require_study(value, study_uid, what)
        said = str(value.get("status", "")).lower()
        state = StudyState.RUNNING if said in RUNNING else said
        if state not in set(StudyState):
            raise BadResponse(f"{what}: {clean(said)[:32]!r} is no status")
        message = value.get("message")
        return StudyStatus(
            state=StudyState(state), message=clean(message) if isinstance(message, str) else ""
        )

    def results(
        self,
        study_uid: str,
        command: str,  # noqa: ARG002 - as the protocol
        into: Path,  # noqa: ARG002
        params: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Results:
        """There are no images; the report has to be there, for the message to fetch.

        Raises:
            NotReady: It is being written.
            UnknownStudy: There is none yet.
        """
        said = "" if self.report(study_uid) else "no report"
        return Results(outcome=Outcome.EMPTY, message=said)

    def check(self) -> None:
        """Prove that the API answers and takes the token, by asking for a study nobody has.

        Raises:
            Rejected: The token is refused.
            BadResponse: What answers at this address is not the API.
        """
        try:
            self.report(f"2.25.{uuid.uuid4().int}")
        except UnknownStudy as exc:
            if not exc.is_from_api:
                raise BadResponse(
                    f"{self._transport.host} answers, but not as the TechCare Report API;"
                    " check TCR_API_URL and TCR_REPORT_PATH"
                ) from exc
        except NotReady:
            pass

    def access_url(self, providers: Sequence[str]) -> str:
        """A URL of Azure Web PubSub, with its token in the query: never to be logged.

        Args:
            providers: Whose reports will be listened to.

        Raises:
            BadResponse: The answer has no such URL.
        """
        what = "access to Web PubSub"
        values = {PROVIDERS: ",".join(providers), ORGANIZATION: self._organization_id}
        segments, query = self._routes.access.fill(values)
        try:
            with self._transport.api("GET", segments, what, params=query) as answer:
                url = answer.json_object().get("url")
        except UnknownStudy as exc:
            raise Rejected(f"{exc}: check TCR_API_URL and WEBPS_ACCESS_PATH") from exc
        allowed = {"wss"} if self._transport.is_secure else {"wss", "ws"}
        if not isinstance(url, str) or urlsplit(url).scheme not in allowed:
            raise BadResponse(f"{what}: the answer has no URL of a web socket")
        return url

    @contextmanager
    def _call(  # noqa: PLR0913, PLR0917 - a request has this many parts
        self,
        method: str,
        route: Route,
        what: str,
        study_uid: str,
        headers: Mapping[str, str] | None = None,
        data: RelatedBody | None = None,
    ) -> Iterator[Answer]:
        values = {STUDY: study_uid, ORGANIZATION: self._organization_id}
        segments, query = route.fill(values)
        with self._transport.api(
            method, segments, what, params=query, headers=headers, data=data
        ) as answer:
            yield answer


def _status(value: Mapping[str, Any]) -> str:
    """The status of a report, in small letters; one that is not said is that of a report."""
    said = value.get("status")
    if said is None or said == "":
        return "done"
    return said.lower() if isinstance(said, str) else type(said).__name__


def _require_study(value: Mapping[str, Any], study_uid: str, what: str) -> None:
    given = value.get("StudyInstanceUID", value.get(STUDY))
    if given not in (None, "", study_uid):
        raise BadResponse(f"{what}: the answer is about another study")

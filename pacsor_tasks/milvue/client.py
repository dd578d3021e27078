"""The client of one AI environment: every call of the Milvue API v3 as a method.

Every method raises only errors of `pacsor_tasks.errors` or `outcomes`: `PeerUnavailable` (network,
time-out, 5xx), `RateLimited` (429), `Rejected` (400, 403, 422), `UnknownStudy` (404), `BadResponse`
(an answer that breaks the contract).

Source: contract §1.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.milvue.dialect import MILVUE, Dialect
from pacsor_tasks.milvue.download import Download
from pacsor_tasks.milvue.findings import read_findings
from pacsor_tasks.milvue.outcomes import (
    CommandForbidden,
    ExpiredUrl,
    FormattingError,
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UnknownStudy,
    UnreadableInstance,
    UploadItem,
)
from pacsor_tasks.milvue.refusals import clean
from pacsor_tasks.milvue.schemas import Detections, Measures, PolledStudy, validated
from pacsor_tasks.milvue.transport import Transport
from pacsor_tasks.milvue.upload import SignedUpload, upload_directly

__all__ = [
    "CommandForbidden",
    "Detections",
    "ExpiredUrl",
    "FormattingError",
    "Measures",
    "MilvueClient",
    "Outcome",
    "Results",
    "StudyState",
    "StudyStatus",
    "UnknownStudy",
    "UnreadableInstance",
    "UploadItem",
]


class MilvueClient:
    """Talks to one API with one token over kept connections. Safe to use from several threads.

    Args:
        base_url: Of the environment, e.g. https://predict.milvue.com.
        token: The API key.
        signed_url: Move instances through signed URLs of a storage (cloud) or directly (on-prem).
        connect_timeout_s: To a connection.
        read_timeout_s: To the first byte of an answer, and between its blocks.
        parallel: Signed transfers at once, and connections kept, at least 1.
        dialect: Names the settings that errors point to.

    Raises:
        ConfigError: The URL or the token cannot be used.
    """

    def __init__(  # noqa: PLR0913 - the settings of one environment
        self,
        base_url: str,
        token: str,
        *,
        signed_url: bool,
        connect_timeout_s: float = 10,
        read_timeout_s: float = 120,
        parallel: int = 4,
        dialect: Dialect = MILVUE,
    ) -> None:
        self._is_signed = signed_url
        self._parallel = max(1, parallel)
        self._transport = Transport(
            base_url,
            token,
            timeouts_s=(connect_timeout_s, read_timeout_s),
            parallel=self._parallel + 1,
            dialect=dialect,
        )

    def __enter__(self) -> MilvueClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections."""
        self._transport.close()

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        """Upload instances of one study.

        Args:
            study_uid: Of all items.
            items: What to send; nothing is asked of the API when there is none.
            on_uploaded: Called in this thread after each instance the API has. By signed URLs that
                is instance by instance, also for those that were under way when another failed;
                directly it is all at the end.
            before_put: Called in this thread before each instance goes out, e.g. to wait for a rate
                limit. Directly that is in the middle of the one request: it should wait there, and
                an error it raises gives the request up.

        Raises:
            BadResponse: Among others: the API gave no signed URL for some instances.
            ExpiredUrl: A storage refused a signed URL: upload the rest again.
            UnreadableInstance: A file cannot be sent.
        """
        if not items:
            return
        if self._is_signed:
            SignedUpload(self._transport, study_uid, self._parallel).run(
                items, on_uploaded, before_put
            )
        else:
            upload_directly(self._transport, study_uid, items, on_uploaded, before_put)

    def status(self, study_uid: str) -> StudyStatus:
        """How far the AI is with a study. Its `error` is a state, not an exception.

        Raises:
            UnknownStudy: Not uploaded, or not visible yet.
        """
        what = f"status of {study_uid}"
        with self._transport.api("GET", ("studies", study_uid, "status"), what) as answer:
            polled = validated(PolledStudy, answer.json_object(), what)
        if polled.StudyInstanceUID not in {"", study_uid}:
            raise BadResponse(f"{what}: the answer is about another study")
        return StudyStatus(
            state=polled.status, version=clean(polled.version), message=clean(polled.message)
        )

    def results(
        self, study_uid: str, command: str, into: Path, params: Mapping[str, str] | None = None
    ) -> Results:
        """Fetch the DICOM results of one command.

        Args:
            study_uid: Of the uploaded study.
            command: The inference command; an open word.
            into: A directory for nothing else: emptied first, and left empty by an error.
            params: More of the query: output_format, language, …

        Raises:
            NotReady: The prediction is running.
            FormattingError: Predicted, but not rendered.
            UnknownStudy: Not uploaded, or not visible yet.
            ExpiredUrl: A storage refused a signed URL: ask again.
            Retryable: Also when the results cannot be written.
        """
        download = Download(self._transport, study_uid, command, self._parallel)
        return download.run(into, params or {}, is_signed=self._is_signed)

    def findings(
        self, study_uid: str, command: str, language: str | None = None
    ) -> Detections | Measures:
        """The findings of one command as data.

        Args:
            study_uid: Of the study.
            command: The inference command; an open word.
            language: Two letters; only sent to commands that detect.

        Raises:
            NotReady: The prediction is running.
            CommandForbidden: The licence does not cover the command.
            UnknownStudy: The study is not with this API.
        """
        return read_findings(self._transport, study_uid, command, language)

    def mark_interesting(self, study_uid: str) -> None:
        """Flag a study for the AI's makers to look at.

        Raises:
            UnknownStudy: It was not uploaded.
        """
        route = ("interesting", study_uid)
        with self._transport.api("POST", route, f"flagging of {study_uid}") as answer:
            answer.drain()

    def check(self) -> None:
        """Prove that the API answers and takes the token, by asking for a study nobody has.

        Raises:
            Rejected: The token is refused.
            BadResponse: What answers at this address is not the API.
        """
        try:
            self.status(f"2.25.{uuid.uuid4().int}")
        except UnknownStudy as exc:
            if not exc.is_from_api:
                raise BadResponse(
                    f"{self._transport.host} answers, but not as the Milvue API; check API_URL"
                ) from exc

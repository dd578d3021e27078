"""Asks for one command's results and reads every shape the answer can have.

`running` in any of them raises `NotReady`: it must never pass for a study without results.

Source: contract §1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from pacsor_tasks.errors import BadResponse, NotReady
from pacsor_tasks.milvue.inbox import FileSink, Inbox
from pacsor_tasks.milvue.media import MediaType
from pacsor_tasks.milvue.multipart import PartSink, read_parts
from pacsor_tasks.milvue.outcomes import FormattingError, Outcome, Results
from pacsor_tasks.milvue.pool import BoundedPool
from pacsor_tasks.milvue.refusals import FORMATTING, clean, message_of
from pacsor_tasks.milvue.schemas import GotStudy, SignedResults, validated
from pacsor_tasks.milvue.transport import Answer, Transport, parse_object

log = structlog.get_logger(__name__)

_ACCEPT_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*, application/json'
_ACCEPT_JSON = "application/json"
#: Results are compressed images already, and a transfer encoding would hide their length.
_PLAIN = {"Accept-Encoding": "identity"}
STATUS_BYTES = 1024 * 1024


class Download:
    """One command's results of one study.

    Args:
        transport: To the API and the storage.
        study_uid: Of the study that was uploaded.
        command: The inference command.
        parallel: Signed URLs fetched at once.
    """

    def __init__(self, transport: Transport, study_uid: str, command: str, parallel: int) -> None:
        self._transport = transport
        self._study_uid = study_uid
        self._command = command
        self._parallel = parallel
        self._what = f"{command} results of {study_uid}"

    def run(self, into: Path, params: Mapping[str, str], *, is_signed: bool) -> Results:
        """Ask, read, and leave whole files in `into`, or none."""
        query = {
            **params,
            "inference_command": self._command,
            "signed_url": "true" if is_signed else "false",
        }
        headers = {**_PLAIN, "Accept": _ACCEPT_JSON if is_signed else _ACCEPT_DICOM}
        route = ("studies", self._study_uid)
        with Inbox(into) as inbox:
            with self._transport.api(
                "GET", route, self._what, params=query, headers=headers
            ) as answer:
                said = self._read(answer, inbox)
            study = validated(GotStudy, said, self._what)
            outcome = outcome_of(study, self._study_uid, self._what)
            paths: list[Path] = []
            if outcome is not Outcome.FORBIDDEN:
                self._fetch(validated(SignedResults, said, self._what).signed_urls, inbox)
                paths = inbox.publish()
                outcome = Outcome.DONE if paths else Outcome.EMPTY
        log.info(
            "results.received",
            study_uid=self._study_uid,
            command=self._command,
            outcome=str(outcome),
            n_instances=len(paths),
        )
        return Results(outcome=outcome, paths=paths, message=clean(study.message))

    def _read(self, answer: Answer, inbox: Inbox) -> dict[str, Any]:
        """The status the answer carries; a plain set of DICOM parts, or none, is `done`."""
        if answer.media.is_json:
            return self._status(answer.body())
        if answer.media.is_multipart:
            parts = _Parts(inbox, answer.media)
            read_parts(answer.blocks(), answer.media.boundary, parts.open)
            return {"status": "done"} if parts.status is None else self._status(parts.status)
        named = clean(answer.media.name) or "no media type"
        raise BadResponse(f"{self._what}: answered with {named}")

    def _status(self, body: bytes | bytearray) -> dict[str, Any]:
        value = parse_object(body, self._what)
        if "status" not in value and FORMATTING in message_of(body).casefold():
            raise FormattingError(f"{self._what}: {clean(message_of(body))}")
        return value

    def _fetch(self, urls: Sequence[str], inbox: Inbox) -> None:
        # The same URL twice is the same result twice.
        jobs = [(url, inbox.reserve()) for url in dict.fromkeys(urls)]
        for url, _ in jobs:
            self._transport.check_signed(url, self._what)

        def fetch(job: tuple[str, Path]) -> None:
            self._fetch_one(job[0], job[1], inbox)

        pool = BoundedPool[tuple[str, Path], None](
            fetch, parallel=self._parallel, on_done=lambda _job, _none: None
        )
        pool.run(jobs)

    def _fetch_one(self, url: str, path: Path, inbox: Inbox) -> None:
        headers = {**_PLAIN, "Accept": "*/*", "Content-Type": "application/dicom"}
        with self._transport.signed("GET", url, self._what, headers=headers) as answer:
            if answer.status != 200:
                raise BadResponse(f"{self._what}: a signed URL answered HTTP {answer.status}")
            sink = inbox.sink(path, gzipped=answer.media.is_gzipped)
            for block in answer.blocks():
                sink.write(block)
            sink.finish()


def outcome_of(study: GotStudy, study_uid: str, what: str) -> Outcome:
    """What a status means.

    Raises:
        NotReady: The prediction is running.
        BadResponse: The word is unknown, or the answer is about another study.
    """
    if study.StudyInstanceUID not in {"", study_uid}:
        raise BadResponse(f"{what}: the answer is about study {study.StudyInstanceUID[:64]!r}")
    if study.status == "running":
        raise NotReady(f"{what}: the prediction is running")
    try:
        return Outcome(study.status)
    except ValueError:
        raise BadResponse(f"{what}: unknown status {study.status[:32]!r}") from None


class _Parts:
    """Decides where each part of a multipart answer goes."""

    def __init__(self, inbox: Inbox, outer: MediaType) -> None:
        self._inbox = inbox
        self._default = outer.root or "application/dicom"
        #: the last status part, whole once all parts are read
        self.status: bytearray | None = None

    def open(self, headers: Mapping[str, str]) -> PartSink:
        media = MediaType.parse(headers.get("content-type", self._default))
        if media.is_dicom:
            return self._file(media)
        if media.is_json:
            self.status = bytearray()
            return _StatusSink(self.status)
        raise BadResponse(f"a part of the answer is {clean(media.name) or 'of no media type'}")

    def _file(self, media: MediaType) -> FileSink:
        return self._inbox.sink(self._inbox.reserve(), gzipped=media.is_gzipped)


class _StatusSink:
    """Keeps a status part, which is small."""

    def __init__(self, into: bytearray) -> None:
        self._into = into

    def write(self, data: memoryview, /) -> None:
        self._into += data
        if len(self._into) > STATUS_BYTES:
            raise BadResponse(f"a status part of the answer is larger than {STATUS_BYTES} bytes")

    def finish(self) -> None:
        """Nothing is left to do."""

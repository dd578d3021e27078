"""E2 to E6 and the signed downloads: how a prediction stands, and its results. Contract §1.5."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from simulators.milvue import predictions, rendering
from simulators.milvue.exchange import KEY_HEADER, Desk, Exchange, HttpRefusal, error, paced
from simulators.milvue.multipart import closer, new_boundary, wrap, write_parts
from simulators.milvue.signing import Signer
from simulators.milvue.studies import Progress, Studies
from simulators.milvue.switches import MEASURES


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers every GET about a study."""

    desk: Desk
    studies: Studies
    signer: Signer
    executor: Executor

    async def status(self, request: Request, study_uid: str) -> Response:
        """E2."""

        async def work(exchange: Exchange) -> Response:
            progress = self._progress(exchange, study_uid)
            status = "running" if progress == "uploading" else progress
            exchange.notes["answer"] = status
            answer = predictions.head(study_uid, status, exchange.switches)
            if progress == "uploading":
                answer["message"] = "waiting for instances to be uploaded"
            return JSONResponse(answer)

        return await self.desk.handle(request, "status", work, study_uid=study_uid)

    async def results(
        self, request: Request, study_uid: str, command: str, storage_url: str | None
    ) -> Response:
        """E3; with a storage URL, as a list of signed URLs."""

        async def work(exchange: Exchange) -> Response:
            self._check_command(exchange, command)
            exchange.notes |= {"signed": storage_url is not None}
            shape = self._shape(exchange, study_uid, command)
            exchange.notes["answer"] = shape
            if shape == "formatting_error":
                return error(exchange.switches.formatting_status, "Error formatting study")
            if shape == "wrong_content_type":
                return HTMLResponse("<html><body>Bad gateway</body></html>")
            if shape in ("running", "forbidden", "status_empty", "status_done"):
                status = shape.removeprefix("status_")
                return self._json(exchange, study_uid, status, raw=storage_url is not None)
            if storage_url is not None:
                return self._signed_list(exchange, study_uid, command, storage_url)
            return self._multipart(exchange, study_uid, command, shape)

        return await self.desk.handle(
            request, "results", work, study_uid=study_uid, command=command
        )

    async def download(self, request: Request, study_uid: str, command: str, name: str) -> Response:
        """One result at its signed URL. ``name`` is kind, source instance and number."""

        async def work(exchange: Exchange) -> Response:
            query = request.query_params
            signature = query.get("se", ""), query.get("sig", "")
            is_valid = self.signer.is_valid(request.url.path, *signature)
            if exchange.switches.expired or not is_valid:
                raise HttpRefusal(403, "signature not valid in the specified time frame")
            if exchange.switches.storage == "gcs" and not request.headers.get(KEY_HEADER):
                raise HttpRefusal(403, f"{KEY_HEADER} is required")
            kind, sop_instance_uid, number = name.split("~")
            instances = self.studies.instances(study_uid)
            result = rendering.find(instances, kind, sop_instance_uid, int(number))
            if result is None:
                raise HttpRefusal(404, "no such result")
            stream = rendering.body(result, command, exchange.switches, self.executor)
            return StreamingResponse(paced(stream, exchange), media_type="application/dicom")

        return await self.desk.handle(
            request, "download", work, study_uid=study_uid, command=command
        )

    async def findings(
        self, request: Request, study_uid: str, command: str, language: str | None
    ) -> Response:
        """E4 and E5."""

        async def work(exchange: Exchange) -> Response:
            switches = exchange.switches
            self._check_command(exchange, command)
            answer = self._findings_status(exchange, study_uid, command)
            exchange.notes["answer"] = answer
            if answer == "not_found":
                raise HttpRefusal(404, "study not found")
            if answer != "done":
                return JSONResponse(predictions.head(study_uid, answer, switches))
            instances = self.studies.instances(study_uid)
            if command in MEASURES:
                return JSONResponse(predictions.measures(study_uid, instances, switches))
            return JSONResponse(predictions.detections(study_uid, instances, switches, language))

        return await self.desk.handle(
            request, "findings", work, study_uid=study_uid, command=command
        )

    async def interesting(self, request: Request, study_uid: str) -> Response:
        """E6."""

        async def work(_: Exchange) -> Response:
            if not self.studies.mark_interesting(study_uid):
                raise HttpRefusal(404, "study not found")
            return JSONResponse({})

        return await self.desk.handle(request, "interesting", work, study_uid=study_uid)

    def _progress(self, exchange: Exchange, study_uid: str) -> Progress:
        progress = self.studies.progress(study_uid, exchange.switches)
        if progress == "unknown":
            exchange.notes["answer"] = "not_found"
            raise HttpRefusal(404, "study not found")
        return progress

    def _is_running(self, exchange: Exchange, study_uid: str) -> bool:
        progress = self._progress(exchange, study_uid)
        if progress == "error":
            message = exchange.switches.status_message or "Prediction error"
            raise HttpRefusal(400, message)
        return progress != "done"

    def _shape(self, exchange: Exchange, study_uid: str, command: str) -> str:
        """The shape to answer E3 with, counting answers that are `running` all the same."""
        if self._is_running(exchange, study_uid):
            return "running"
        is_late = self.studies.count(study_uid, f"results:{command}")
        if is_late < exchange.switches.e3_running_times:
            return "running"
        return exchange.switches.e3_shape

    def _findings_status(self, exchange: Exchange, study_uid: str, command: str) -> str:
        if self._is_running(exchange, study_uid):
            return "running"
        if exchange.switches.findings != "done":
            return exchange.switches.findings
        is_late = self.studies.count(study_uid, f"findings:{command}")
        return "running" if is_late < exchange.switches.findings_running_times else "done"

    @staticmethod
    def _check_command(exchange: Exchange, command: str) -> None:
        if command not in exchange.switches.commands:
            raise HttpRefusal(400, f"unknown inference_command {command!r}")

    @staticmethod
    def _json(exchange: Exchange, study_uid: str, status: str, *, raw: bool) -> Response:
        """A status, raw if the client accepts JSON, else wrapped in a part (contract §1.5 c)."""
        answer = JSONResponse(predictions.head(study_uid, status, exchange.switches))
        wrapping = exchange.switches.json_wrapping
        accepts = "application/json" in exchange.request.headers.get("accept", "").lower()
        if wrapping == "raw" or (wrapping == "auto" and (raw or accepts)):
            return answer
        boundary = new_boundary(exchange.switches.boundary_length)
        body = wrap(boundary, "application/json", bytes(answer.body))
        return Response(body, media_type=f"multipart/related; boundary={boundary}")

    def _signed_list(
        self, exchange: Exchange, study_uid: str, command: str, storage_url: str
    ) -> Response:
        switches = exchange.switches
        is_running = switches.e3_signed == "list_running"
        status = "running" if is_running else "done"
        answer = predictions.head(study_uid, status, switches)
        if switches.e3_signed != "absent":
            answer["signed_urls"] = []
        if switches.e3_signed in ("list", "list_running") and switches.e3_shape != "empty":
            answer["signed_urls"] = [
                self.signer.sign(
                    storage_url,
                    f"/storage/results/{study_uid}/{command}/{_result_name(result)}",
                    switches.signed_url_ttl_s,
                )
                for result in self._plan(exchange, study_uid)
            ]
        return JSONResponse(answer)

    def _multipart(self, exchange: Exchange, study_uid: str, command: str, shape: str) -> Response:
        switches = exchange.switches
        boundary = new_boundary(switches.boundary_length)
        media_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        results = [] if shape == "empty" else self._plan(exchange, study_uid)
        exchange.notes["results"] = len(results)
        if not results:
            return Response(closer(boundary), media_type=media_type)

        async def bodies() -> AsyncIterator[AsyncIterator[bytes]]:
            for result in results:
                yield rendering.body(result, command, switches, self.executor)

        stream = write_parts(
            bodies(),
            boundary,
            gzip=shape == "dicom+gzip",
            truncate_part=len(results) - 1 if shape == "truncated" else None,
        )
        return StreamingResponse(paced(stream, exchange), media_type=media_type)

    def _plan(self, exchange: Exchange, study_uid: str) -> list[rendering.Result]:
        instances = self.studies.instances(study_uid)
        results = rendering.plan(instances, exchange.switches, exchange.request.query_params)
        repeat = 2 if exchange.switches.duplicate else 1
        return [result for result in results for _ in range(repeat)]


def _result_name(result: rendering.Result) -> str:
    return f"{result.kind}~{result.source.sop_instance_uid}~{result.number}"

"""The routes of the simulated TechCare Report API, by the contract of docs/techcare-report.md."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydicom import dcmread
from python_multipart.multipart import MultipartParser, parse_options_header

from pacsor_tasks.errors import ConfigError
from simulators.journal import Journal
from simulators.switches import Switches
from simulators.tcr.switches import TcrSwitches

if TYPE_CHECKING:
    # Its package, websockets, is not where nobody needs it.
    from simulators.tcr.pubsub import PubSub

KEY_HEADER = "x-goog-meta-owner"
#: What a study nobody wrote a report for gets.
DEFAULT_REPORT = {
    "title": "Radiograph of the left hand",
    "indication": "Trauma",
    "technique": "Two views",
    "results": ["No fracture is seen.", "The joint spaces are kept."],
    "conclusion": "No sign of a fracture.",
    "type": "radiograph",
}


@dataclass
class Desk:
    """What the routes work with."""

    switches: Switches[TcrSwitches]
    journal: Journal
    pubsub: PubSub | None
    #: study UID → the members of its answer
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: study UID → SOP Instance UIDs
    studies: dict[str, set[str]] = field(default_factory=dict)

    async def begin(
        self, request: Request, operation: str, study_uid: str | None = None
    ) -> TcrSwitches | Response:
        """Note the request; an answer when it is not to get its own."""
        found = self.switches.take(operation=operation, study_uid=study_uid)
        given = request.headers.get(KEY_HEADER) or request.headers.get("authorization", "")
        token = given.removeprefix("Bearer ")
        self.journal.add(
            operation,
            study_uid=study_uid,
            token=token,
            path=request.url.path,
            query=dict(request.query_params),
            headers=dict(request.headers),
        )
        await asyncio.sleep(found.delay_s)
        if found.reset:
            await _reset(request)
            return Response(status_code=499)
        if not token or (found.tokens and token not in found.tokens):
            return error(403, "this token is not known")
        if found.fault is not None:
            headers = {"Retry-After": found.retry_after} if found.retry_after else None
            return error(found.fault, f"simulated fault {found.fault}", headers)
        return found

    def knows(self, study_uid: str, switches: TcrSwitches) -> bool:
        """Whether there is something to say of a study."""
        is_known = study_uid in self.reports or study_uid in self.studies
        return is_known or not switches.known_only


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error answer."""
    return JSONResponse({"message": message}, status_code=status, headers=headers)


def build_app(desk: Desk, reset: Callable[[], None]) -> FastAPI:
    """The application."""
    app = FastAPI(title="Simulated TechCare Report API", openapi_url=None)
    app.include_router(_reading(desk))
    app.include_router(_sending(desk))
    app.include_router(_control(desk, reset))

    @app.exception_handler(ConfigError)
    async def bad_switch(request: Request, exc: ConfigError) -> Response:  # noqa: ARG001
        return error(400, str(exc))

    return app


def _reading(desk: Desk) -> APIRouter:
    router = APIRouter()

    @router.get("/report", response_model=None)
    async def get_report(request: Request, study_instance_uid: str) -> Response:
        found = await desk.begin(request, "report", study_instance_uid)
        if isinstance(found, Response):
            return found
        return _report(desk, found, study_instance_uid)

    @router.get("/studies/{study_uid}/status", response_model=None)
    async def get_status(request: Request, study_uid: str) -> Response:
        found = await desk.begin(request, "status", study_uid)
        if isinstance(found, Response):
            return found
        if not desk.knows(study_uid, found):
            return error(404, "this study was not sent")
        return JSONResponse({"StudyInstanceUID": study_uid, "status": found.study_status})

    router.add_api_route("/webpubsub/access", _access(desk), response_model=None)
    return router


def _report(desk: Desk, switches: TcrSwitches, study_uid: str) -> Response:
    if switches.body is not None:
        return Response(switches.body, media_type="application/json")
    if not desk.knows(study_uid, switches):
        return error(404, "no report of this study")
    named = "1.2.3" if switches.other_study else study_uid
    answer: dict[str, Any] = {"StudyInstanceUID": named, "status": switches.status}
    if switches.status == "done":
        answer |= desk.reports.get(study_uid, {"report": DEFAULT_REPORT})
    return JSONResponse(answer)


def _access(desk: Desk) -> Callable[..., Any]:
    async def get_access(request: Request, providers: str) -> Response:
        found = await desk.begin(request, "access")
        if isinstance(found, Response):
            return found
        if desk.pubsub is None:
            return error(404, "there is no Web PubSub")
        host = request.url.hostname or "127.0.0.1"
        return JSONResponse({"url": desk.pubsub.access_url(host, providers.split(","))})

    return get_access


def _sending(desk: Desk) -> APIRouter:
    router = APIRouter()

    @router.post("/studies", response_model=None)
    async def post_study(request: Request, organizationId: str = "") -> Response:  # noqa: N803
        found = await desk.begin(request, "upload")
        body = await request.body()
        if isinstance(found, Response):
            return found
        if not organizationId:
            return error(400, "organizationId is missing")
        instances = [
            dcmread(BytesIO(part), stop_before_pixels=True) for part in _parts(request, body)
        ]
        uids = {str(i.StudyInstanceUID) for i in instances}
        if len(uids) != 1:
            return error(400, "one study at a time")
        study_uid = uids.pop()
        sops = [str(i.SOPInstanceUID) for i in instances]
        desk.studies.setdefault(study_uid, set()).update(sops)
        desk.journal.add("received", study_uid=study_uid, instances=sops, of=organizationId)
        return JSONResponse({"StudyInstanceUID": study_uid, "message": "received"})

    return router


def _control(desk: Desk, reset: Callable[[], None]) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.put("/_simulator/switches", response_model=None)
    async def put_switches(document: Annotated[Any, Body()]) -> Response:
        desk.switches.apply(document)
        return JSONResponse(desk.switches.describe())

    @router.put("/_simulator/reports/{study_uid}", response_model=None)
    async def put_report(study_uid: str, document: Annotated[dict[str, Any], Body()]) -> Response:
        desk.reports[study_uid] = document
        return JSONResponse({"status": "ok"})

    @router.post("/_simulator/publish/{provider}", response_model=None)
    async def publish(provider: str, document: Annotated[dict[str, Any], Body()]) -> Response:
        if desk.pubsub is None:
            return error(404, "there is no Web PubSub")
        n = await asyncio.to_thread(desk.pubsub.publish, provider, document)
        return JSONResponse({"listeners": n})

    @router.get("/_simulator/journal", response_model=None)
    async def get_journal(kind: str | None = None) -> Response:
        return JSONResponse(
            {"events": json.loads(json.dumps(desk.journal.events(kind), default=str))}
        )

    @router.post("/_simulator/reset", response_model=None)
    async def post_reset() -> Response:
        reset()
        return JSONResponse({"status": "ok"})

    return router


def _parts(request: Request, body: bytes) -> list[bytes]:
    _, options = parse_options_header(request.headers.get("content-type", ""))
    parts: list[bytearray] = []
    parser = MultipartParser(
        options.get(b"boundary", b"-"),
        {
            "on_part_begin": lambda: parts.append(bytearray()),
            "on_part_data": lambda data, start, end: parts[-1].extend(data[start:end]),
        },
    )
    parser.write(body)
    parser.finalize()
    return [bytes(part) for part in parts]


async def _reset(request: Request) -> None:
    transport: asyncio.Transport = request.scope["state"]["transport"]
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0)

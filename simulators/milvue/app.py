"""The routes of the simulated API v3, of its storage, and those that control it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from pacsor_tasks.errors import ConfigError
from simulators.milvue.answers import Answers
from simulators.milvue.exchange import KEY_HEADER, Desk, HttpRefusal, drain, error
from simulators.milvue.switches import DETECTIONS, MEASURES
from simulators.milvue.uploads import Uploads


class OutputFormat(StrEnum):
    """Query values of E3, validated as the service does."""

    OVERLAY = "overlay"
    HIGHBIT = "highbit"
    GSPS = "gsps"


class Language(StrEnum):
    """As above."""

    FR = "fr"
    EN = "en"
    ES = "es"
    DE = "de"
    IT = "it"
    PT = "pt"


class OutputSelection(StrEnum):
    """As above."""

    ALL = "all"
    NO_RECAP = "no_recap"
    NO_NEGATIVES = "no_negatives"
    NONE = "none"


class RecapTheme(StrEnum):
    """As above."""

    DARK = "dark"
    LIGHT = "light"


class StructuredReport(StrEnum):
    """As above."""

    LITE = "lite"
    NORMAL = "normal"
    FULL = "full"
    NONE = "none"


class StaticReport(StrEnum):
    """As above."""

    RGB = "rgb"
    PDF = "pdf"
    NONE = "none"


@dataclass(frozen=True)
class ResultOptions:
    """The optional query parameters of E3: checked here, read by name where they matter."""

    output_format: OutputFormat | None = None
    language: Language | None = None
    timezone: str | None = None
    output_selection: OutputSelection | None = None
    recap_theme: RecapTheme | None = None
    structured_report_format: StructuredReport | None = None
    static_report_format: StaticReport | None = None


@dataclass(frozen=True)
class Backend:
    """What the routes call."""

    desk: Desk
    uploads: Uploads
    answers: Answers
    #: the port of the signed URLs, known once listening
    storage_port: Callable[[], int]
    #: drops studies, journal and rules
    reset: Callable[[], None]

    def storage_url(self, request: Request) -> str:
        """The storage as this client can reach it: the host it called, the other port."""
        return f"{request.url.scheme}://{request.url.hostname}:{self.storage_port()}"

    async def check_key(self, request: Request) -> None:
        """Every call carries an accepted API key.

        Raises:
            HttpRefusal: 403.
        """
        tokens = self.desk.switches.peek().tokens
        key = request.headers.get(KEY_HEADER, "")
        if key and (not tokens or key in tokens):
            return
        await drain(request)
        self.desk.journal.note(None, None, dict(request.headers))
        self.desk.journal.add("refused", path=request.url.path, token=key, status=403)
        raise HttpRefusal(403, "invalid API key" if key else f"{KEY_HEADER} is missing")


def build_app(backend: Backend) -> FastAPI:
    """The application: API, storage and control on the same listeners."""
    app = FastAPI(title="Simulated Milvue API", version="3", openapi_url=None)
    app.include_router(_api(backend))
    app.include_router(_storage(backend))
    app.include_router(_control(backend))

    @app.exception_handler(HttpRefusal)
    async def refused(request: Request, exc: HttpRefusal) -> Response:  # noqa: ARG001
        return error(exc.status, str(exc))

    @app.exception_handler(ConfigError)
    async def bad_switch(request: Request, exc: ConfigError) -> Response:  # noqa: ARG001
        return error(400, str(exc))

    return app


def _api(backend: Backend) -> APIRouter:
    router = APIRouter(prefix="/v3", dependencies=[Depends(backend.check_key)])
    uploads, answers = backend.uploads, backend.answers

    @router.post("/studies", response_model=None)
    async def post_study(request: Request, signed_url: bool = False) -> Response:
        return await uploads.post(request, backend.storage_url(request) if signed_url else None)

    @router.get("/studies/{study_uid}/status", response_model=None)
    async def get_status(request: Request, study_uid: str) -> Response:
        return await answers.status(request, study_uid)

    @router.get("/studies/{study_uid}", response_model=None)
    async def get_study(
        request: Request,
        study_uid: str,
        inference_command: str,
        options: Annotated[ResultOptions, Depends()],  # noqa: ARG001  (validated by being declared)
        signed_url: bool = False,
    ) -> Response:
        storage_url = backend.storage_url(request) if signed_url else None
        return await answers.results(request, study_uid, inference_command, storage_url)

    @router.post("/interesting/{study_uid}", response_model=None)
    async def post_interesting(request: Request, study_uid: str) -> Response:
        return await answers.interesting(request, study_uid)

    for command in (*DETECTIONS, *MEASURES):
        route = _findings_route(answers, command)
        router.add_api_route(f"/{command}/{{study_uid}}", route, response_model=None)
    return router


def _findings_route(answers: Answers, command: str) -> Callable[..., Any]:
    async def get_findings(
        request: Request, study_uid: str, language: str | None = None
    ) -> Response:
        return await answers.findings(request, study_uid, command, language)

    return get_findings


def _storage(backend: Backend) -> APIRouter:
    router = APIRouter(prefix="/storage")

    @router.put("/upload/{study_uid}/{sop_instance_uid}", response_model=None)
    async def put_instance(request: Request, study_uid: str, sop_instance_uid: str) -> Response:
        return await backend.uploads.put(request, study_uid, sop_instance_uid)

    @router.get("/results/{study_uid}/{command}/{name}", response_model=None)
    async def get_result(request: Request, study_uid: str, command: str, name: str) -> Response:
        return await backend.answers.download(request, study_uid, command, name)

    return router


def _control(backend: Backend) -> APIRouter:
    router = APIRouter()
    switches, journal = backend.desk.switches, backend.desk.journal

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/_simulator/switches", response_model=None)
    async def get_switches() -> Response:
        return JSONResponse(switches.describe())

    @router.put("/_simulator/switches", response_model=None)
    async def put_switches(document: Annotated[Any, Body()]) -> Response:
        switches.apply(document)
        return JSONResponse(switches.describe())

    @router.delete("/_simulator/switches", response_model=None)
    async def delete_switches() -> Response:
        switches.clear()
        return JSONResponse(switches.describe())

    @router.get("/_simulator/journal", response_model=None)
    async def get_journal(
        kind: str | None = None, study_uid: str | None = None, events: bool = True
    ) -> Response:
        scope = {} if study_uid is None else {"study_uid": study_uid}
        found = journal.events(kind, **scope) if events else []
        return JSONResponse({**journal.summary(), "events": found})

    @router.post("/_simulator/reset", response_model=None)
    async def post_reset() -> Response:
        backend.reset()
        return JSONResponse({"status": "ok"})

    return router

"""The admin application: what stands in front of the routes, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from pacsor_tasks import __version__
from pacsor_tasks.admin import api, hl7, metrics, operate, pages, peers, refused, relaunch
from pacsor_tasks.admin.changes import Changes
from pacsor_tasks.admin.deps import AdminDeps
from pacsor_tasks.admin.recent import Recent
from pacsor_tasks.admin.security import Gate, Sessions, wants_page
from pacsor_tasks.admin.web import Envelope
from pacsor_tasks.errors import NotFound, PacsorError, Permanent, Retryable

log = structlog.get_logger(__name__)

STATIC = Path(__file__).parent / "static"
#: Bodies are forms and wishes of a few lines.
MAX_BODY_BYTES = 64 * 1024
RETRY_AFTER_S = 5
NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(deps: AdminDeps) -> FastAPI:
    """The application over what it is given."""
    app = FastAPI(
        title="pacsor-tasks",
        version=__version__,
        docs_url=None,  # Swagger's page loads its code from another site
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_lifespan,
        max_body_size=MAX_BODY_BYTES,
        telemetry=NO_TELEMETRY,  # type: ignore[arg-type] # a TypedDict
    )
    sessions = Sessions(deps.token) if deps.token else None
    app.state.deps = deps
    app.state.sessions = sessions
    app.state.registry = metrics.registry(deps)
    app.state.changes = Changes(deps.studies, deps.receiving.by_study)
    app.state.totals = Recent(deps.studies.totals)
    app.state.peers = Recent(lambda: peers.listing(deps.ports))
    app.state.health_limiter = anyio.CapacityLimiter(8)
    app.include_router(api.router)
    app.include_router(operate.api)
    app.include_router(relaunch.api)
    app.include_router(hl7.api)
    app.include_router(pages.router, include_in_schema=False)
    app.include_router(hl7.pages, include_in_schema=False)
    app.include_router(refused.api)
    app.include_router(refused.pages, include_in_schema=False)
    app.include_router(operate.pages, include_in_schema=False)
    app.include_router(relaunch.pages, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(PacsorError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_middleware(Gate, sessions=sessions, refusal_delay_s=deps.refusal_delay_s)
    app.add_middleware(Envelope)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    poller = asyncio.create_task(app.state.changes.run())
    try:
        yield
    finally:
        app.state.changes.close()
        poller.cancel()
        with suppress(asyncio.CancelledError):
            await poller


async def _on_error(request: Request, exc: Exception) -> Response:
    status, detail, headers = _answer(exc)
    if status >= 500:
        log.warning("http.failed", status=status, error=detail)
    if wants_page(request):
        page = await anyio.to_thread.run_sync(lambda: pages.error(request, status, detail))
        page.headers.update(headers)
        return page
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _answer(exc: Exception) -> tuple[int, str, dict[str, str]]:
    if isinstance(exc, HTTPException):
        return exc.status_code, str(exc.detail), dict(exc.headers or {})
    if isinstance(exc, RequestValidationError):
        first = exc.errors()[0]
        is_unknown = first["type"] == "extra_forbidden"
        said = "there is no such name here" if is_unknown else first["msg"]
        return 422, f"{first['loc'][-1]}: {said}", {}
    if isinstance(exc, Retryable):
        after = math.ceil(exc.retry_after_s or RETRY_AFTER_S)
        return 503, str(exc), {"Retry-After": str(after)}
    if isinstance(exc, NotFound):
        return 404, str(exc), {}
    return (409 if isinstance(exc, Permanent) else 500), str(exc), {}

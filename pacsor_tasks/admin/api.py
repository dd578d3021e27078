"""The routes for programs: health, metrics, studies, live changes, actions, configuration."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client.exposition import choose_encoder

from pacsor_tasks.admin.changes import Changes
from pacsor_tasks.admin.deps import Deps
from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import NotFound
from pacsor_tasks.models import InstanceOutcome, RunState

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
#: Reconnection pause that browsers are told, milliseconds.
SSE_RETRY_MS = 2000

_CURSOR = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?)_([0-9.]{1,64})", re.ASCII)
_PREFIX = re.compile(r"[0-9.]{1,64}", re.ASCII)

router = APIRouter()


def _cursor(cursor: str | None = None) -> str | None:
    if not cursor:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None or not math.isfinite(float(match[1])):
        raise HTTPException(422, "cursor: not one that this interface gave")
    return cursor


def _prefix(q: str | None = None) -> str | None:
    q = (q or "").strip()
    if q and not _PREFIX.fullmatch(q):
        raise HTTPException(422, "q: the beginning of a StudyInstanceUID: digits and dots")
    return q or None


def _state(state: str | None = None) -> str | None:
    if state and state not in set(RunState):
        raise HTTPException(422, f"state: {'|'.join(RunState)}")
    return state or None


def _study_uid(study_uid: str) -> str:
    if not is_uid(study_uid):
        raise HTTPException(404, "not a StudyInstanceUID")
    return study_uid


StateFilter = Annotated[str | None, Depends(_state)]
Prefix = Annotated[str | None, Depends(_prefix)]
Cursor = Annotated[str | None, Depends(_cursor)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
StudyUid = Annotated[str, Depends(_study_uid)]


@router.get("/healthz")
async def healthz(request: Request, deps: Deps) -> JSONResponse:
    """Whether everything the gateway depends on is well: 200, or 503 naming what is down."""
    # Its own threads: with the ledger hanging, the shared ones may all be taken.
    report = await anyio.to_thread.run_sync(deps.health, limiter=request.app.state.health_limiter)
    return JSONResponse(report.to_json(), status_code=503 if report.down else 200)


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.registry), headers={"Content-Type": content_type})


@router.get("/api/studies")
def studies(
    deps: Deps, state: StateFilter, q: Prefix, cursor: Cursor, limit: Limit = DEFAULT_LIMIT
) -> dict[str, Any]:
    """Studies, the latest touched first. `q` is the beginning of a StudyInstanceUID."""
    return deps.studies.page(state=state, q=q, limit=limit, cursor=cursor)


@router.get("/api/studies/{study_uid}")
def study(deps: Deps, study_uid: StudyUid) -> dict[str, Any]:
    """One study with its revisions, runs, deliveries and timeline."""
    found = deps.studies.detail(study_uid)
    if found is None:
        raise NotFound(f"no study {study_uid}")
    return found


@router.get("/api/runs/{run_id}/instances")
def run_instances(
    deps: Deps,
    run_id: Annotated[str, Path(max_length=36)],
    outcome: InstanceOutcome | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """What a run did with each instance: for a filtered one the rule, its tag and why."""
    found = deps.studies.instances(run_id, outcome=outcome, limit=limit, after=after)
    if found is None:
        raise NotFound(f"no run {run_id}")
    return found


@router.get("/api/receiving")
def receiving(deps: Deps) -> list[dict[str, Any]]:
    """What was received and is no revision in the ledger yet, with the reason it waits."""
    return [arrival.to_json() for arrival in deps.receiving.arrivals()]


def _changes(request: Request) -> Changes:
    changes: Changes = request.app.state.changes
    if changes.is_full:
        raise HTTPException(503, "too many listeners", headers={"Retry-After": "10"})
    return changes


@router.get("/api/stream", response_class=EventSourceResponse)
async def stream(
    changes: Annotated[Changes, Depends(_changes)],
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Studies as they change (server-sent events).

    `event: changed`, data {"studies": [uid, …], "everything": bool}: by an event in the ledger, or
    by what is received. `event: ledger`, data {"ok": bool}, when the ledger goes away or comes
    back. A reconnection misses nothing that is in the ledger.
    """
    if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 19:
        after = int(last_event_id)
    yield ServerSentEvent(retry=SSE_RETRY_MS, comment="listening")
    ledger_ok = True
    async for change in changes.listen(after):
        if change.ledger_ok != ledger_ok or not change.ledger_ok:
            ledger_ok = change.ledger_ok
            yield ServerSentEvent(event="ledger", data={"ok": ledger_ok})
        if change.studies or change.everything:
            data = {"studies": change.studies, "everything": change.everything}
            yield ServerSentEvent(event="changed", data=data, id=str(change.event_id))


@router.post("/complete/{study_uid}", status_code=202)
def complete(deps: Deps, study_uid: StudyUid) -> dict[str, str]:
    """Close a study that is being received, as it is: 202; 404 when nothing of it is."""
    deps.complete(study_uid)
    return {"study_instance_uid": study_uid}

"""HL7: what was or would be sent to a RIS, and the configuration loaded at run time.

A message is a patient's. These routes stand behind the gate like all others (the token, or this
machine only while there is none), are never cached, and leave a log line of who looked at which
study's; no part of a message is logged.
"""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from pacsor_tasks.admin.api import StudyUid
from pacsor_tasks.admin.deps import AdminDeps, Deps
from pacsor_tasks.admin.pages import render
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.ack import decoded
from pacsor_tasks.hl7.readable import read
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.ledger import iso
from pacsor_tasks.messages import Shown, shown

log = structlog.get_logger(__name__)

api = APIRouter()
pages = APIRouter()

Stem = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RunId = Annotated[str, Path(pattern=r"^[0-9a-fA-F-]{36}$")]
Destination = Annotated[str, Path(pattern=r"^hl7(-[0-9]{1,3})?$")]


@api.get("/config/")
def config(deps: Deps) -> dict[str, Any]:
    """The effective settings, secrets masked; under `hl7` what counts for the messages now."""
    found = dict(deps.config)
    if deps.hl7_config is not None:
        found["hl7"] = deps.hl7_config.shown()
    return found


@api.post("/config/load/{name}")
def load(deps: Deps, name: Stem) -> JSONResponse:
    """Make NAME.json of HL7_CONF_DIR count in every process: 404 no file; 422 a bad key."""
    try:
        loaded = _config(deps).load(name)
    except ConfigError as exc:
        # The file's words may stand in it, also those that are no text.
        said = str(exc).encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"detail": said, "name": name}, status_code=422)
    return JSONResponse({"name": name, "at": iso(loaded.at), "values": dict(loaded.values)})


@api.delete("/config/load")
def unload(deps: Deps) -> dict[str, bool]:
    """Back to the settings as they were at start."""
    return {"unloaded": _config(deps).unload()}


@api.get("/api/studies/{study_uid}/messages/{run_id}/{destination}")
def message(
    request: Request, deps: Deps, study_uid: StudyUid, run_id: RunId, destination: Destination
) -> dict[str, Any]:
    """The message of one run to one RIS, and what the RIS answered. Patient data."""
    found = _shown(request, deps, (study_uid, run_id, destination))
    return {
        "destination": found.destination,
        "run_id": found.run_id,
        "is_made": found.is_made,
        "state": found.delivery["state"],
        "error": found.delivery["error"],
        "notes": list(found.notes),
        "message": decoded(found.message),
        "answer": None if found.answer is None else decoded(found.answer),
    }


@pages.get("/studies/{study_uid}/messages/{run_id}/{destination}", response_class=HTMLResponse)
def page(
    request: Request, deps: Deps, study_uid: StudyUid, run_id: RunId, destination: Destination
) -> Response:
    """The same for people, field by field."""
    found = _shown(request, deps, (study_uid, run_id, destination))
    return render(
        request,
        "message.html",
        study_uid=study_uid,
        shown=found,
        rows=read(found.message),
        raw=_lines(found.message),
        answer_rows=read(found.answer) if found.answer is not None else [],
        answer_raw=_lines(found.answer) if found.answer is not None else [],
    )


def _shown(request: Request, deps: AdminDeps, which: tuple[str, str, str]) -> Shown:
    study_uid, run_id, destination = which
    found = shown(study_uid, destination, deps.ports, run_id)
    client = request.client.host if request.client else None
    log.info("message.shown", study_uid=study_uid, destination=destination, client=client)
    return found


def _config(deps: AdminDeps) -> Hl7Config:
    if deps.hl7_config is None:
        raise HTTPException(501, "no HL7 configuration can be loaded here")
    return deps.hl7_config


def _lines(message: bytes) -> list[str]:
    return decoded(message).replace("\n", "\r").rstrip("\r").split("\r")

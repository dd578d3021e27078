"""Associations that the receiver refused: the page, and the route for programs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from pacsor_tasks.admin.deps import Deps
from pacsor_tasks.admin.pages import render

api = APIRouter()
pages = APIRouter()


@api.get("/api/refused")
def refused(deps: Deps) -> dict[str, Any]:
    """Refused associations, the latest kinds first; totals by reason."""
    found = deps.refused()
    return {"refused": [kind.to_json() for kind in found.kinds], "totals": dict(found.totals)}


@pages.get("/refused", response_class=HTMLResponse)
def page(request: Request, deps: Deps) -> Response:
    """The same for people."""
    return render(
        request,
        "refused.html",
        refused=[kind.to_json() for kind in deps.refused().kinds],
        event_id=deps.studies.last_event_id(),
    )

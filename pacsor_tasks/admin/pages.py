"""The pages for people: studies, one study, login. Rendered here, kept fresh by static/live.js."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

import jinja2
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from pacsor_tasks import __version__
from pacsor_tasks.admin import api, peers, views
from pacsor_tasks.admin.deps import AdminDeps, Deps
from pacsor_tasks.admin.recent import Recent
from pacsor_tasks.admin.security import SESSION_S, Sessions, failed, local_path
from pacsor_tasks.errors import NotFound, PacsorError
from pacsor_tasks.ledger import iso
from pacsor_tasks.models import InstanceOutcome, RunState

PAGE_SIZE = 50
#: Studies being received that the list shows; the others are counted.
MAX_ARRIVALS = 50
#: What needs a person comes first.
STATE_ORDER = sorted(RunState, key=lambda state: state is not RunState.FAILED)
TITLES = {
    404: "Not here",
    405: "Not this way",
    409: "Not now",
    422: "Not understood",
    503: "Not available",
}

#: What a button without JavaScript has done, by the word its answer brings along.
DONE = {
    "retry": "It is tried again now.",
    "skip": "Skipped.",
    "reroute": "Re-routed.",
    "cancel": "The run is cancelled.",
    "pause": "Paused.",
    "resume": "Resumed.",
}

router = APIRouter()


class Part(BaseModel):
    """Which of a run's instances are shown."""

    outcome: InstanceOutcome | None = None
    after: int = Field(0, ge=0)


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("pacsor_tasks.admin"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(views.FILTERS)


@router.get("/", response_class=HTMLResponse)
def index(
    request: Request, deps: Deps, state: api.StateFilter, q: api.Prefix, cursor: api.Cursor
) -> Response:
    """The studies, the latest touched first."""
    event_id = deps.studies.last_event_id()  # before the page: a change in between comes twice
    arrivals = [] if state or cursor else _arrivals(deps, q or "")
    page = deps.studies.page(state=state, q=q, limit=PAGE_SIZE, cursor=cursor)
    shown = {"state": state, "q": q}

    def link(**changed: str | None) -> str:
        given = {k: v for k, v in {**shown, **changed}.items() if v}
        return "/?" + urlencode(given) if given else "/"

    return render(
        request,
        "studies.html",
        page=page,
        arrivals=arrivals[:MAX_ARRIVALS],
        n_arrivals=len(arrivals),
        totals=_totals(request),
        states=STATE_ORDER,
        state=state,
        q=q,
        cursor=cursor,
        link=link,
        event_id=event_id,
    )


@router.get("/studies/{study_uid}", response_class=HTMLResponse)
def study(
    request: Request,
    deps: Deps,
    study_uid: api.StudyUid,
    relaunched: Annotated[int | None, Query(ge=0, le=1000)] = None,
    completed: bool = False,
) -> Response:
    """One study whole."""
    event_id = deps.studies.last_event_id()
    arrivals = [arrival.to_json() for arrival in deps.receiving.of(study_uid)]
    found = deps.studies.detail(study_uid)
    if found is None and not arrivals:
        raise NotFound(f"No study {study_uid} was ever received.")
    if found is None:
        return render(
            request, "arriving.html", study_uid=study_uid, arrivals=arrivals, event_id=event_id,
            completed=completed,
        )  # fmt: skip
    is_held = any(r["removed_at"] is None and r["instances"] for r in found["revisions"])
    return render(
        request, "study.html", study=found, event_id=event_id, relaunched=relaunched,
        not_on=_not_on(request, deps),
        is_held=is_held, arrivals=arrivals, completed=completed, done=_done(request),
        reroutes=lambda run, delivery: peers.reroutes(deps.ports, run, delivery),
    )  # fmt: skip


def _not_on(request: Request, deps: AdminDeps) -> list[str]:
    """The cores on which the study was not relaunched; never what only the address says."""
    told = request.query_params.getlist("not_on")
    return [target.core for target in deps.ports.targets if target.core in told]


@router.get("/destinations", response_class=HTMLResponse)
def destinations(request: Request, deps: Deps) -> Response:
    """Cores and destinations: whether each is talked to, and why not."""
    event_id = deps.studies.last_event_id()
    happened = [{**e, "at": iso(e["at"])} for e in deps.ports.ledger.peers.events()]
    return render(
        request, "destinations.html", everybody=peers.listing(deps.ports), events=happened,
        event_id=event_id, done=_done(request),
    )  # fmt: skip


@router.get("/studies/{study_uid}/runs/{run_id}", response_class=HTMLResponse)
def run_instances(
    request: Request,
    deps: Deps,
    study_uid: api.StudyUid,
    run_id: Annotated[str, Path(max_length=36)],
    part: Annotated[Part, Query()],
) -> Response:
    """What a run did with each instance, and why."""
    limit = PAGE_SIZE * 4
    found = deps.studies.instances(run_id, outcome=part.outcome, limit=limit, after=part.after)
    if found is None or found["study_instance_uid"] != study_uid:
        raise NotFound(f"No such run of study {study_uid}.")
    return render(
        request, "instances.html", run=found, part=part, outcomes=list(InstanceOutcome),
    )  # fmt: skip


@router.post("/studies/{study_uid}/complete")
def complete(deps: Deps, study_uid: api.StudyUid) -> Response:
    """The complete button without JavaScript."""
    deps.complete(study_uid)
    return RedirectResponse(f"/studies/{study_uid}?completed=true", status_code=303)


def _sessions(request: Request) -> Sessions | None:
    sessions: Sessions | None = request.app.state.sessions
    return sessions


MaybeSessions = Annotated[Sessions | None, Depends(_sessions)]


@router.get("/login", response_class=HTMLResponse)
async def login_form(request: Request, sessions: MaybeSessions) -> Response:
    """Where a browser gives the token."""
    target = local_path(request.query_params.get("next", "/"))
    if sessions is None:
        return RedirectResponse("/", status_code=303)
    return _login_page(target)


@router.post("/login", response_class=HTMLResponse)
async def login(request: Request, deps: Deps, sessions: MaybeSessions) -> Response:
    """Trade the token for a session cookie."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    target = local_path(form.get("next", ["/"])[0])
    answer = RedirectResponse(target, status_code=303)
    if sessions is None:
        return answer
    if not sessions.is_token(form.get("token", [""])[0].strip()):
        await failed(request, deps.refusal_delay_s)
        return _login_page(target, refused=True)
    answer.set_cookie(
        sessions.cookie,
        sessions.new(),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def logout(sessions: MaybeSessions) -> Response:
    """Forget the session in this browser."""
    answer = RedirectResponse("/login", status_code=303)
    if sessions is not None:
        answer.delete_cookie(sessions.cookie, httponly=True, samesite="strict")
    return answer


def error(request: Request, status: int, detail: str) -> Response:
    """A page that says what is wrong, and comes back by itself when that may pass."""
    return render(
        request, "error.html", status=status, title=TITLES.get(status, "Something is wrong"),
        detail=detail,
    )  # fmt: skip


def _login_page(target: str, *, refused: bool = False) -> Response:
    text = _templates.get_template("login.html").render(
        target=target, refused=refused, version=__version__, server_now=_now()
    )
    return HTMLResponse(text, status_code=401 if refused else 200)


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page with what every page shows."""
    deps: AdminDeps = request.app.state.deps
    text = _templates.get_template(template).render(
        **context,
        status=status,
        health=deps.health(),
        unwell=_unwell(request),
        flower=_flower(request, deps),
        has_login=deps.token is not None,
        receiver=deps.receiver,
        version=__version__,
        server_now=_now(),
    )
    return HTMLResponse(text, status_code=status)


def _flower(request: Request, deps: AdminDeps) -> str | None:
    """Flower's address as this browser can reach it; None where it cannot."""
    host = request.url.hostname or "127.0.0.1"
    is_near = request.client is not None and request.client.host in {"127.0.0.1", "::1"}
    if deps.flower is None or (deps.flower.is_loopback and not is_near):
        return None
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{deps.flower.port}/"


def _arrivals(deps: AdminDeps, prefix: str) -> list[dict[str, Any]]:
    found = deps.receiving.arrivals()
    return [arrival.to_json() for arrival in found if arrival.study_uid.startswith(prefix)]


def _done(request: Request) -> str | None:
    return DONE.get(request.query_params.get("done", ""))


def _unwell(request: Request) -> list[dict[str, Any]]:
    listing: Recent[list[dict[str, Any]]] = request.app.state.peers
    try:
        return peers.unwell(listing())
    except PacsorError:
        return []


def _totals(request: Request) -> dict[str, int] | None:
    totals: Recent[dict[str, int]] = request.app.state.totals
    try:
        return totals()
    except PacsorError:
        return None


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")

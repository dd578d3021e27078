"""Relaunches of one study or of many, for programs and for pages; PACSOR's own route too."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pacsor_tasks import relaunching
from pacsor_tasks.admin.api import StudyUid
from pacsor_tasks.admin.deps import AdminDeps, Deps
from pacsor_tasks.admin.operate import NAME_COOKIE, remember_name
from pacsor_tasks.admin.pages import render
from pacsor_tasks.admin.security import is_program
from pacsor_tasks.errors import Conflict
from pacsor_tasks.ledger import Choice, Chosen, Relaunch
from pacsor_tasks.ledger.starts import STARTS
from pacsor_tasks.models import DeliveryState, RunState
from pacsor_tasks.relaunching import LIMIT, MAX_LIMIT, Fared

api = APIRouter()
pages = APIRouter()
MAX_FIELDS = 20
M = TypeVar("M", bound=BaseModel)


class Again(BaseModel):
    """How a relaunch is wanted; all of it may be left out."""

    # Misspelt, a name would be left out, and the relaunch be of everything.
    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    start: str = Field("", alias="from", max_length=16, description="|".join(STARTS))
    only: str = Field("", max_length=64, description="The one destination to deliver to")
    core: str = Field("", max_length=64, description="Only on this core")
    by: str = Field("", max_length=200, description="Who does it, for the timeline")
    key: str = Field("", max_length=64, description="Asked twice by the same: done once")

    def wish(self) -> Relaunch:
        """As the ledger takes it.

        Raises:
            Conflict: No relaunch begins at that step.
        """
        return Relaunch(
            from_step=relaunching.start_named(self.start),
            only=self.only or None,
            by=self.by,
            key=self.key or None,
        )


class Many(Again):
    """Which studies are meant, and whether they are only to be listed."""

    study_uids: list[Annotated[str, Field(max_length=64)]] = Field(
        default_factory=list, max_length=MAX_LIMIT
    )
    since: datetime | None = Field(None, description="Received at or after; without a zone in UTC")
    until: datetime | None = Field(None, description="Received before")
    state: RunState | DeliveryState | None = Field(None, description="Of the run, or a delivery")
    destination: str = Field("", max_length=64)
    limit: int = Field(LIMIT, ge=1, le=MAX_LIMIT)
    dry_run: bool = Field(True, description="Only say what would be done")

    @field_validator("since", "until", mode="before")
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("state", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        found = next((s for s in (*RunState, *DeliveryState) if s == value), None)
        if found is None and value:
            raise ValueError(f"one of {', '.join((*RunState, *DeliveryState))}")
        return found

    def choice(self) -> Choice:
        """Which studies."""
        return Choice(
            study_uids=tuple(self.study_uids),
            since=_epoch(self.since),
            until=_epoch(self.until),
            state=self.state,
            destination=self.destination or None,
            core=None if self.study_uids else self.core or None,
        )


class Wanted(NamedTuple):
    """A relaunch as it is wanted."""

    wish: Relaunch
    core: str | None


def _epoch(at: datetime | None) -> float | None:
    if at is None:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


Operator = Annotated[str, Header(alias="X-Operator", max_length=200)]
Key = Annotated[str, Header(alias="Idempotency-Key", max_length=64)]


def _wanted(given: Annotated[Again, Query()], operator: Operator = "", key: Key = "") -> Wanted:
    return _complete(given, operator, key)


def _wanted_in_body(
    query: Annotated[Again, Query()],
    body: Again | None = None,
    operator: Operator = "",
    key: Key = "",
) -> Wanted:
    said = body.model_dump(exclude_defaults=True) if body else {}
    return _complete(query.model_copy(update=said), operator, key)


def _complete(given: Again, operator: str, key: str) -> Wanted:
    known = {"by": given.by or unquote(operator), "key": given.key or key}
    return Wanted(given.model_copy(update=known).wish(), given.core or None)


def _no_query(request: Request) -> None:
    """What is said in the address would be ignored where the body says it all.

    Raises:
        HTTPException: Something is said there.
    """
    if request.query_params:
        names = ", ".join(request.query_params)
        raise HTTPException(422, f"{names}: to be said in the body, not in the address")


# --- for programs


@api.post("/relaunch/{study_uid}", status_code=202)
def relaunch(
    deps: Deps, study_uid: StudyUid, wanted: Annotated[Wanted, Depends(_wanted_in_body)]
) -> dict[str, Any]:
    """Send a study through its cores again, or from a step on: 202 with the ids of the new runs.

    `refused_on` says by core why it cannot be there, though on another one it can.

    404 when it is unknown or no longer held; 409 when the inputs of that step are gone, with the
    step that would do. The same `Idempotency-Key` relaunches once, however often it is sent.
    """
    return deps.relaunch(study_uid, *wanted)._asdict()


@api.get("/relaunch/{study_uid}", status_code=202, include_in_schema=False, response_model=None)
def relaunch_by_get(
    request: Request, deps: Deps, study_uid: StudyUid, wanted: Annotated[Wanted, Depends(_wanted)]
) -> dict[str, Any] | Response:
    """PACSOR's own way. A program is obeyed; a browser is asked first, unless the site says not to.

    A browser fetches addresses on its own account: to look ahead, to restore its tabs.
    """
    if "prefetch" in request.headers.get("sec-purpose", ""):
        raise HTTPException(405, "not ahead of being asked", headers={"Allow": "POST"})
    if deps.allow_get_relaunch or is_program(request):
        return deps.relaunch(study_uid, *wanted)._asdict()
    if "text/html" in request.headers.get("accept", ""):
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/studies/{study_uid}/relaunch{query}", status_code=303)
    raise HTTPException(
        405, "from a browser use POST, or set ADMIN_ALLOW_GET_RELAUNCH", headers={"Allow": "POST"}
    )


@api.get("/api/studies/{study_uid}/relaunch")
def starts(deps: Deps, study_uid: StudyUid) -> dict[str, Any]:
    """By core and step, why a relaunch cannot begin there; null: it can."""
    return {"study_instance_uid": study_uid, "cores": relaunching.starts(study_uid, deps.ports)}


@api.post("/api/relaunch", dependencies=[Depends(_no_query)])
def relaunch_many(
    response: Response, deps: Deps, body: Many, operator: Operator = "", key: Key = ""
) -> dict[str, Any]:
    """List the studies that are meant and what would be done (200); `dry_run: false` does it (202).

    409 when more than `limit` are meant, or nothing is chosen by. Studies that are named and were
    never received are among the refused.
    """
    wanted = _complete(body, operator, key)
    choice = body.choice()
    chosen = relaunching.choose(choice, body.limit, deps.ports)
    fared = _fared(chosen, wanted, deps, is_dry=body.dry_run)
    fared += relaunching.not_found(choice, chosen)
    response.status_code = 200 if body.dry_run else 202
    return {
        "dry_run": body.dry_run,
        "possible" if body.dry_run else "relaunched": sum(f.refused is None for f in fared),
        "refused": sum(f.refused is not None for f in fared),
        "studies": [f.to_json() for f in fared],
    }


def _fared(
    chosen: Sequence[Chosen], wanted: Wanted, deps: AdminDeps, *, is_dry: bool
) -> list[Fared]:
    if is_dry:
        return relaunching.plan_many(chosen, deps.ports, *wanted)
    return relaunching.relaunch_many(chosen, deps.ports, *wanted, deps.publish)


# --- for pages


async def _form(request: Request) -> dict[str, str]:
    text = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(text, max_num_fields=MAX_FIELDS))


Filled = Annotated[dict[str, str], Depends(_form)]


@pages.get("/studies/{study_uid}/relaunch", response_class=HTMLResponse)
def ask(
    request: Request, deps: Deps, study_uid: StudyUid, given: Annotated[Again, Query()]
) -> Response:
    """From where, to whom and on which core a study is to be relaunched."""
    return render(
        request, "relaunch.html", study_uid=study_uid, given=given, by=_name(request),
        starts=relaunching.starts(study_uid, deps.ports), destinations=_destinations(deps),
        steps=STARTS, key=uuid.uuid4().hex,
    )  # fmt: skip


@pages.post("/studies/{study_uid}/relaunch", dependencies=[Depends(_no_query)])
def do(deps: Deps, study_uid: StudyUid, form: Filled) -> Response:
    """The relaunch button or form without JavaScript."""
    given = _valid(Again, form)
    made = deps.relaunch(study_uid, given.wish(), given.core or None)
    told = urlencode([("relaunched", len(made.run_ids)), *(("not_on", c) for c in made.refused_on)])
    back = f"/studies/{study_uid}?{told}"
    return remember_name(RedirectResponse(back, status_code=303), given.by)


@pages.get("/relaunch", response_class=HTMLResponse)
def ask_many(request: Request, deps: Deps) -> Response:
    """Choose studies, see what would be done, and have it done."""
    given = _valid(Many, dict(request.query_params))
    return _many_page(request, deps, given, is_dry=True)


@pages.post("/relaunch", response_class=HTMLResponse, dependencies=[Depends(_no_query)])
def do_many(request: Request, deps: Deps, form: Filled) -> Response:
    """What the list said, if it says the same still."""
    expected = form.pop("expected", None)
    given = _valid(Many, form)
    chosen = relaunching.choose(given.choice(), given.limit, deps.ports)
    if str(len(chosen)) != expected:
        raise Conflict(f"{len(chosen)} studies are meant by now: look at the list again")
    answer = _many_page(request, deps, given, is_dry=False)
    return remember_name(answer, given.by)


def _many_page(request: Request, deps: Deps, given: Many, *, is_dry: bool) -> Response:
    choice, fared, refused = given.choice(), None, None
    if choice:
        try:
            wanted = Wanted(given.wish(), given.core or None)
            chosen = relaunching.choose(choice, given.limit, deps.ports)
            fared = _fared(chosen, wanted, deps, is_dry=is_dry)
        except Conflict as exc:
            refused = str(exc)
    return render(
        request, "relaunch_many.html", given=given, fared=fared, refused=refused, is_dry=is_dry,
        form=given.model_dump(mode="json", by_alias=True, exclude={"by", "key", "dry_run"}),
        cores=[target.core for target in deps.ports.targets], destinations=_destinations(deps),
        steps=STARTS, states=[*RunState, *DeliveryState], by=_name(request), key=uuid.uuid4().hex,
    )  # fmt: skip


def _valid(model: type[M], form: dict[str, str]) -> M:
    try:
        return model.model_validate(form)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise HTTPException(422, f"{first['loc'][0]}: {first['msg']}") from exc


def _destinations(deps: AdminDeps) -> list[str]:
    return list(dict.fromkeys(name for t in deps.ports.targets for name, _ in t.destinations))


def _name(request: Request) -> str:
    return unquote(request.cookies.get(NAME_COOKIE, ""))

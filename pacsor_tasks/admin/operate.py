"""What an operator does, for programs and for pages: one route per verb and door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, unquote

from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from pacsor_tasks import operations
from pacsor_tasks.admin import peers
from pacsor_tasks.admin.deps import AdminDeps, Deps
from pacsor_tasks.admin.pages import render
from pacsor_tasks.errors import NotFound
from pacsor_tasks.ledger.verbs import Subject
from pacsor_tasks.models import PeerKind, PeerName

#: Remembers the name an operator gave last, in that browser only.
NAME_COOKIE = "pacsor_operator"
NAME_COOKIE_S = 365 * 86400

api = APIRouter(prefix="/api")
pages = APIRouter()


class Wish(BaseModel):
    """The body of a verb; all of it may be left out where the verb allows."""

    by: str = Field("", max_length=200, description="Who does it, for the timeline")
    reason: str = Field("", max_length=1000, description="Why: required to skip")
    to: str = Field("", max_length=64, description="Re-route: the other destination")


def _wish(
    body: Wish | None = None, x_operator: Annotated[str, Header(max_length=200)] = ""
) -> Wish:
    wish = body or Wish.model_construct(by="", reason="", to="")
    return wish if wish.by else wish.model_copy(update={"by": unquote(x_operator)})


Given = Annotated[Wish, Depends(_wish)]
RunId = Annotated[str, Path(max_length=36)]
DeliveryId = Annotated[str, Path(max_length=128)]
PeerId = Annotated[str, Path(max_length=64)]
Act = Callable[[str, Wish, AdminDeps], Subject]

DELIVERY_VERBS: dict[str, Act] = {
    "retry": lambda key, wish, deps: operations.retry_delivery(key, wish.by, deps.ports),
    "skip": lambda key, wish, deps: operations.skip_delivery(key, wish.by, wish.reason, deps.ports),
    "reroute": lambda key, wish, deps: operations.reroute_delivery(
        key, wish.to, wish.by, deps.ports
    ),
}
RUN_VERBS: dict[str, Act] = {
    "retry": lambda key, wish, deps: operations.retry_run(key, wish.by, deps.ports),
    "cancel": lambda key, wish, deps: operations.cancel_run(key, wish.by, deps.ports),
}
KINDS = {"destinations": PeerKind.DESTINATION, "cores": PeerKind.CORE}


def act_on_peer(peer: PeerName, verb: str, wish: Wish, deps: AdminDeps) -> None:
    """Pause or resume it."""
    if verb == "pause":
        operations.pause(peer, wish.by, wish.reason, deps.ports)
    else:
        operations.resume(peer, wish.by, deps.ports)


# --- for programs


def _done(subject: Subject) -> dict[str, str]:
    return {"study_instance_uid": subject.study_uid, "run_id": subject.run_id}


@api.post("/deliveries/{delivery_id}/retry", status_code=202)
def retry_delivery(deps: Deps, delivery_id: DeliveryId, wish: Given) -> dict[str, str]:
    """Try a delivery now that waits or is quarantined."""
    return _done(DELIVERY_VERBS["retry"](delivery_id, wish, deps))


@api.post("/deliveries/{delivery_id}/skip", status_code=202)
def skip_delivery(deps: Deps, delivery_id: DeliveryId, wish: Given) -> dict[str, str]:
    """Give a delivery up, for a reason; its run goes on without it."""
    return _done(DELIVERY_VERBS["skip"](delivery_id, wish, deps))


@api.post("/deliveries/{delivery_id}/reroute", status_code=202)
def reroute_delivery(deps: Deps, delivery_id: DeliveryId, wish: Given) -> dict[str, str]:
    """Send a delivery's results to another configured destination instead."""
    return _done(DELIVERY_VERBS["reroute"](delivery_id, wish, deps))


@api.post("/runs/{run_id}/retry", status_code=202)
def retry_run(deps: Deps, run_id: RunId, wish: Given) -> dict[str, str]:
    """Try a run now where it waits or failed."""
    return _done(RUN_VERBS["retry"](run_id, wish, deps))


@api.post("/runs/{run_id}/cancel", status_code=202)
def cancel_run(deps: Deps, run_id: RunId, wish: Given) -> dict[str, str]:
    """End a run where it is."""
    return _done(RUN_VERBS["cancel"](run_id, wish, deps))


@api.get("/peers")
def list_peers(deps: Deps) -> list[dict[str, Any]]:
    """Cores and destinations: state (closed, trial, open, paused), why, since when, what waits."""
    return peers.listing(deps.ports)


@api.post("/destinations/{name}/pause")
def pause_destination(deps: Deps, name: PeerId, wish: Given) -> list[dict[str, Any]]:
    """Deliver nothing there until it is resumed."""
    return _acted(PeerName(PeerKind.DESTINATION, name), "pause", wish, deps)


@api.post("/destinations/{name}/resume")
def resume_destination(deps: Deps, name: PeerId, wish: Given) -> list[dict[str, Any]]:
    """Deliver there again."""
    return _acted(PeerName(PeerKind.DESTINATION, name), "resume", wish, deps)


@api.post("/cores/{name}/pause")
def pause_core(deps: Deps, name: PeerId, wish: Given) -> list[dict[str, Any]]:
    """Ask nothing of a core until it is resumed."""
    return _acted(PeerName(PeerKind.CORE, name), "pause", wish, deps)


@api.post("/cores/{name}/resume")
def resume_core(deps: Deps, name: PeerId, wish: Given) -> list[dict[str, Any]]:
    """Ask a core again."""
    return _acted(PeerName(PeerKind.CORE, name), "resume", wish, deps)


def _acted(peer: PeerName, verb: str, wish: Wish, deps: AdminDeps) -> list[dict[str, Any]]:
    act_on_peer(peer, verb, wish, deps)
    return peers.listing(deps.ports)


# --- for pages: a form where something is to be said or confirmed, and its answer


async def _form(request: Request) -> Wish:
    form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    return Wish(**{name: form.get(name, [""])[0] for name in ("by", "reason", "to")})


Filled = Annotated[Wish, Depends(_form)]


@pages.get("/deliveries/{delivery_id}/{verb}", response_class=HTMLResponse)
def ask_delivery(request: Request, deps: Deps, delivery_id: DeliveryId, verb: str) -> Response:
    """Why a delivery is to be skipped, or where it is to go instead."""
    delivery = deps.ports.ledger.deliveries.get(delivery_id)
    if delivery is None or verb not in {"skip", "reroute"}:
        raise NotFound(f"no delivery {delivery_id}, or nothing to ask about it")
    found = deps.studies.detail(delivery.study_uid)
    runs = found["runs"] if found else []
    run = next(r for r in runs if r["id"] == delivery.run_id)
    shown = next(d for d in run["deliveries"] if d["id"] == delivery_id)
    choices = peers.reroutes(deps.ports, run, shown)
    back = f"/studies/{delivery.study_uid}"
    return _ask(request, f"delivery.{verb}", back, delivery.destination, choices)


@pages.post("/deliveries/{delivery_id}/{verb}")
def do_delivery(deps: Deps, delivery_id: DeliveryId, verb: str, wish: Filled) -> Response:
    """A delivery's button or form without JavaScript."""
    if verb not in DELIVERY_VERBS:
        raise NotFound(f"no such verb: {verb}")
    subject = DELIVERY_VERBS[verb](delivery_id, wish, deps)
    return _back(f"/studies/{subject.study_uid}?done={verb}", wish)


@pages.get("/runs/{run_id}/cancel", response_class=HTMLResponse)
def ask_run(request: Request, deps: Deps, run_id: RunId) -> Response:
    """Whether a run is really to be cancelled."""
    run = deps.ports.ledger.runs.get(run_id)
    if run is None:
        raise NotFound(f"no run {run_id}")
    return _ask(request, "run.cancel", f"/studies/{run.study_uid}", run.core)


@pages.post("/runs/{run_id}/{verb}")
def do_run(deps: Deps, run_id: RunId, verb: str, wish: Filled) -> Response:
    """A run's button or form without JavaScript."""
    if verb not in RUN_VERBS:
        raise NotFound(f"no such verb: {verb}")
    subject = RUN_VERBS[verb](run_id, wish, deps)
    return _back(f"/studies/{subject.study_uid}?done={verb}", wish)


@pages.get("/destinations/{name}/pause", response_class=HTMLResponse)
@pages.get("/cores/{name}/pause", response_class=HTMLResponse)
def ask_peer(request: Request, name: PeerId) -> Response:
    """Why a core or destination is to be paused."""
    return _ask(request, "peer.pause", "/destinations", name)


@pages.post("/destinations/{name}/{verb}")
@pages.post("/cores/{name}/{verb}")
def do_peer(request: Request, deps: Deps, name: PeerId, verb: str, wish: Filled) -> Response:
    """A core's or destination's button or form without JavaScript."""
    if verb not in {"pause", "resume"}:
        raise NotFound(f"no such verb: {verb}")
    kind = KINDS[request.url.path.split("/")[1]]
    act_on_peer(PeerName(kind, name), verb, wish, deps)
    return _back(f"/destinations?done={verb}", wish)


def _ask(
    request: Request, what: str, back: str, name: str, choices: Sequence[str] = ()
) -> Response:
    by = unquote(request.cookies.get(NAME_COOKIE, ""))
    return render(
        request, "operate.html", what=what, action=request.url.path, back=back, name=name,
        choices=choices, by=by,
    )  # fmt: skip


def _back(target: str, wish: Wish) -> Response:
    return remember_name(RedirectResponse(target, status_code=303), wish.by)


def remember_name(answer: Response, by: str) -> Response:
    """The answer, with the name an operator gave for the next form."""
    if by:
        answer.set_cookie(
            NAME_COOKIE, quote(operations.name_of(by)), max_age=NAME_COOKIE_S,
            httponly=True, samesite="strict",
        )  # fmt: skip
    return answer

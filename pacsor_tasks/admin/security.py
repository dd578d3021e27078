"""Who may ask what: bearer token or session cookie, and no request forged by another site."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

log = structlog.get_logger(__name__)

SESSION_S = 7 * 86400
OPEN_PATHS = frozenset({"/healthz", "/login"})
OPEN_PREFIX = "/static/"
#: What answers with data, whoever asks.
FOR_PROGRAMS = (
    "/api/", "/relaunch/", "/complete/", "/config/", "/metrics", "/healthz", "/static/",
)  # fmt: skip
#: The only GET that acts.
ACTING_PREFIX = "/relaunch/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Sessions:
    """Cookies made from the token: no state, void as soon as the token changes.

    Args:
        token: ADMIN_TOKEN.
        clock: Epoch seconds.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token = token.encode()
        self._key = hmac.digest(self._token, b"pacsor admin session", hashlib.sha256)
        self._clock = clock
        # Cookies do not know ports: two gateways on one host must not log each other out.
        self.cookie = "pacsor_admin_" + self._mac("cookie name")[:8]

    def is_token(self, given: str) -> bool:
        """Whether this is the token; takes as long for every wrong one."""
        return hmac.compare_digest(given.encode(), self._token)

    def new(self) -> str:
        """The value of a fresh cookie."""
        issued = str(int(self._clock()))
        return f"{issued}.{self._mac(issued)}"

    def is_valid(self, value: str) -> bool:
        """Whether a cookie is ours and not older than SESSION_S."""
        issued, _, mac = value.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(issued).encode()):
            return False
        return 0 <= self._clock() - int(issued) + 60 <= SESSION_S

    def _mac(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()


class Gate:
    """ASGI middleware in front of every route.

    Args:
        app: What it protects.
        sessions: None: no token is set, so only this machine may ask.
        refusal_delay_s: Pause before a wrong token is answered.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions | None, refusal_delay_s: float) -> None:
        self._app = app
        self._sessions = sessions
        self._refusal_delay_s = refusal_delay_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if path == "/healthz":
            return None
        bearer = _bearer(request)
        if self._sessions is None and not is_this_machine(request.headers.get("host", "")):
            return _refused("without ADMIN_TOKEN only this machine is served, by its own name")
        if bearer is None and _acts(request) and not is_same_site(request):
            asks = relaunch_form(request)
            return _refused("the request comes from another site") if asks is None else (
                RedirectResponse(asks, status_code=303))  # fmt: skip
        if self._sessions is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return None
        return await self._unauthorised(request, self._sessions, bearer)

    async def _unauthorised(
        self, request: Request, sessions: Sessions, bearer: str | None
    ) -> Response | None:
        if bearer is not None:
            if sessions.is_token(bearer):
                return None
            await failed(request, self._refusal_delay_s)
            return _challenge()
        if sessions.is_valid(request.cookies.get(sessions.cookie, "")):
            return None
        target = relaunch_form(request) or _page(request)
        if target is None:
            return _challenge()
        return RedirectResponse(f"/login?next={quote(target, safe='/')}", status_code=303)


async def failed(request: Request, delay_s: float) -> None:
    """Record a wrong token and make its sender wait."""
    client = request.client.host if request.client else None
    log.warning("admin.refused", client=client)
    await asyncio.sleep(delay_s)


def is_same_site(request: Request) -> bool:
    """Whether a request that acts was made by our own page, or by no page at all (curl, scripts).

    Browsers always say where a request comes from, by `Sec-Fetch-Site` or, on plain HTTP, `Origin`.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def is_program(request: Request) -> bool:
    """Whether a request was not made by a browser on its own account: a token, or curl's headers.

    Browsers name where a request comes from, send cookies, or ask for pages.
    """
    if _bearer(request) is not None:
        return True
    told = ("sec-fetch-site", "origin", "referer", "cookie")
    return not _asks_for_page(request) and not any(name in request.headers for name in told)


def is_this_machine(host: str) -> bool:
    """Whether a Host header names loopback: another name may be an attacker's, rebound to it."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks for a page, not a program for data."""
    path = request.url.path
    if path.startswith(FOR_PROGRAMS):
        return False
    return _asks_for_page(request)


def relaunch_form(request: Request) -> str | None:
    """The form that asks before a relaunch, for a person who follows a link to PACSOR's route.

    A link on another site, or one that leads through the login, only ever gets there: whoever made
    it must not relaunch by it.
    """
    path = request.url.path
    is_link = request.method == "GET" and path.startswith(ACTING_PREFIX)
    if not is_link or not _asks_for_page(request) or _bearer(request) is not None:
        return None
    study_uid = quote(path.removeprefix(ACTING_PREFIX), safe="")
    return f"/studies/{study_uid}/relaunch{_query(request)}"


def local_path(target: str) -> str:
    """A path on this site to go to after login; `/` for anything else."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_local and target.isprintable() else "/"


def _page(request: Request) -> str | None:
    """The page to see after the login; None: no page was asked for."""
    if not wants_page(request):
        return None
    return request.url.path + _query(request) if request.method == "GET" else "/"


def _query(request: Request) -> str:
    return f"?{request.url.query}" if request.url.query else ""


def _asks_for_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _acts(request: Request) -> bool:
    return request.method not in SAFE_METHODS or request.url.path.startswith(ACTING_PREFIX)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refused(detail: str) -> Response:
    return JSONResponse({"detail": detail}, status_code=403)


def _challenge() -> Response:
    return JSONResponse(
        {"detail": "a token is required: Authorization: Bearer …"},
        status_code=401,
        headers={"WWW-Authenticate": 'Bearer realm="pacsor"'},
    )

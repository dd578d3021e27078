"""ASGI middleware around every answer: protective headers and one access line without the query."""

from __future__ import annotations

import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none';"
    " frame-ancestors 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: a form post would then carry `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Envelope:
    """Adds HEADERS, forbids caching of all but static files, and logs what was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            _log(scope, status, time.monotonic() - began)


def _add_headers(headers: MutableHeaders, path: str) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    if path.startswith("/static/"):
        headers["Cache-Control"] = "no-cache"
    else:
        headers.setdefault("Cache-Control", "no-store")


def _log(scope: Scope, status: int, took_s: float) -> None:
    # Open pages and monitors read every few seconds: worth a line only when it fails.
    is_quiet = scope["method"] in {"GET", "HEAD"} and status < 400
    client = scope.get("client")
    # The path without the query: what was searched for stays out of the log.
    (log.debug if is_quiet else log.info)(
        "http.answered",
        method=scope["method"],
        path=scope["path"][:200],
        status=status,
        duration_ms=round(took_s * 1000, 1),
        client=client[0] if client else None,
    )

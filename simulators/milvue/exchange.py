"""One request and its answer: the switches in force, the faults, the line in the journal."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from pacsor_tasks.errors import BadResponse, Rejected
from simulators.milvue.journal import MilvueJournal
from simulators.milvue.switches import MilvueSwitches
from simulators.switches import Switches

KEY_HEADER = "x-goog-meta-owner"
#: The status noted when there is nobody left to answer.
CLIENT_CLOSED = 499
#: Operations whose response body a `reset` may cut.
DOWNLOADS = frozenset({"results", "download"})


class HttpRefusal(Rejected):
    """An error answer with its HTTP status, as the service's ErrorResponse."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Exchange:
    """What is known of one request while it is answered."""

    request: Request
    operation: str
    switches: MilvueSwitches
    study_uid: str | None = None
    command: str | None = None
    #: more fields for the journal
    notes: dict[str, Any] = field(default_factory=dict)


Work = Callable[[Exchange], Awaitable[Response]]


class Desk:
    """Takes every request: switches, delay and faults before the work, the journal after it."""

    def __init__(self, switches: Switches[MilvueSwitches], journal: MilvueJournal) -> None:
        self.switches = switches
        self.journal = journal

    async def handle(
        self,
        request: Request,
        operation: str,
        work: Work,
        *,
        study_uid: str | None = None,
        command: str | None = None,
    ) -> Response:
        """Answer a request that is about a study known beforehand.

        Args:
            request: Its body, if any, is read by the work.
            operation: The name that switches and journal use.
            work: Makes the answer when no fault is wanted.
            study_uid: If it is about one.
            command: If it is about one.
        """
        switches = self.switches.take(operation=operation, study_uid=study_uid, command=command)
        exchange = Exchange(request, operation, switches, study_uid, command)
        return await self.finish(exchange, work)

    async def finish(self, exchange: Exchange, work: Work) -> Response:
        """The fault, or else the work, and the line in the journal."""
        switches = exchange.switches
        try:
            await asyncio.sleep(switches.delay_s)
            response = await self._fault(exchange) or await work(exchange)
        except HttpRefusal as exc:
            exchange.notes["message"] = str(exc)
            response = error(exc.status, str(exc))
        except BadResponse as exc:
            exchange.notes["message"] = str(exc)
            response = error(400, str(exc))
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED)
        if switches.fault == "reset_after":
            await reset(exchange.request)
            exchange.notes["fault"] = "reset_after"
        self._record(exchange, response.status_code)
        return response

    async def _fault(self, exchange: Exchange) -> Response | None:
        fault, switches = exchange.switches.fault, exchange.switches
        if fault is None or fault == "reset_after":
            return None
        if fault == "reset" and exchange.operation in DOWNLOADS and switches.reset_after_bytes:
            return None
        exchange.notes["fault"] = fault
        if fault == "reset":
            await read_until(exchange.request, switches.reset_after_bytes)
            await reset(exchange.request)
            return Response(status_code=CLIENT_CLOSED)
        if not switches.fault_early:
            await drain(exchange.request)
        headers = {"Retry-After": switches.retry_after} if switches.retry_after else None
        return error(fault, f"simulated fault {fault}", headers)

    def _record(self, exchange: Exchange, status: int) -> None:
        headers = dict(exchange.request.headers)
        token = headers.get(KEY_HEADER)
        self.journal.note(exchange.study_uid, token, headers)
        self.journal.add(
            exchange.operation,
            study_uid=exchange.study_uid,
            command=exchange.command,
            status=status,
            accepted=status < 400,
            token=token,
            headers=headers,
            **exchange.notes,
        )


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The service's ErrorResponse."""
    return JSONResponse({"message": message}, status_code=status, headers=headers)


async def drain(request: Request) -> None:
    """Read the body, so that the client gets the answer and not a broken pipe."""
    await read_until(request, None)


async def read_until(request: Request, n_bytes: int | None) -> None:
    """Read so much of the body, or all of it if it is shorter; None for all."""
    seen = 0
    if n_bytes == 0:
        return
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if n_bytes is not None and seen >= n_bytes:
                return
    except RuntimeError:
        return  # already read: Starlette gives a body once


async def reset(request: Request) -> None:
    """Drop the connection so that the peer sees ECONNRESET."""
    transport: asyncio.Transport = request.scope["state"]["transport"]
    connection = transport.get_extra_info("socket")
    # SO_LINGER of 0 seconds makes close() send RST in place of FIN
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await asyncio.sleep(0)


async def paced(body: AsyncIterator[bytes], exchange: Exchange) -> AsyncIterator[bytes]:
    """A response body, slowed down or cut by the switches."""
    switches, sent = exchange.switches, 0
    async for chunk in body:
        if switches.fault == "reset" and sent >= switches.reset_after_bytes:
            await reset(exchange.request)
            return
        if sent and switches.slow_chunk_s:
            await asyncio.sleep(switches.slow_chunk_s)
        sent += len(chunk)
        yield chunk
    if switches.fault == "reset":
        await reset(exchange.request)

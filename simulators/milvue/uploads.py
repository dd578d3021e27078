"""E1 and the signed PUT: instances come in. Contract §1.4."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from pacsor_tasks.errors import BadResponse
from simulators.milvue.exchange import (
    CLIENT_CLOSED,
    KEY_HEADER,
    Desk,
    Exchange,
    HttpRefusal,
    drain,
)
from simulators.milvue.multipart import Part, PartWriter
from simulators.milvue.received import Received, read_received
from simulators.milvue.signing import Signer
from simulators.milvue.studies import Studies
from simulators.part10 import file_name

T = TypeVar("T")


class Uploads:
    """Takes instances, whole or pruned, and keeps them on disk."""

    def __init__(
        self, desk: Desk, studies: Studies, signer: Signer, folder: Path, executor: Executor
    ) -> None:
        self._desk = desk
        self._studies = studies
        self._signer = signer
        self._folder = folder
        self._executor = executor

    async def post(self, request: Request, storage_url: str | None) -> Response:
        """E1: a multipart body of whole instances, or of pruned ones.

        Args:
            request: Its body goes to disk part by part.
            storage_url: Base of the signed URLs; None for a direct upload.
        """
        expected = self._desk.switches.peek(operation="upload")
        if expected.fault == "reset" or (expected.fault is not None and expected.fault_early):
            # which study it is would only show further on in the body
            return await self._desk.handle(request, "upload", _not_reached)
        received, refusal = await self._read(request)
        study_uid = received[0].study_uid if received else None
        switches = self._desk.switches.take(operation="upload", study_uid=study_uid)
        exchange = Exchange(request, "upload", switches, study_uid)
        exchange.notes |= {
            "signed": storage_url is not None,
            "instances": [instance.sop_instance_uid for instance in received],
        }

        async def work(exchange: Exchange) -> Response:
            if refusal is not None:
                raise refusal
            _check_one_study(received)
            if storage_url is None:
                return self._accept(exchange, received)
            return self._declare(exchange, received, storage_url)

        try:
            return await self._desk.finish(exchange, work)
        finally:
            for instance in received:
                instance.path.unlink(missing_ok=True)

    async def put(self, request: Request, study_uid: str, sop_instance_uid: str) -> Response:
        """A whole instance at its signed URL."""

        async def work(exchange: Exchange) -> Response:
            exchange.notes |= {"instances": [sop_instance_uid]}
            await self._check_put(exchange)
            declared = self._studies.declared(study_uid, sop_instance_uid)
            if declared is None:
                await drain(request)
                raise HttpRefusal(404, "no such upload was announced")
            path = self._folder / f"{secrets.token_hex(16)}.put"
            try:
                exchange.notes["bytes"] = await _write(request, path)
                received = await self._run(partial(_read_put, path, declared))
                self._store(exchange, [received])
            finally:
                path.unlink(missing_ok=True)
            self._desk.journal.count_put(sop_instance_uid)
            return Response(status_code=201 if exchange.switches.storage == "azure" else 200)

        return await self._desk.handle(request, "put", work, study_uid=study_uid)

    async def _read(self, request: Request) -> tuple[list[Received], HttpRefusal | None]:
        """The instances of a body; with a refusal, those before what is wrong with it."""
        writer: PartWriter | None = None
        received: list[Received] = []
        try:
            writer = PartWriter(request.headers.get("content-type", ""), self._folder)
            async for chunk in request.stream():
                writer.feed(chunk)
            for part in writer.close():
                received.append(await self._run(partial(_read_part, part)))
        except BadResponse as exc:
            await drain(request)
            return received, HttpRefusal(400, str(exc))
        except ClientDisconnect:
            return received, HttpRefusal(CLIENT_CLOSED, "the client went away")
        finally:
            if writer is not None:
                writer.remove(keep={instance.path for instance in received})
        return received, None

    def _accept(self, exchange: Exchange, received: list[Received]) -> Response:
        empty = sum(instance.pixel_length == 0 for instance in received)
        if empty:
            raise HttpRefusal(400, f"{empty} instances have empty Pixel Data")
        self._store(exchange, received)
        uids = [instance.sop_instance_uid for instance in received]
        self._desk.journal.count_posts(uids, pruned=False)
        study_uid = received[0].study_uid
        base_url = str(exchange.request.base_url)
        return JSONResponse(
            {
                "StudyInstanceUID": study_uid,
                "message": f"{len(received)} instances received",
                "retrieve_url": f"{base_url}v3/studies/{study_uid}",
            }
        )

    def _declare(self, exchange: Exchange, received: list[Received], storage_url: str) -> Response:
        whole = sum(bool(instance.pixel_length) for instance in received)
        if whole:
            raise HttpRefusal(400, f"{whole} instances are not pruned: Pixel Data must be empty")
        self._studies.declare(received)
        uids = [instance.sop_instance_uid for instance in received]
        self._desk.journal.count_posts(uids, pruned=True)
        switches, study_uid = exchange.switches, received[0].study_uid
        urls = {
            uid: self._signer.sign(
                storage_url, f"/storage/upload/{study_uid}/{uid}", switches.signed_url_ttl_s
            )
            for uid in uids[switches.omit_uids :]
        }
        return JSONResponse({"StudyInstanceUID": study_uid, "signed_urls": urls})

    def _store(self, exchange: Exchange, received: list[Received]) -> None:
        kept = []
        for instance in received:
            if exchange.switches.keep_files:
                path = (
                    self._folder
                    / file_name(instance.study_uid)
                    / file_name(instance.sop_instance_uid)
                )
                path = path.with_name(f"{path.name}.dcm")
                path.parent.mkdir(exist_ok=True)
                os.replace(instance.path, path)  # noqa: PTH105  (over an earlier upload)
                kept.append(replace(instance, path=path))
            else:
                kept.append(replace(instance, is_kept=False))
        self._studies.add(kept)

    async def _check_put(self, exchange: Exchange) -> None:
        """The headers each kind of storage insists on, and the signature."""
        request, switches = exchange.request, exchange.switches
        refusal: HttpRefusal | None = None
        if switches.expired or not self._is_signed(request):
            refusal = HttpRefusal(403, "signature not valid in the specified time frame")
        elif "content-length" not in request.headers:
            refusal = HttpRefusal(411, "Content-Length is required")
        elif switches.storage == "azure" and request.headers.get("x-ms-blob-type") != "BlockBlob":
            refusal = HttpRefusal(400, "x-ms-blob-type: BlockBlob is required")
        elif switches.storage == "gcs" and not request.headers.get(KEY_HEADER):
            refusal = HttpRefusal(403, f"{KEY_HEADER} is required")
        if refusal is not None:
            await drain(request)
            raise refusal

    def _is_signed(self, request: Request) -> bool:
        query = request.query_params
        return self._signer.is_valid(request.url.path, query.get("se", ""), query.get("sig", ""))

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


async def _not_reached(exchange: Exchange) -> Response:
    raise HttpRefusal(500, f"{exchange.operation}: the fault was to come first")


async def _write(request: Request, path: Path) -> int:
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += file.write(chunk)
    return size


def _read_part(part: Part) -> Received:
    return read_received(part.path)


def _read_put(path: Path, declared: Received) -> Received:
    """The whole file for a pruned header.

    Raises:
        BadResponse: It is another instance, or its pixels are missing.
    """
    received = read_received(path)
    for name in ("sop_instance_uid", "sop_class_uid", "study_uid", "series_uid"):
        if getattr(received, name) != getattr(declared, name):
            raise BadResponse(f"{name} is not the one announced")
    if received.transfer_syntax_uid != declared.transfer_syntax_uid:
        raise BadResponse("transfer syntax is not the one announced")
    if received.pixel_length == 0 or (declared.pixel_length == 0 and not received.is_image):
        raise BadResponse("Pixel Data is missing: the whole file is expected")
    return received


def _check_one_study(received: list[Received]) -> None:
    studies = {instance.study_uid for instance in received}
    if len(studies) > 1:
        raise HttpRefusal(400, f"instances of {len(studies)} studies in one request")

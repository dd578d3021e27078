"""A RIS as a real MLLP server: answers as it is told to, well or badly. Contract §3.4."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import struct
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from pacsor_tasks.errors import PeerUnavailable
from simulators.http import HttpServer
from simulators.journal import Journal
from simulators.ris_page import build_page
from simulators.switches import Switches

START, END = b"\x0b", b"\x1c\x0d"
#: A message longer than this ends the connection.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Answer = Literal[
    "AA",
    "CA",
    "AE",
    "CE",
    "AR",
    "CR",
    "none",  # read it and stay silent
    "garbage",  # a frame that is no HL7
    "unframed",  # an ACK without the MLLP bytes around it
    "wrong_id",  # AA for another message
    "wrong_id_first",  # AA for another message, then the right one, in one packet
    "half",  # half an ACK, then close
    "two_frames",  # the same ACK twice in one packet
    "close",  # close without an answer
    "reset",  # RST without an answer
]


class RisSwitches(BaseModel):
    """Values in force for one message. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Answer = "AA"
    #: before the answer
    delay_s: Annotated[float, Field(ge=0)] = 0
    #: MSA-3; for error answers also ERR-8
    text: str = ""
    #: the ACK one byte per packet
    split: bool = False
    #: the ACK's last segment ends with a CR
    final_cr: bool = True
    #: close the connection after each answer
    close_after: bool = False


class RisSimulator:
    """An MLLP server in a thread of this process; any number of connections.

    Args:
        host: Address to listen on.
        port: 0 for a free one.
        journal_path: Where events are written as JSON lines.
        switches_file: JSON switches, read again when it changes.
        web_port: Port of a page that shows what came; 0 for a free one, None for no page.
        switches: Initial switches, see `RisSwitches`; ``control_id`` narrows a later rule.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        journal_path: Path | None = None,
        switches_file: Path | None = None,
        web_port: int | None = None,
        **switches: Any,
    ) -> None:
        self.switches = Switches(
            RisSwitches, scopes=("control_id",), initial=switches, file=switches_file
        )
        self.journal = Journal(journal_path)
        self.host = host
        self.port = port
        self._web_port = web_port
        self.web: HttpServer | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def messages(self) -> list[bytes]:
        """The messages received, as they came, without their frame."""
        return [base64.b64decode(event["raw"]) for event in self.journal.events("message")]

    def start(self) -> Self:
        """Listen, and return when it does.

        Raises:
            PeerUnavailable: The port is taken.
        """
        try:
            listener = socket.create_server((self.host, self.port), backlog=64)
        except OSError as exc:
            message = f"cannot listen on {self.host}:{self.port}: {exc.strerror}"
            raise PeerUnavailable(message) from exc
        self.port = int(listener.getsockname()[1])
        is_up = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, is_up)), name=f"ris-{self.port}"
        )
        self._thread.start()
        is_up.wait()
        if self._web_port is not None:
            self.web = HttpServer(build_page(self.journal), self.host, self._web_port)
            self.web.start()
        return self

    def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self.web is not None:
            self.web.stop()
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self.journal.close()
        self._loop = self._stop = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _serve(self, listener: socket.socket, is_up: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is not None:
                connections.add(task)
                task.add_done_callback(connections.discard)
            # a cancelled connection ends quietly: asyncio would log it as an error
            with contextlib.suppress(asyncio.CancelledError):
                await self._connection(reader, writer)

        server = await asyncio.start_server(connected, sock=listener, limit=MAX_MESSAGE_BYTES)
        is_up.set()
        await self._stop.wait()
        server.close()
        pending = list(connections)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = "{}:{}".format(*writer.get_extra_info("peername")[:2])
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.journal.add("connected", peer=peer)
        try:
            while True:
                frame = await reader.readuntil(END)
                message = frame.removesuffix(END).lstrip(b"\r\n").removeprefix(START)
                if not await self._answer(message, peer, writer):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as exc:
            self.journal.add("disconnected", peer=peer, reason=type(exc).__name__)
        finally:
            writer.close()

    async def _answer(self, message: bytes, peer: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one message; whether the connection stays open."""
        control_id = _field(message, b"MSH", 9)
        switches = self.switches.take(control_id=control_id)
        self.journal.add(
            "message",
            peer=peer,
            control_id=control_id,
            answer=switches.answer,
            raw=base64.b64encode(message).decode(),
        )
        await asyncio.sleep(switches.delay_s)
        if switches.answer == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        answer = _wire(message, switches)
        for packet in _packets(answer, switches):
            writer.write(packet)
            await writer.drain()
            if switches.split:
                await asyncio.sleep(0.001)
        return switches.answer not in ("half", "close") and not switches.close_after


def ack(message: bytes, code: str, control_id: str, switches: RisSwitches) -> bytes:
    """An ACK for a message, sender and receiver swapped.

    Args:
        message: What is answered.
        code: MSA-1.
        control_id: MSA-2.
        switches: MSA-3 and whether the last CR is there.
    """
    sender = "|".join(_field(message, b"MSH", index) for index in (4, 5, 2, 3))
    now = datetime.now(UTC)
    segments = [
        f"MSH|^~\\&|{sender}|{now:%Y%m%d%H%M%S}||ACK^R01|R{now:%H%M%S%f}|P|2.5.1",
        f"MSA|{code}|{control_id}|{switches.text}".rstrip("|"),
    ]
    if code[1] in "ER":
        segments.append(f"ERR||OBR^1|207^Application internal error^HL70357|E||||{switches.text}")
    return "\r".join(segments).encode() + (b"\r" if switches.final_cr else b"")


def _wire(message: bytes, switches: RisSwitches) -> bytes:
    """The bytes to send; none to stay silent."""
    answer, control_id = switches.answer, _field(message, b"MSH", 9)
    if answer in ("none", "close"):
        return b""
    if answer == "garbage":
        return START + b"\x00\xff this is not HL7 \xfe" + END
    code = answer if len(answer) == 2 else "AA"
    right = START + ack(message, code, control_id, switches) + END
    wrong = START + ack(message, code, "NOT-YOUR-MESSAGE", switches) + END
    return {
        "wrong_id": wrong,
        "wrong_id_first": wrong + right,
        "two_frames": right + right,
        "half": right[: len(right) // 2],
        "unframed": right.removeprefix(START).removesuffix(END),
    }.get(answer, right)


def _packets(answer: bytes, switches: RisSwitches) -> list[bytes]:
    if switches.split:
        return [answer[index : index + 1] for index in range(len(answer))]
    return [answer] if answer else []


def _field(message: bytes, segment: bytes, index: int) -> str:
    """A field of the first such segment by its place between the bars; MSH-10 is at 9."""
    for line in message.split(b"\r"):
        fields = line.split(b"|")
        if fields[0] == segment and len(fields) > index:
            return fields[index].decode("utf-8", "replace")
    return ""

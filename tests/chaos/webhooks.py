"""Somebody who gets webhooks: keeps every event in a journal, and answers as it is told to."""

from __future__ import annotations

import argparse
import base64
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from simulators.journal import Journal
from simulators.switches import Switches


class WebhookSwitches(BaseModel):
    """Values in force for one request. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int = 200
    delay_s: float = 0
    #: an RST instead of the answer
    reset: bool = False


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--switches", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    args = parser.parse_args()
    Handler.switches = Switches(WebhookSwitches, file=args.switches)
    Handler.journal = Journal(args.journal)
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    switches: ClassVar[Switches[WebhookSwitches]]
    journal: ClassVar[Journal]
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """A probe."""
        self._answer(self.switches.take())

    def do_POST(self) -> None:
        """An event."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = self.switches.take()
        answer = "reset" if told.reset else "late" if told.delay_s else str(told.status)
        self.journal.add(
            "message",
            control_id=self.headers["X-Pacsor-Delivery"],
            answer=answer,
            raw=base64.b64encode(body).decode(),
        )
        self._answer(told)

    def _answer(self, told: WebhookSwitches) -> None:
        time.sleep(told.delay_s)
        if told.reset:
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.close_connection = True
            return
        self.send_response(told.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    main()

"""Where the lines of supervised processes go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO

from pacsor_tasks.child_process import Sink


def console_sink(stream: BinaryIO, names: Iterable[str]) -> Sink:
    """Lines for a person: `receiver | …`."""
    width = max(map(len, names), default=0)

    def write(name: str, line: bytes) -> None:
        _write(stream, f"{name:<{width}} | ".encode() + line)

    return write


def json_sink(stream: BinaryIO) -> Sink:
    """One JSON object per line: our own as they are, anybody else's text as the event of one."""

    def write(name: str, line: bytes) -> None:
        if not line.strip():
            return
        _write(stream, line if line.startswith(b"{") else _wrapped(name, line))

    return write


def _wrapped(name: str, line: bytes) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    text = line.decode(errors="backslashreplace").rstrip()
    record = {"event": text, "level": "info", "logger": name, "timestamp": now}
    return json.dumps(record).encode()


def _write(stream: BinaryIO, line: bytes) -> None:
    # A reader that went away (`pacsor up 2>&1 | head`) must not take the gateway with it.
    with suppress(OSError, ValueError):
        stream.write(line + b"\n")
        stream.flush()

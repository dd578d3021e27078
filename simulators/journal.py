"""What a simulator saw, in memory and, when asked, line by line in a file."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

#: Events kept in memory; the file keeps all of them.
CAPACITY = 200_000

Event = dict[str, Any]


class Journal:
    """An append-only list of events, safe to use from any thread.

    Args:
        path: Where each event is also written as one JSON line, at once; None for memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._events: deque[Event] = deque(maxlen=CAPACITY)
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, kind: str, **fields: Any) -> Event:
        """Record what happened now. ``at`` is epoch seconds."""
        event: Event = {"at": time.time(), "kind": kind, **fields}
        with self._lock:
            self._events.append(event)
            if self._file is not None:
                self._file.write(json.dumps(event, default=str) + "\n")
        return event

    def events(self, kind: str | None = None, **fields: Any) -> list[Event]:
        """The events of that kind whose fields have these values, oldest first."""
        with self._lock:
            found = list(self._events)
        return [
            event
            for event in found
            if kind in (None, event["kind"])
            and all(event.get(name) == value for name, value in fields.items())
        ]

    def clear(self) -> None:
        """Forget what is in memory; the file keeps its lines."""
        with self._lock:
            self._events.clear()

    def close(self) -> None:
        """Close the file. Later events stay in memory only."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

"""A session of Web PubSub that outlives this process.

The service keeps a session for about a minute after its connection broke, and sends again what was
not acknowledged to whoever comes back with its two keys. So a restart loses nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from pacsor_tasks.spool import write_durably

#: A session that was last alive longer ago is gone, seconds.
LIFETIME_S = 60.0
#: How often it is said to be alive, seconds.
STAMP_S = 2.0


class SessionFile:
    """The keys of the present session, on disk.

    Args:
        path: Its file; readable by its owner only, as the keys open the reports.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamped = 0.0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def save(self, url: str, connection_id: str, token: str) -> None:
        """Keep the session that was opened at `url`. Its access token is not kept."""
        split = urlsplit(url)
        query = [(k, v) for k, v in parse_qsl(split.query) if not _is_key(k)]
        keys = {"awps_connection_id": connection_id, "awps_reconnection_token": token}
        resumed = split._replace(query=urlencode([*query, *keys.items()])).geturl()
        write_durably(self._path, json.dumps({"url": resumed}).encode())
        self._path.chmod(0o600)

    def stamp(self) -> None:
        """Say that the session is alive."""
        now = time.monotonic()
        if now - self._stamped >= STAMP_S and self._path.exists():
            os.utime(self._path)
            self._stamped = now

    def url(self) -> str | None:
        """What to connect to for the same session; None when there is none, or it is too old."""
        try:
            age_s = time.time() - self._path.stat().st_mtime
            if not 0 <= age_s <= LIFETIME_S:
                return None
            return str(json.loads(self._path.read_text())["url"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forget(self) -> None:
        """The service does not know it any longer."""
        self._path.unlink(missing_ok=True)


def _is_key(name: str) -> bool:
    return name == "access_token" or name.startswith("awps_")

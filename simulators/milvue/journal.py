"""What the service saw, with the counts that tests ask for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from simulators.journal import Event, Journal


class MilvueJournal(Journal):
    """The requests in order, and per SOP Instance UID how often it was posted and PUT.

    One event per request, its kind the operation: ``upload`` (E1), ``put``, ``status`` (E2),
    ``results`` (E3), ``download``, ``findings`` (E4/E5), ``interesting`` (E6), ``refused`` (403).
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self._posts: Counter[str] = Counter()
        self._puts: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()
        self._tokens: dict[str, set[str]] = {}
        self._hosts: dict[str, dict[str, str]] = {}

    def count_posts(self, sop_instance_uids: list[str], *, pruned: bool) -> None:
        """Instances accepted by E1."""
        with self._lock:
            self._posts.update(sop_instance_uids)
            if not pruned:
                self._whole.update(sop_instance_uids)

    def count_put(self, sop_instance_uid: str) -> None:
        """A whole instance accepted at its signed URL."""
        with self._lock:
            self._puts[sop_instance_uid] += 1
            self._whole[sop_instance_uid] += 1

    def note(self, study_uid: str | None, token: str | None, headers: dict[str, str]) -> None:
        """The key a request came with, and the headers each host was last sent."""
        with self._lock:
            if study_uid and token:
                self._tokens.setdefault(study_uid, set()).add(token)
            self._hosts[headers.get("host", "")] = headers

    def posts(self, sop_instance_uid: str) -> int:
        """How often E1 accepted this instance."""
        with self._lock:
            return self._posts[sop_instance_uid]

    def puts(self, sop_instance_uid: str) -> int:
        """How often this instance was PUT whole."""
        with self._lock:
            return self._puts[sop_instance_uid]

    def uploads(self, sop_instance_uid: str) -> int:
        """How often the whole instance arrived, directly or by PUT."""
        with self._lock:
            return self._whole[sop_instance_uid]

    def polls(self, study_uid: str) -> list[Event]:
        """The status requests for a study, each with ``at`` and ``answer``."""
        return self.events("status", study_uid=study_uid)

    def tokens(self, study_uid: str) -> set[str]:
        """The API keys used for a study."""
        with self._lock:
            return set(self._tokens.get(study_uid, ()))

    def summary(self) -> dict[str, Any]:
        """The counts, as JSON data."""
        with self._lock:
            return {
                "posts": dict(self._posts),
                "puts": dict(self._puts),
                "uploads": dict(self._whole),
                "tokens": {study_uid: sorted(keys) for study_uid, keys in self._tokens.items()},
                "hosts": dict(self._hosts),
            }

    def clear(self) -> None:
        """Forget what is in memory; the file keeps its lines."""
        with self._lock:
            super().clear()
            for counts in (self._posts, self._puts, self._whole, self._tokens, self._hosts):
                counts.clear()

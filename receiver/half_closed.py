"""Studies whose closing an error broke off half-way: gone on with until it is done.

They are no longer incoming, so that no look at what comes in would find them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pacsor_tasks.spool import Manifest
from receiver.closing import Closer

log = structlog.get_logger(__name__)

#: Pause after which one is tried again, doubling.
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0


@dataclass(slots=True)
class _Retry:
    at: float
    pause_s: float


class HalfClosed:
    """Remembers them, and goes on with those whose time has come.

    Args:
        closer: Makes the revisions.
        on_closed: Called after each; must not block or raise.
        clock: Seconds that only run forward.
    """

    def __init__(
        self, closer: Closer, on_closed: Callable[[Manifest], None], clock: Callable[[], float]
    ) -> None:
        self._closer = closer
        self._on_closed = on_closed
        self._clock = clock
        self._retries: dict[str, _Retry] = {}

    def note(self, study_uid: str, after_s: float = FIRST_RETRY_S) -> None:
        """Go on with this study, after a pause."""
        self._retries.setdefault(study_uid, _Retry(self._clock() + after_s, FIRST_RETRY_S))

    def retry(self) -> None:
        """Go on with each that is due."""
        now = self._clock()
        for study_uid, retry in list(self._retries.items()):
            if retry.at > now:
                continue
            try:
                manifests = self._closer.resume_study(study_uid)
            except OSError as exc:
                retry.pause_s = min(LONGEST_RETRY_S, retry.pause_s * 2)
                retry.at = now + retry.pause_s
                log.error(  # noqa: TRY400 - the reason is the whole story
                    "study.not_resumed",
                    study_uid=study_uid,
                    reason=exc.strerror,
                    retry_in_s=retry.pause_s,
                )
                continue
            del self._retries[study_uid]
            for manifest in manifests:
                self._on_closed(manifest)

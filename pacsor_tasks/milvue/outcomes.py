"""What the client hands back, and the errors only this API can give.

All but one are those of any core (`core_api`).

Retryable ── ExpiredUrl         a signed URL no longer works: ask for new ones
"""

from __future__ import annotations

from pacsor_tasks.core_api import (
    CommandForbidden,
    FormattingError,
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UnknownStudy,
    UnreadableInstance,
    UploadItem,
)
from pacsor_tasks.errors import Retryable

__all__ = [
    "CommandForbidden",
    "ExpiredUrl",
    "FormattingError",
    "Outcome",
    "Results",
    "StudyState",
    "StudyStatus",
    "UnknownStudy",
    "UnreadableInstance",
    "UploadItem",
]


class ExpiredUrl(Retryable):
    """The storage refused a signed URL: a new one can be asked for."""

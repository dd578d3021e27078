"""What the client hands back, and the errors only this API can give.

Retryable ── UnknownStudy       404: not there (yet), or never sent
          ├─ FormattingError    the prediction worked, drawing its results did not
          └─ ExpiredUrl         a signed URL no longer works: ask for new ones
Permanent ── UnreadableInstance a local file cannot be sent
Rejected  ── CommandForbidden   the licence does not cover this inference command
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pacsor_tasks.errors import Permanent, Rejected, Retryable


class UnknownStudy(Retryable):
    """The API does not know the study: normal just after an upload, and for studies never sent.

    Args:
        message: What was asked and answered.
        is_from_api: The 404 came with the API's own kind of body: not from a proxy or other server.
    """

    def __init__(self, message: str, *, is_from_api: bool = True) -> None:
        super().__init__(message)
        self.is_from_api = is_from_api


class FormattingError(Retryable):
    """The prediction is there but rendering its results failed. Source: contract §1.5."""


class ExpiredUrl(Retryable):
    """The storage refused a signed URL: a new one can be asked for."""


class CommandForbidden(Rejected):
    """This token may not use this inference command; the others are not touched."""


class UnreadableInstance(Permanent):
    """A file of ours cannot be read or understood, so it cannot be uploaded.

    Args:
        sop_instance_uid: Which instance.
        reason: What is wrong with its file, without patient data.
    """

    def __init__(self, sop_instance_uid: str, reason: str) -> None:
        super().__init__(f"instance {sop_instance_uid}: {reason}")
        self.sop_instance_uid = sop_instance_uid


class StudyState(StrEnum):
    """How far the AI is with a study."""

    DONE = "done"
    RUNNING = "running"
    ERROR = "error"


class Outcome(StrEnum):
    """How asking for one command's results ended."""

    #: there are files
    DONE = "done"
    #: the AI has nothing to return, rightly
    EMPTY = "empty"
    #: the licence does not cover the command
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class UploadItem:
    """One instance to upload."""

    path: Path
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """The answer to a poll."""

    state: StudyState
    #: of the AI suite
    version: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of one inference command. `paths` are whole files, in the API's order."""

    outcome: Outcome
    paths: list[Path] = field(default_factory=list)
    message: str = ""

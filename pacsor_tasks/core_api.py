"""What the pipeline asks of a core: upload a study, say how far it is, hand out the results.

`CoreClient` is all that a core has to be; what it can do beyond has a protocol of its own. Values
and errors that pass between a core and the steps are here too, so that a core needs nothing else of
the gateway but `errors`.

Retryable ── UnknownStudy       not there (yet), or never sent
          └─ FormattingError    the prediction worked, drawing its results did not
Permanent ── UnreadableInstance a local file cannot be sent
Rejected  ── CommandForbidden   the licence does not cover this inference command

Source: docs/cores.md; contract §1.4 to §1.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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


class CoreClient(Protocol):
    """A core. Used by one thread at a time; every method raises errors of `errors` only."""

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        """Send instances of one study; a repetition must do no harm.

        Args:
            study_uid: Of all items.
            items: Never empty.
            on_uploaded: To be called in this thread once the core has an instance.
            before_put: To be called in this thread before each instance goes out. What it raises
                ends the upload.

        Raises:
            UnreadableInstance: A file cannot be sent; the pipeline calls again without it.
        """
        ...

    def status(self, study_uid: str) -> StudyStatus:
        """How far the core is with a study.

        Raises:
            UnknownStudy: Not uploaded, or not visible yet.
        """
        ...

    def results(
        self, study_uid: str, command: str, into: Path, params: Mapping[str, str] | None = None
    ) -> Results:
        """Fetch the DICOM results of one command.

        Args:
            study_uid: Of a study whose status is done.
            command: One of the core's inference commands.
            into: A directory for nothing else, which may not exist yet or hold an earlier try.
            params: What the site wants of the images (OUTPUT_FORMAT, …), by the API's names.

        Raises:
            NotReady: The results are not there yet.
            FormattingError: Predicted, but not rendered.
        """
        ...

    def check(self) -> None:
        """Prove that the core answers and takes the token."""
        ...

    def close(self) -> None:
        """Close the kept connections."""
        ...


class Findings(Protocol):
    """Findings or measures of one command, in the shape of contract §1.3."""

    def model_dump(self) -> dict[str, Any]:
        """As plain values."""
        ...


@runtime_checkable
class GivesFindings(Protocol):
    """A core that has findings for the HL7 message."""

    def findings(self, study_uid: str, command: str, language: str | None = None) -> Findings:
        """The findings of one command as data.

        Raises:
            NotReady: The prediction is running.
            CommandForbidden: The licence does not cover the command.
            UnknownStudy: The study is not with this core.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CoreConfig:
    """What a core is made from. No repr: it holds the token."""

    #: core, core1, …
    name: str
    url: str
    token: str
    connect_timeout_s: float
    #: without a byte of an answer
    read_timeout_s: float
    #: transfers at once
    parallel: int
    #: what only this type of core understands, e.g. {"signed_url": "true"}
    options: Mapping[str, str] = field(default_factory=dict)


#: What makes a core of one type; raises ConfigError.
CoreFactory = Callable[[CoreConfig], CoreClient]

"""The shield around a core that comes from a package: what it does wrong stays its own trouble.

Its errors become ours at this edge, its answers are looked at before anybody uses them, and what
the pipeline says to stop it, it cannot overhear.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
from billiard.common import (  # type: ignore[attr-defined] # newer than its stubs
    terminate_handler_fired,
)
from billiard.exceptions import SoftTimeLimitExceeded

from pacsor_tasks.core_api import (
    CoreClient,
    Findings,
    GivesFindings,
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UploadItem,
)
from pacsor_tasks.errors import BadResponse, PacsorError, PeerUnavailable, Retryable

log = structlog.get_logger(__name__)

T = TypeVar("T")


class PluggedCore:
    """A core that raises errors of `errors` only and answers what the interface promises.

    Args:
        client: As its package made it.
        name: For people, e.g. `core1 (CORE_TYPE folder)`.
    """

    def __init__(self, client: CoreClient, name: str) -> None:
        self._client = client
        self._name = name

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        """As `CoreClient.upload`; what a callback raised is raised, whatever the core made of it.

        Raises:
            BadResponse: The core came back without an error and without having taken everything.
        """
        told = _Told()
        taken: set[UploadItem] = set()

        def take(item: UploadItem) -> None:
            told.ask(lambda: on_uploaded(item))
            taken.add(item)

        def turn() -> None:
            if before_put is not None:
                told.ask(before_put)

        try:
            with self._translated("upload"):
                self._client.upload(study_uid, items, take, turn)
        finally:
            told.again()
        if n_left := len(set(items) - taken):
            raise BadResponse(
                f"{self._name}: upload() came back and had called on_uploaded() for all but"
                f" {n_left} of {len(items)} instances"
            )

    def status(self, study_uid: str) -> StudyStatus:
        """As `CoreClient.status`."""
        with self._translated("status"):
            answer = self._client.status(study_uid)
        if isinstance(answer, StudyStatus) and isinstance(answer.state, StudyState):
            return answer
        raise self._no("status", answer, "a StudyStatus with a StudyState")

    def results(
        self, study_uid: str, command: str, into: Path, params: Mapping[str, str] | None = None
    ) -> Results:
        """As `CoreClient.results`; `into` is made, and empty."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        with self._translated("results"):
            answer = self._client.results(study_uid, command, into, params)
        if not isinstance(answer, Results) or not isinstance(answer.outcome, Outcome):
            raise self._no("results", answer, "Results with an Outcome")
        paths = [_in(into, Path(path)) for path in answer.paths]
        if None in paths:
            raise BadResponse(f"{self._name}: results() named what is no file in `into`")
        found = [path for path in paths if path is not None]
        return Results(outcome=answer.outcome, paths=found, message=str(answer.message or ""))

    def check(self) -> None:
        """As `CoreClient.check`."""
        with self._translated("check"):
            self._client.check()

    def close(self) -> None:
        """As `CoreClient.close`; a core that cannot be closed is let go."""
        try:
            with self._translated("close"):
                self._client.close()
        except PacsorError as exc:
            log.warning("core.not_closed", error_type=type(exc).__name__)

    @contextmanager
    def _translated(self, method: str) -> Iterator[None]:
        try:
            yield
        except (PacsorError, SoftTimeLimitExceeded):
            raise
        except OSError as exc:  # connections, time limits, folders; those of `requests` too
            said = f"{type(exc).__name__} {exc.strerror or ''}".rstrip()
            raise PeerUnavailable(f"{self._name}: {said} in {method}()") from exc
        except (Exception, SystemExit) as exc:
            if isinstance(exc, SystemExit) and terminate_handler_fired():
                raise  # the worker's own, on a signal, and not a package's `sys.exit`
            # Where, but not the exception's own words: they may quote the value it choked on.
            log.error(  # noqa: TRY400
                "core.bug",
                core=self._name,
                method=method,
                error_type=type(exc).__name__,
                where=traceback.format_tb(exc.__traceback__),
            )
            raise Retryable(
                f"{self._name}: internal error {type(exc).__name__} in {method}(): see the"
                " worker's log"
            ) from exc

    def _no(self, method: str, answer: object, wanted: str) -> BadResponse:
        return BadResponse(
            f"{self._name}: {method}() answered {type(answer).__name__}, not {wanted}"
        )


class PluggedCoreWithFindings(PluggedCore):
    """One that has findings for the HL7 message too."""

    def __init__(self, client: CoreClient, source: GivesFindings, name: str) -> None:
        super().__init__(client, name)
        self._source = source

    def findings(self, study_uid: str, command: str, language: str | None = None) -> Findings:
        """As `GivesFindings.findings`."""
        with self._translated("findings"):
            answer = self._source.findings(study_uid, command, language)
            if isinstance(answer.model_dump(), Mapping):
                return answer
        raise self._no("findings", answer, "findings whose model_dump() is a dict")


class AbsentCore:
    """Stands for a core that could not be made in a process that runs: its work waits.

    Args:
        why: Shown to operators.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def upload(self, *_: object, **__: object) -> None:
        """Raise."""
        self.check()

    def status(self, *_: object) -> StudyStatus:
        """Raise."""
        raise PeerUnavailable(self._why)

    def results(self, *_: object) -> Results:
        """Raise."""
        raise PeerUnavailable(self._why)

    def check(self) -> None:
        """Raise."""
        raise PeerUnavailable(self._why)

    def close(self) -> None:
        """Do nothing."""


def shielded(client: CoreClient, name: str) -> PluggedCore:
    """A package's core behind its shield."""
    if isinstance(client, GivesFindings):
        return PluggedCoreWithFindings(client, client, name)
    return PluggedCore(client, name)


class _Told:
    """Remembers the first thing that a callback raised: after it, every callback raises that."""

    def __init__(self) -> None:
        self._first: BaseException | None = None

    def ask(self, callback: Callable[[], None]) -> None:
        """Call it."""
        self.again()
        try:
            callback()
        except BaseException as exc:
            self._first = exc
            raise

    def again(self) -> None:
        """Raise what was raised before, if anything was."""
        if self._first is not None:
            raise self._first


def _in(directory: Path, path: Path) -> Path | None:
    """A file of a directory by its path from there; None for anything else."""
    real, whole = directory.resolve(), path.resolve()
    if path.is_symlink() or not whole.is_file() or not whole.is_relative_to(real):
        return None
    return directory / whole.relative_to(real)

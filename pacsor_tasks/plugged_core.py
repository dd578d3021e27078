"""The shield around a core that comes from a package: what it does wrong stays its own trouble.

Its errors become ours at this edge, its answers are looked at before anybody uses them, and what
the pipeline says to stop it, it cannot overhear.
"""

from __future__ import annotations

import errno
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
from pacsor_tasks.milvue.refusals import clean

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
            BadResponse: The core came back without an error and without having taken everything,
                or said to have taken what it was not given.
        """
        told = _Told()
        given, taken = set(items), set[UploadItem]()

        def hand_on(item: object) -> None:
            if not isinstance(item, UploadItem) or item not in given:
                raise BadResponse(
                    f"{self._name}: upload() called on_uploaded() with {type(item).__name__}, which"
                    " is none of its items"
                )
            on_uploaded(item)
            taken.add(item)

        def take(item: UploadItem) -> None:
            told.ask(lambda: hand_on(item))

        def turn() -> None:
            if before_put is not None:
                told.ask(before_put)

        try:
            with self._translated("upload"):
                self._client.upload(study_uid, items, take, turn)
        finally:
            told.again()
        if n_left := len(given - taken):
            raise BadResponse(
                f"{self._name}: upload() came back and had called on_uploaded() for all but"
                f" {n_left} of {len(items)} instances"
            )

    def status(self, study_uid: str) -> StudyStatus:
        """As `CoreClient.status`."""
        with self._translated("status"):
            answer = self._client.status(study_uid)
            if not isinstance(answer, StudyStatus) or not isinstance(answer.state, StudyState):
                raise self._no("status", answer, "a StudyStatus with a StudyState")
            return StudyStatus(
                state=answer.state,
                version=self._text("status", answer.version),
                message=self._text("status", answer.message),
            )

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
            return Results(
                outcome=answer.outcome,
                paths=self._files(into, answer.paths),
                message=self._text("results", answer.message),
            )

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

    def _files(self, into: Path, paths: object) -> list[Path]:
        if not isinstance(paths, list | tuple):
            raise self._no("results", paths, "a list of paths")
        found = []
        for path in paths:
            if not isinstance(path, str | Path):
                raise self._no("results", path, "a path, among its paths")
            file = _in(into, Path(path))
            if file is None:
                raise BadResponse(f"{self._name}: results() named what is no file in `into`")
            found.append(file)
        return found

    def _text(self, method: str, answer: object) -> str:
        """What it says, made safe for an event; None is nothing."""
        if answer is None:
            return ""
        if not isinstance(answer, str):
            raise self._no(method, answer, "a text, as its message or version")
        return clean(answer)

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
            dump = getattr(answer, "model_dump", None)
            if callable(dump) and isinstance(dump(), Mapping):
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
    try:
        real, whole = directory.resolve(), path.resolve()
        if path.is_symlink() or not whole.is_file() or not whole.is_relative_to(real):
            return None
    except (ValueError, RuntimeError):  # a NUL or half a surrogate pair; links in a circle
        return None
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        return None
    return directory / whole.relative_to(real)

"""A core that is two folders: studies go into one, results are waited for in the other.

    OUTBOX/<study>/<instance>.dcm, then the empty file OUTBOX/<study>/complete
    INBOX/<study>/<command>/*.dcm, the whole of INBOX/<study> by one rename

What a study's results lack of a command is an empty result; a file INBOX/<study>/error ends it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pacsor_tasks.core_api import (
    CoreConfig,
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UnknownStudy,
    UploadItem,
)
from pacsor_tasks.errors import ConfigError, PeerUnavailable

OPTIONS = ("outbox", "inbox")


def make(config: CoreConfig) -> FolderCore:
    """A core from CORE_FOLDER_OUTBOX and CORE_FOLDER_INBOX."""
    if set(config.options) != set(OPTIONS):
        raise ConfigError(f"{config.name}: CORE_FOLDER_OUTBOX and CORE_FOLDER_INBOX are needed")
    return FolderCore(*(Path(config.options[name]) for name in OPTIONS))


class FolderCore:
    """The whole of what the gateway asks for."""

    def __init__(self, outbox: Path, inbox: Path) -> None:
        self._outbox = outbox
        self._inbox = inbox

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        """Copy the instances, each under its own name only once it is whole."""
        self.check()
        folder = self._outbox / study_uid
        folder.mkdir(exist_ok=True)
        (folder / "complete").unlink(missing_ok=True)
        shutil.rmtree(self._inbox / study_uid, ignore_errors=True)  # of an earlier upload
        for item in items:
            if before_put is not None:
                before_put()
            partial = folder / f"{item.sop_instance_uid}.part"
            shutil.copyfile(item.path, partial)
            partial.replace(partial.with_suffix(".dcm"))
            on_uploaded(item)
        (folder / "complete").touch()

    def status(self, study_uid: str) -> StudyStatus:
        """Done once the results' folder is there."""
        self.check()
        if (self._inbox / study_uid / "error").exists():
            return StudyStatus(state=StudyState.ERROR, message="the AI gave up")
        if (self._inbox / study_uid).is_dir():
            return StudyStatus(state=StudyState.DONE)
        if not (self._outbox / study_uid / "complete").exists():
            raise UnknownStudy("the study is not in CORE_FOLDER_OUTBOX")
        return StudyStatus(state=StudyState.RUNNING)

    def results(
        self, study_uid: str, command: str, into: Path, params: Mapping[str, str] | None = None
    ) -> Results:
        """Copy one command's results."""
        del params  # what a site wants of the images: nothing that this core could change
        found = sorted((self._inbox / study_uid / command).glob("*.dcm"))
        paths = [Path(shutil.copyfile(file, into / f"{n}.dcm")) for n, file in enumerate(found)]
        return Results(outcome=Outcome.DONE if paths else Outcome.EMPTY, paths=paths)

    def check(self) -> None:
        """Both folders are there: a share that is not mounted is a peer that is away."""
        for folder in (self._outbox, self._inbox):
            if not folder.is_dir():
                raise PeerUnavailable(f"{folder} is not there")

    def close(self) -> None:
        """Nothing is kept open."""

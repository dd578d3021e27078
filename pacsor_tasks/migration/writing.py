"""Writes a plan: all of it or nothing, and over nothing that is there.

Everything is written beside its place first; only then each file gets its name.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from pacsor_tasks import env_file
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.migration.conf import FILTER_CFG, ConfFile
from pacsor_tasks.migration.outcome import Plan
from pacsor_tasks.migration.plan import ReadProfile

#: In the container another user reads `conf/`, which holds no secrets.
PUBLIC = 0o644
PUBLIC_DIRECTORY = 0o755
PROFILES = ("Default", "WithSC", "WithRF", "WithSCRF")
HEADER = """\
Made by `pacsor migrate` from {source}.
It holds the API's token: keep it readable by its owner alone. All settings: docs/settings.md."""


def write_plan(
    plan: Plan, into: Path, read_profile: ReadProfile, *, is_forced: bool = False
) -> list[Path]:
    """Write `.env` and `conf/`.

    A file of `conf/` that is there with the same content is left alone; so is a filter.cfg that
    accepts the same.

    Returns:
        What was written.

    Raises:
        ConfigError: Something else is there and `is_forced` is not set: then nothing was written;
            or a file cannot be written.
    """
    conf = [f for f in plan.files if not _is_there(f, into / "conf" / f.name, read_profile)]
    targets = [into / ".env", *(into / "conf" / file.name for file in conf)]
    _refuse_taken(targets, is_forced)
    source = plan.install.env or plan.install.config
    header = HEADER.format(source=source.path if source else plan.install.root)
    # Before anything is written: a value may be one that cannot be.
    text = env_file.render(plan.values, plan.comments, header)
    modes = [env_file.PRIVATE, *(PUBLIC if f.is_public else env_file.PRIVATE for f in conf)]
    contents = [text.encode(), *(file.content for file in conf)]
    _make_conf(into / "conf")
    _write_all(list(zip(targets, contents, modes, strict=True)))
    return targets


def _refuse_taken(targets: list[Path], is_forced: bool) -> None:
    taken = [str(path) for path in targets if path.exists() or path.is_symlink()]
    if taken and not is_forced:
        raise ConfigError(
            f"there already: {', '.join(taken)}; nothing was written (--into another directory, or"
            " --force)"
        )
    directories = [str(path) for path in targets if path.is_dir() and not path.is_symlink()]
    if directories:
        raise ConfigError(f"a directory: {', '.join(directories)}; nothing was written")


def _make_conf(directory: Path) -> None:
    """Make `conf/` where there is none, for the container's user to read whatever the umask is."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not directory.is_dir():
            directory.mkdir()
            directory.chmod(PUBLIC_DIRECTORY)
    except OSError as exc:
        raise ConfigError(f"{directory} cannot be made: {exc.strerror}") from exc


def _write_all(files: list[tuple[Path, bytes, int]]) -> None:
    """Write files of (path, content, mode); a link in a file's place is replaced, not followed."""
    partial: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content, mode in files:
            partial[path] = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            env_file.write_anew(partial[path], content, mode)
        for path, beside in partial.items():
            beside.replace(path)
    except OSError as exc:
        for beside in partial.values():
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


def _is_there(file: ConfFile, path: Path, read_profile: ReadProfile) -> bool:
    try:
        if path.read_bytes() == file.content:
            return True
    except OSError:
        return False
    if file.name != FILTER_CFG or file.is_wrong:
        return False
    with tempfile.TemporaryDirectory() as directory:
        theirs = Path(directory) / FILTER_CFG
        theirs.write_bytes(file.content)
        try:
            return all(read_profile(theirs, name) == read_profile(path, name) for name in PROFILES)
        except ConfigError:
            return False

"""Writes a plan: all of it or nothing, and over nothing that is there."""

from __future__ import annotations

from pathlib import Path

from pacsor_tasks import env_file
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.migration.conf import FILTER_CFG, ConfFile
from pacsor_tasks.migration.plan import Plan, ReadProfile

#: In the container another user reads `conf/`; it holds no secrets.
PUBLIC = 0o644
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
    taken = [str(path) for path in targets if path.exists() or path.is_symlink()]
    if taken and not is_forced:
        raise ConfigError(
            f"there already: {', '.join(taken)}; nothing was written (--into another directory, or"
            " --force)"
        )
    source = plan.install.env or plan.install.config
    header = HEADER.format(source=source.path if source else plan.install.root)
    # Before anything is written: a value may be one that cannot be.
    text = env_file.render(plan.values, plan.comments, header)
    try:
        (into / "conf").mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{into / 'conf'} cannot be made: {exc.strerror}") from exc
    for file in conf:
        _write(into / "conf" / file.name, file.content)
    env_file.write_private(into / ".env", text, is_forced=is_forced)
    return targets


def _is_there(file: ConfFile, path: Path, read_profile: ReadProfile) -> bool:
    try:
        if path.read_bytes() == file.content:
            return True
    except OSError:
        return False
    if file.name != FILTER_CFG or file.is_wrong:
        return False
    theirs = path.with_name(f".{FILTER_CFG}.theirs")
    _write(theirs, file.content)
    try:
        return all(read_profile(theirs, name) == read_profile(path, name) for name in PROFILES)
    except ConfigError:
        return False
    finally:
        theirs.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    try:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(PUBLIC)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc

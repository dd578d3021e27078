"""A site's files: which configurations there are, reading one, writing one and what goes with it.

    env-files/.env.<client>         the settings; comments and unknown names of a read file are kept
    env-files/compose.<client>.yml  what Compose needs beside them, where it needs something
    .env                            a link to the first

All are their owner's alone: they hold tokens.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pacsor_tasks.env_file import parse, write_private
from pacsor_tasks.environment import normalise, read_environment
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.migration.config_file import read_config
from pacsor_tasks.settings import load
from pacsor_tasks.setup import compose
from pacsor_tasks.setup.document import HEADER, rewritten
from pacsor_tasks.setup.products import COMMON, LOCALOR
from pacsor_tasks.setup.validation import problems
from pacsor_tasks.setup.values import Values, changed, project_of

DIRECTORY = "env-files"
PREFIX = ".env."
#: The old wizard's files.
PACSOR = ".config"
DOTENV = ".env"
PROJECT = "COMPOSE_PROJECT_NAME"
#: An address in localor's network, whatever its port and path.
LOCAL_ADDRESS = re.compile(rf"https?://{urlsplit(LOCALOR.url).hostname}([:/]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration as it was read."""

    values: Values
    #: where it came from, and what stood there; None: it is a new one
    path: Path | None = None
    text: str = ""
    #: what a person should know of it
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What saving did."""

    path: Path
    notes: list[str] = field(default_factory=list)


def existing(directory: Path) -> dict[str, Path]:
    """The configurations of a directory by their titles."""
    found = {}
    for path in sorted((directory / DIRECTORY).glob(f"{PREFIX}*")):
        if not path.name.endswith((".tmp", "~")):
            found[path.name.removeprefix(PREFIX)] = path
    for path in sorted((directory / "scripts").glob(f"*{PACSOR}")):
        found[f"{path.stem} (PACSOR's {path.parent.name}/{path.name})"] = path
    dotenv = directory / DOTENV
    if dotenv.is_file() and dotenv.resolve() not in {path.resolve() for path in found.values()}:
        found[DOTENV] = dotenv
    return found


def new() -> Loaded:
    """What a new configuration begins with."""
    return Loaded(COMMON)


def read(path: Path) -> Loaded:
    """Read a configuration.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from exc
    if path.suffix == PACSOR:
        theirs = read_config(text)
        read_as, notes, text = theirs.values, theirs.warnings, ""
    else:
        read_as, notes = normalise(read_environment({}, path))
        notes = [*parse(text).warnings, *notes]
    values, said = _in_local_network(read_as)
    return Loaded(values, path, text, (*notes, *said))


def _in_local_network(values: Values) -> tuple[Values, list[str]]:
    """With ISLOCALOR where the address says so: in PACSOR that stands in its `.config` alone."""
    if not LOCAL_ADDRESS.match(values.get("API_URL", "")) or "ISLOCALOR" in values:
        return values, []
    said = "API_URL is localor's: ISLOCALOR=true is added, so that the containers join its network"
    return {**values, "ISLOCALOR": "true"}, [said]


def path_for(directory: Path, client: str) -> Path:
    """Where the configuration of a client is."""
    return directory / DIRECTORY / f"{PREFIX}{client}"


def save(directory: Path, loaded: Loaded, values: Values, *, is_linked: bool = True) -> Written:
    """Write the configuration, the link and the Compose override; all of it was read back before.

    Raises:
        ConfigError: The gateway would not start with it, it was changed by somebody else since it
            was read, or a file cannot be written.
    """
    if wrong := problems(values):
        raise ConfigError("\n".join(wrong))
    client = values["CLIENT_NAME"]
    path = path_for(directory, client)
    values = _with_project(loaded, values, path)
    override = compose.override(values)
    values = compose.with_override(values, compose.name_of(client) if override else "", directory)
    text = rewritten(loaded.text or HEADER, values)
    _make_directory(path.parent)
    _prove(path.parent, text, values)
    if loaded.path == path and path.exists() and read(path).text != loaded.text:
        raise ConfigError(f"{path} was changed since it was read: load it again")
    write_private(path, text, is_forced=True)
    written = Written(path)
    before, now = (of.get(PROJECT, "") for of in (loaded.values, values))
    if loaded.text and before != now:
        written.notes.append(
            f"{PROJECT} is {now or 'unset'}, not {before or 'unset'}: to Docker Compose that is"
            " another gateway, with empty volumes"
        )
    _write_override(directory, client, override, written)
    if is_linked:
        _link(directory, path, written)
    return written


def _with_project(loaded: Loaded, values: Values, path: Path) -> Values:
    """Without a project's name where none was read: Compose would look for other volumes by it.

    The one that goes with the client's name is PACSOR's own, which may still run beside.
    """
    is_copy = loaded.path != path and loaded.path is not None and (
        loaded.path.name.startswith(PREFIX))  # fmt: skip
    if loaded.path is None or is_copy or PROJECT in loaded.values:
        return values
    if values.get(PROJECT) != project_of(values["CLIENT_NAME"]):
        return values
    return changed(values, {PROJECT: ""})


def _prove(directory: Path, text: str, values: Values) -> None:
    """Read what is about to be written as the gateway would."""
    with tempfile.TemporaryDirectory(dir=directory) as private:
        path = Path(private) / "settings"
        write_private(path, text)
        found, _ = normalise(read_environment({}, path))
        load({}, path)
    differing = sorted(n for n in {*found, *values} if found.get(n) != (values.get(n) or None))
    if differing:
        raise ConfigError(f"{', '.join(differing)}: would be read back differently")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{directory} cannot be made: {exc.strerror}") from exc


def _write_override(directory: Path, client: str, text: str, written: Written) -> None:
    path = directory / compose.name_of(client)
    if text:
        write_private(path, text, is_forced=True)
        written.notes.append(f"{path}: for Compose")
    elif path.exists():
        path.unlink()
        written.notes.append(f"{path}: not needed any more, removed")


def _link(directory: Path, path: Path, written: Written) -> None:
    dotenv = directory / DOTENV
    try:
        if dotenv.exists() and not dotenv.is_symlink():
            written.notes.append(f"{_put_aside(dotenv, path.parent)}: the {DOTENV} there was")
        partial = dotenv.with_name(f"{DOTENV}.{os.getpid()}.tmp")
        partial.unlink(missing_ok=True)
        partial.symlink_to(path.relative_to(directory))
        partial.replace(dotenv)
    except OSError as exc:
        raise ConfigError(f"{dotenv} cannot be written: {exc.strerror}") from exc
    written.notes.append(f"{dotenv}: leads to it")


def _put_aside(dotenv: Path, directory: Path) -> Path:
    number = 1
    while (aside := directory / f"before-setup-{number}.env").exists():
        number += 1
    dotenv.chmod(0o600)
    return dotenv.rename(aside)

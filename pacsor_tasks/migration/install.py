"""What of a PACSOR installation says how it is configured, found by the names PACSOR gives it.

Source: contract §2.1, §2.6 (files of the wizard).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pacsor_tasks.env_file import EnvText, read, read_text
from pacsor_tasks.errors import ConfigError, NotFound
from pacsor_tasks.migration.config_file import as_written

ENV_PREFIX = ".env."
#: How copies of a file are called that nobody uses.
BACKUPS = (".bak", ".orig", ".old", ".save", "~", ".tmp", ".swp")
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
#: A part of PACSOR that is started only where its compose file is included → how it is called there
PARTS = {
    "hl7": r"hl7",
    "webps": r"web-?ps|wpbsb",
    "localor": r"localor",
    "debug": r"debug",
    "multicore": r"multi-?core",
    "tcr-core": r"tcr",
}
_INCLUDED = re.compile(r"[A-Za-z0-9._/-]+\.ya?ml")


class Source(NamedTuple):
    """A file and what it says."""

    path: Path
    text: EnvText


@dataclass(frozen=True, slots=True)
class Install:
    """An installation as it is found."""

    root: Path
    #: what Compose reads; None: the wizard was never run to its end
    env: Source | None
    #: what the wizard keeps
    config: Source | None
    #: parts of `PARTS` that are included; None: there is no compose file to tell
    parts: frozenset[str] | None
    #: its `conf/`
    conf: Path | None
    #: files that may say how PACSOR is configured and were not read
    unread: tuple[Path, ...] = ()
    #: what a person should know of which files were taken, by file
    doubts: dict[str, str] = field(default_factory=dict)


def find(root: Path, client: str | None = None) -> Install:
    """Find the files of one client.

    Args:
        root: Directory of the installation: `.env`, `env-files/`, `scripts/`, `conf/` are in it.
        client: As in `env-files/.env.<client>`; None: the one that `.env` leads to.

    Raises:
        NotFound: Nothing of PACSOR is there.
        ConfigError: There are several clients and none was chosen, or a file cannot be read.
    """
    if not root.is_dir():
        raise NotFound(f"{root}: no such directory")
    path = _env_path(root, client)
    config_path = _config_path(root, client or (_client_of(path) if path else None))
    if path is None and config_path is None:
        raise NotFound(f"{root}: no .env, env-files/.env.* or scripts/*.config of PACSOR")
    doubts: dict[str, str] = {}
    if client and path == root / ".env" and _client_of(path) is None:
        doubts[path.name] = f"does not say whose it is, and there is no env-files/{ENV_PREFIX}"
        doubts[path.name] += f"{client}: taken for {client}'s"
    env = Source(path, read(path)) if path else None
    config = _config(config_path, doubts, is_needed=env is None) if config_path else None
    return Install(
        root=root,
        env=env,
        config=config,
        parts=_parts(root, path),
        conf=root / "conf" if (root / "conf").is_dir() else None,
        unread=_unread(root, [source.path for source in (env, config) if source]),
        doubts=doubts,
    )


def _env_path(root: Path, client: str | None) -> Path | None:
    dotenv = root / ".env"
    if client is not None:
        path = root / "env-files" / f"{ENV_PREFIX}{client}"
        if path.is_file():
            return path
        owner = _client_of(dotenv) if dotenv.is_file() else ""
        return dotenv if owner is None or _plain(owner) == _plain(client) else None
    if dotenv.is_file():
        return dotenv
    paths = sorted((root / "env-files").glob(f"{ENV_PREFIX}*"))
    return _only([path for path in paths if not path.name.endswith(BACKUPS)], "env-files")


def _config_path(root: Path, client: str | None) -> Path | None:
    configs = sorted((root / "scripts").glob("*.config"))
    if client is not None:
        # COMPOSE_PROJECT_NAME has the client with its dots turned into hyphens.
        named = [path for path in configs if _plain(path.stem) == _plain(client)]
        return named[0] if named else None
    return _only(configs, "scripts")


def _config(path: Path, doubts: dict[str, str], *, is_needed: bool) -> Source | None:
    """What the wizard keeps; an unreadable one is passed over where there is an `.env`."""
    try:
        return Source(path, as_written(read_text(path)))
    except ConfigError as exc:
        if is_needed:
            raise
        doubts[path.name] = str(exc).removeprefix(f"{path} ") + "; what it alone says is missing"
        return None


def _unread(root: Path, read_paths: list[Path]) -> tuple[Path, ...]:
    """`.env` and its like that are neither read nor what a file that was read leads to."""
    candidates = [root / ".env", *sorted((root / "env-files").glob(f"{ENV_PREFIX}*")),
                  *sorted((root / "scripts").glob("*.config"))]  # fmt: skip
    known = {path.resolve() for path in read_paths}
    return tuple(path for path in candidates if path.is_file() and path.resolve() not in known)


def _only(paths: list[Path], directory: str) -> Path | None:
    if len(paths) > 1:
        names = ", ".join(_client_name(path) for path in paths)
        raise ConfigError(f"several clients in {directory}/: choose one by --client: {names}")
    return paths[0] if paths else None


def _client_of(env: Path) -> str | None:
    """By the file that `.env` leads to, else by what it says; None: it does not say."""
    if env.resolve().name.startswith(ENV_PREFIX):
        return _client_name(env.resolve())
    values = read(env).values
    project = values.get("COMPOSE_PROJECT_NAME", "")
    named = project.removeprefix("pacsor-") if project.startswith("pacsor-") else ""
    return named or values.get("CLIENT_NAME") or None


def _client_name(path: Path) -> str:
    return path.name.removeprefix(ENV_PREFIX).removesuffix(".config")


def _plain(client: str) -> str:
    return client.lower().replace(".", "-")


def _parts(root: Path, env: Path | None) -> frozenset[str] | None:
    """By the lines of the compose file that are no comments, and COMPOSE_FILE of `.env`."""
    listed = read(env).values.get("COMPOSE_FILE", "") if env else ""
    path = next((root / name for name in COMPOSE_FILES if (root / name).is_file()), None)
    if path is None and not listed:
        return None
    lines = _text(path).splitlines() if path else []
    live = [line for line in lines if not line.lstrip().startswith("#")]
    files = " ".join(Path(name).name for name in _INCLUDED.findall("\n".join([*live, listed])))
    return frozenset(part for part, called in PARTS.items() if re.search(called, files))


def _text(path: Path) -> str:
    """Only names of files are looked for: other bytes of a comment do not matter."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc

"""What of a PACSOR installation says how it is configured, found by the names PACSOR gives it.

Source: contract §2.1, §2.6 (files of the wizard).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pacsor_tasks.env_file import EnvText, read
from pacsor_tasks.errors import ConfigError, NotFound
from pacsor_tasks.migration.config_file import read_config

ENV_PREFIX = ".env."
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
    env = _env_path(root, client)
    config = _config_path(root, client or (_client_of(env) if env else None))
    if env is None and config is None:
        raise NotFound(f"{root}: no .env, env-files/.env.* or scripts/*.config of PACSOR")
    return Install(
        root=root,
        env=Source(env, read(env)) if env else None,
        config=Source(config, read_config(_text(config))) if config else None,
        parts=_parts(root, env),
        conf=root / "conf" if (root / "conf").is_dir() else None,
    )


def _env_path(root: Path, client: str | None) -> Path | None:
    if client is not None:
        path = root / "env-files" / f"{ENV_PREFIX}{client}"
        return path if path.is_file() else None
    if (root / ".env").is_file():
        return root / ".env"
    return _only(sorted((root / "env-files").glob(f"{ENV_PREFIX}*")), "env-files")


def _config_path(root: Path, client: str | None) -> Path | None:
    configs = sorted((root / "scripts").glob("*.config"))
    if client is not None:
        # COMPOSE_PROJECT_NAME has the client with its dots turned into hyphens.
        named = [path for path in configs if _plain(path.stem) == _plain(client)]
        return named[0] if named else None
    return _only(configs, "scripts")


def _only(paths: list[Path], directory: str) -> Path | None:
    if len(paths) > 1:
        names = ", ".join(_client_name(path) for path in paths)
        raise ConfigError(f"several clients in {directory}/: choose one by --client: {names}")
    return paths[0] if paths else None


def _client_of(env: Path) -> str | None:
    """By the file that `.env` leads to, else by the project's name."""
    if env.resolve().name.startswith(ENV_PREFIX):
        return _client_name(env.resolve())
    project = read(env).values.get("COMPOSE_PROJECT_NAME", "")
    return project.removeprefix("pacsor-") or None if project.startswith("pacsor-") else None


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
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from exc

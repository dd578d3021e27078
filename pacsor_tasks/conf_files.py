"""Files of a site's `conf/` directory, by their stems: no path of a request gets further."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pacsor_tasks.errors import ConfigError, NotFound

MAX_BYTES = 1024 * 1024
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


def conf_file(directory: Path, stem: str, suffix: str) -> Path:
    """The file of that stem.

    Raises:
        ConfigError: Not a stem, or a link that leads out of the directory.
        NotFound: No such file.
    """
    if not _STEM.fullmatch(stem):
        raise ConfigError(f"{stem!r} is not a file's stem: letters, digits, - and _")
    path = directory / f"{stem}{suffix}"
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(f"{path}: leads out of {directory}")
    return path


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: It cannot be read, is too long, is no JSON object or gives a key twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_BYTES} bytes")
    try:
        found = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice} is given twice")
    return found

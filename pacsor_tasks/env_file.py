"""Env files as Compose and this gateway both understand them: read with what is odd about them,
written so that both read the same.

A dollar: Compose reads `$$` as `$` in a value that is bare or in double quotes, and leaves it in
single quotes. So does this reader. `$NAME` is not replaced here: no setting needs it, and a token
may hold a dollar.
Source: the Compose specification (interpolation, env_file), python-dotenv.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from pacsor_tasks.errors import ConfigError

#: Read and write by the owner only: every such file holds a token.
PRIVATE = 0o600
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BARE = re.compile(r"[A-Za-z0-9_./:,@%+-]+", re.ASCII)
_IN_SINGLE_QUOTES = re.compile(r"\s*(?:export\s+)?[^=\s]+\s*=\s*'")
_REFERENCE = re.compile(r"(?<!\$)(?:\$\$)*\$(?:[A-Za-z_]|\{)")


@dataclass(frozen=True, slots=True)
class EnvText:
    """What an env file says."""

    #: by name, in the file's order; of a name given twice the last one, as Compose does
    values: dict[str, str] = field(default_factory=dict)
    #: the line of each, from 1
    lines: dict[str, int] = field(default_factory=dict)
    #: what a person should know, without any value: they may be secret
    warnings: list[str] = field(default_factory=list)
    #: lines that nobody can read, from 1
    unreadable: list[int] = field(default_factory=list)
    #: names without `=`, and their lines: Compose takes their values from the shell it runs in
    bare: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> EnvText:
    """Read the text of an env file.

    Values are without surrounding blanks and without one layer of stray quotes; empty ones are
    kept as "".
    """
    found = EnvText()
    for binding in parse_stream(io.StringIO(text.removeprefix("\ufeff"))):
        line = _line(binding)
        if binding.error:
            found.unreadable.append(line)
            found.warnings.append(f"line {line}: not NAME=value, or a quote without its end")
        elif binding.key is not None and binding.value is None:
            found.bare[binding.key] = line
        elif binding.key is not None:
            _take(found, binding.key, binding, line)
    return found


def read(path: Path) -> EnvText:
    """Read an env file.

    Raises:
        ConfigError: See `read_text`.
    """
    return parse(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: It cannot be read, or is not UTF-8: then with the first line that is not.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path} cannot be read: line {line} is not UTF-8 text") from exc


def clean(value: str) -> str:
    """Without surrounding blanks or one layer of stray quotes, which PACSOR's defaults carried."""
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].strip()
    return value


def quoted(name: str, value: str) -> str:
    """A value as it is written behind `NAME=`: bare where it can be, else in single quotes.

    Raises:
        ConfigError: No way of writing it is read alike everywhere; the value is not repeated.
    """
    value = value.strip()
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not the name of a variable")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise ConfigError(f"{name}: a line break or control character cannot be written")
    if clean(value) != value:
        raise ConfigError(f"{name}: quotes around a value are taken for stray ones; leave them out")
    written = _written(value)
    if written is None:
        raise ConfigError(f"{name}: a value with a quote and a backslash at its end")
    return written


def render(
    values: Mapping[str, str], comments: Mapping[str, str] | None = None, header: str = ""
) -> str:
    """The text of an env file.

    Args:
        values: By name, in the order to be written.
        comments: What stands above a name; several lines are fine.
        header: What stands at the top.

    Raises:
        ConfigError: See `quoted`.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    for name, value in values.items():
        above = (comments or {}).get(name, "")
        if above and lines:
            lines.append("")
        lines += [f"# {line}".rstrip() for line in above.splitlines()]
        lines.append(f"{name}={quoted(name, value)}")
    return "".join(f"{line}\n" for line in lines)


def write_private(path: Path, text: str, *, is_forced: bool = False) -> None:
    """Write a file that only its owner can read: whole or not at all, never wider for a moment.

    A link in its place is replaced, not followed.

    Raises:
        ConfigError: It is there already and `is_forced` is not set, or it cannot be written.
    """
    if not is_forced and (path.exists() or path.is_symlink()):
        raise ConfigError(f"{path} is there already; nothing was written over it")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_anew(partial, text.encode("utf-8"))
        partial.replace(path)
    except OSError as exc:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


def write_anew(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """Write a file in the place of whatever is there, lasting when this returns.

    Its mode is `mode` whatever the umask, and never wider for a moment.

    Raises:
        OSError: It cannot be written.
    """
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())


def _line(binding: Binding) -> int:
    """Where a statement is: blank lines before it belong to it."""
    text = binding.original.string
    blanks = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blanks))


def _take(found: EnvText, name: str, binding: Binding, line: int) -> None:
    raw = binding.value or ""
    is_literal = _IN_SINGLE_QUOTES.match(binding.original.string) is not None
    if not is_literal and _REFERENCE.search(raw):
        found.warnings.append(
            f"{name} (line {line}): `$` before a name is kept as it is; Compose would put that"
            " variable's value there (write $$, or put single quotes around the value)"
        )
    value = clean(raw if is_literal else raw.replace("$$", "$"))
    if name in found.values and found.values[name] != value:
        found.warnings.append(
            f"{name}: given twice, in lines {found.lines[name]} and {line}; the second counts"
        )
    found.values[name] = value
    found.lines[name] = line


def _written(value: str) -> str | None:
    if not value or _BARE.fullmatch(value):
        return value
    # Of `\\` and `\'` in single quotes Compose and python-dotenv think differently.
    if "'" not in value and "\\\\" not in value and not value.endswith("\\"):
        return f"'{value}'"
    dollars = value.replace("$", "$$")
    if value[0] not in "\"'" and "#" not in value:
        return dollars
    if value.endswith("\\"):
        return None
    escaped = dollars.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""How Docker Compose reads an env file, written down anew to be compared with.

After compose-go's documented behaviour: bare values end at ` #` and lose their blanks; `$$` is `$`
and `$NAME`, `${NAME}` a variable (none is set here) in bare and double-quoted values; double quotes
know escapes; single quotes are literal. Versions before 2.30 end a quoted value at the first quote
without a backslash before it, later ones count backslashes.
"""

from __future__ import annotations

import re

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def compose_reads(text: str, *, is_old: bool) -> dict[str, str]:
    """The variables of an env file of one statement a line, comments aside."""
    found = {}
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            name, _, rest = line.partition("=")
            found[name] = _value(rest.lstrip(" \t"), is_old)
    return found


def _value(rest: str, is_old: bool) -> str:
    if rest[:1] not in {"'", '"'}:
        return _interpolated(rest.partition(" #")[0].rstrip())
    inner = _old_quoted(rest) if is_old else _new_quoted(rest)
    return inner if rest[0] == "'" else _interpolated(_unescaped(inner))


def _old_quoted(rest: str) -> str:
    for index in range(1, len(rest)):
        if rest[index] == rest[0] and rest[index - 1] != "\\":
            assert not rest[index + 1 :].strip(), "something behind the closing quote"
            return rest[1:index]
    raise AssertionError("unterminated quoted value")


def _new_quoted(rest: str) -> str:
    kept, is_escaped = "", False
    for index in range(1, len(rest)):
        character = rest[index]
        if is_escaped:
            kept += character if character == rest[0] else "\\" + character
            is_escaped = False
        elif character == "\\":
            is_escaped = True
        elif character == rest[0]:
            assert not rest[index + 1 :].strip(), "something behind the closing quote"
            return kept
        else:
            kept += character
    raise AssertionError("unterminated quoted value")


def _unescaped(inner: str) -> str:
    def one(match: re.Match[str]) -> str:
        escape = match[1]
        if escape == "$":
            return "$$"
        if escape[0] == "0":
            return chr(int(escape[1:] or "0", 8))
        return _ESCAPES.get(escape, escape)

    return re.sub(r"\\([abcfnrtv$\"\\]|0[0-9]{0,3})", one, inner)


def _interpolated(value: str) -> str:
    return re.sub(
        r"\$(\$|\{[^}]*\}|[A-Za-z_][A-Za-z0-9_]*)",
        lambda m: "$" if m[1] == "$" else "",
        value,
    )

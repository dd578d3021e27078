"""The text of an env file with other values in it: comments and what did not change stay."""

from __future__ import annotations

import io
from collections.abc import Mapping

from dotenv.parser import Binding, parse_stream

from pacsor_tasks.env_file import parse, quoted
from pacsor_tasks.environment import LEGACY, todays_name
from pacsor_tasks.setup.layout import OTHERS, SECTIONS, section_of
from pacsor_tasks.setup.values import Values, base_of

HEADER = (
    "# Settings of the gateway, by `pacsor setup`. Everything that can be set: docs/settings.md\n"
)


def _heading(section: str) -> str:
    return f"# --- {section}"


HEADINGS = frozenset(map(_heading, (*SECTIONS, OTHERS)))


def rewritten(text: str, values: Values) -> str:
    """The text of a file with other values: what did not change stays as it was written.

    A name given twice is kept once, an old name becomes today's, a line that nobody can read
    becomes a comment; what is new goes to the others of its section. A heading of ours goes with
    the last line under it.
    """
    bindings = list(parse_stream(io.StringIO(text)))
    read_as = parse(text).values
    counting = _counting(bindings, read_as)
    parts = []
    for index, binding in enumerate(bindings):
        name = todays_name(binding.key, read_as) if binding.key is not None else ""
        if binding.error:
            parts.append(("", _commented(binding)))
        elif not name or binding.value is None:
            parts.append(("", binding.original.string))
        elif counting.get(name) == index and (line := _kept(binding, name, read_as, values)):
            parts.append((name, line))
    parts = [part for index, part in enumerate(parts) if not _is_bare(parts, index)]
    for name in in_order(values):
        if name not in counting:
            _insert(parts, name, f"{name}={quoted(name, values[name])}\n")
    return "".join(line if line.endswith("\n") else f"{line}\n" for _, line in parts).lstrip("\n")


def _counting(bindings: list[Binding], read_as: Mapping[str, str]) -> dict[str, int]:
    """By today's name, the line that counts: the last, one under today's name before any other."""
    found: dict[str, int] = {}
    for index, binding in enumerate(bindings):
        if binding.key is None or binding.value is None:
            continue
        name = todays_name(binding.key, read_as)
        if binding.key == name or name not in read_as:
            found[name] = index
    return found


def _kept(binding: Binding, name: str, read_as: Mapping[str, str], values: Values) -> str:
    """A line as it is or with its new value; empty: there is no value any more."""
    original, was = binding.original.string, read_as[str(binding.key)]
    if was == values.get(name, "") and binding.key not in LEGACY:
        return original  # a template's blank too
    if not values.get(name):
        return ""
    blanks = original[: len(original) - len(original.lstrip())]
    return f"{blanks}{name}={quoted(name, values[name])}\n"


def _is_bare(parts: list[tuple[str, str]], index: int) -> bool:
    """Whether this is a heading of ours with nothing under it, not even a comment."""
    if not _is_heading(parts[index]):
        return False
    below = next((part for part in parts[index + 1 :] if part[1].strip()), None)
    return below is None or _is_heading(below)


def _is_heading(part: tuple[str, str]) -> bool:
    return part[1].strip() in HEADINGS


def _commented(binding: Binding) -> str:
    lines = binding.original.string.splitlines()
    return "".join(f"# not readable: {line}\n" if line.strip() else "\n" for line in lines)


def in_order(values: Values) -> list[str]:
    """The names in the order of a new file."""
    known = [name for names in SECTIONS.values() for name in names]
    order = {name: index for index, name in enumerate(known)}
    return sorted(values, key=lambda n: (order.get(base_of(n)[0], len(order)), n))


def _insert(parts: list[tuple[str, str]], name: str, line: str) -> None:
    section = section_of(base_of(name)[0])
    of_section = [i for i, (n, _) in enumerate(parts) if n and section_of(base_of(n)[0]) == section]
    if of_section:
        parts.insert(of_section[-1] + 1, (name, line))
        return
    parts += [("", f"\n{_heading(section)}\n"), (name, line)]

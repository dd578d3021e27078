"""DICOM_FILTERS as PACSOR's wizard leaves them, and what can be made good.

The wizard writes its `.config` without quotes and lets a shell run it: the JSON loses its quotes,
and `$$` becomes the shell's process number. The quotes can be put back for certain. The number
cannot be told from a site's own digits, so that is a guess for a person to confirm.
Source: contract §2.6 (a).
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pacsor_tasks.settings_types import FilterRules, lines

_RULES: TypeAdapter[object] = TypeAdapter(FilterRules)
_HEX = r"[0-9A-Fa-f]{4}"
_FIELDS = (
    rf"tag:\s*\{{\s*group:\s*(?P<group>{_HEX})\s*,\s*element:\s*(?P<element>{_HEX})\s*\}}",
    r"pattern:\s*(?P<pattern>.*?)",
    r"should_match:\s*(?P<match>true|false)",
)
_BARE_RULES = tuple(
    re.compile(r"\{\s*" + r"\s*,\s*".join(order) + r"\s*\}(?=\s*,\s*\{|\s*\]$)")
    for order in itertools.permutations(_FIELDS)
)
#: Where `$$` stood at the end of a pattern or of one of its alternatives.
_PROCESS_NUMBER = re.compile(r"(?<![0-9])[0-9]{3,7}(?=$|\)|\|)")


@dataclass(frozen=True, slots=True)
class Filters:
    """A value of DICOM_FILTERS after reading."""

    #: JSON that loads; None: nothing certain could be made of it
    text: str | None
    #: JSON that was probably meant, where `text` is None and there is a guess
    guess: str | None = None
    #: what was wrong; empty: nothing
    problem: str = ""


def repaired(text: str) -> Filters:
    """Read a value of DICOM_FILTERS, damaged or not."""
    problem = _problem(text)
    if not problem:
        return Filters(text)
    rules = _unquoted(text)
    if rules is None:
        return Filters(None, None, problem)
    found = _json(rules)
    problem = _problem(found)
    if problem:
        return Filters(None, None, problem)
    meant = [{**rule, "pattern": _PROCESS_NUMBER.sub("$", rule["pattern"])} for rule in rules]
    if meant == rules:
        return Filters(found, None, "the quotes were lost")
    number = "the quotes were lost, and a pattern ends in what may be a process number for `$$`"
    return Filters(None, _json(meant), number)


def _problem(text: str) -> str:
    try:
        _RULES.validate_python(text)
    except ValidationError as exc:
        return lines(exc).replace("\n", "; ")
    return ""


def _unquoted(text: str) -> list[dict[str, Any]] | None:
    """The rules of JSON without its quotes; None when it is something else."""
    text = text.strip()
    if not text.startswith("["):
        return None
    rules, position = [], 1
    while position < len(text) - 1:
        rest = text[position:]
        start = position + len(rest) - len(rest.lstrip(", \t"))
        match = next((m for m in (r.match(text, start) for r in _BARE_RULES) if m), None)
        if match is None:
            return None
        rules.append(
            {
                "tag": {"group": match["group"], "element": match["element"]},
                "pattern": match["pattern"].strip(),
                "should_match": match["match"] == "true",
            }
        )
        position = match.end()
        if text[position:].strip() == "]":
            return rules
    return None


def _json(rules: object) -> str:
    return json.dumps(rules, separators=(",", ":"), ensure_ascii=False)

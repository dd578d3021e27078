r"""DICOM_FILTERS as PACSOR's wizard leaves them, and what can be made good.

The wizard writes its `.config` without quotes and lets a shell run it: the JSON loses its quotes,
and `$$` becomes the shell's process number. The quotes can be put back. What else went cannot be
seen: each further run takes one more layer of backslashes (`^KNEE\d+` is `^KNEEd+` after two), so
a person compares what comes of it. The number cannot be told from a site's own digits, so where a
pattern ends in digits there is at most a guess for a person to confirm.
Source: contract §2.6 (a).
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.settings_types import FilterRules, lines

_RULES: TypeAdapter[tuple[FilterRule, ...]] = TypeAdapter(FilterRules)
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
_END = r"(?=$|\)|\|)"
#: Where `$$` may have stood: at the end of a pattern or of one of its alternatives.
_ENDS_IN_DIGITS = re.compile(rf"[0-9]{_END}")
#: What may be a process number as a whole: Linux counts to 4194304, other systems less far.
_PROCESS_NUMBER = re.compile(rf"(?<![0-9\\])[1-9][0-9]{{0,6}}{_END}")
LOST_QUOTES = "the quotes were lost"


@dataclass(frozen=True, slots=True)
class Filters:
    """A value of DICOM_FILTERS after reading."""

    #: JSON that loads; None: a person has to write it
    text: str | None
    #: JSON that was probably meant, where `text` is None and there is a guess
    guess: str | None = None
    #: JSON with nothing but its quotes put back, where `text` is None and that is possible
    as_found: str | None = None
    #: what was wrong; empty: nothing
    problem: str = ""


def repaired(text: str) -> Filters:
    """Read a value of DICOM_FILTERS, damaged or not."""
    problem = _problem(text)
    if not problem:
        return Filters(text)
    rules = _unquoted(text)
    if rules is None:
        return Filters(None, problem=problem)
    found = _json(rules)
    problem = _problem(found)
    if problem:
        return Filters(None, problem=problem)
    if not any(_ENDS_IN_DIGITS.search(rule["pattern"]) for rule in rules):
        return Filters(found, problem=LOST_QUOTES)
    meant = [{**rule, "pattern": _PROCESS_NUMBER.sub("$", rule["pattern"])} for rule in rules]
    is_guess = not any(_ENDS_IN_DIGITS.search(rule["pattern"]) for rule in meant) and not _problem(
        _json(meant)
    )
    number = f"{LOST_QUOTES}, and a pattern ends in digits that may be a process number for `$$`"
    return Filters(None, _json(meant) if is_guess else None, found, number)


def agree(one: str, other: str) -> bool:
    """Whether two values of DICOM_FILTERS, one of them perhaps damaged, can be the same rules."""
    rules, others = _rules(one), _rules(other)
    if rules is None or others is None:
        return one == other
    if rules == others:
        return True
    is_damaged = (bool(_problem(one)), bool(_problem(other)))
    if is_damaged == (True, False):
        return _can_become(others, rules)
    return is_damaged == (False, True) and _can_become(rules, others)


def _rules(text: str) -> tuple[FilterRule, ...] | None:
    text = text.replace("$$", "$")  # as Compose reads it, but for single quotes
    for found in (text, _unquoted(text)):
        try:
            return _RULES.validate_python(found)
        except ValidationError:
            continue
    return None


def _can_become(rules: tuple[FilterRule, ...], damaged: tuple[FilterRule, ...]) -> bool:
    """Whether the wizard can make these of those: without backslashes, with numbers for `$`."""
    return len(rules) == len(damaged) and all(
        (was.tag, was.should_match) == (now.tag, now.should_match)
        and re.fullmatch(_after_damage(was.pattern), now.pattern)
        for was, now in zip(rules, damaged, strict=True)
    )


def _after_damage(pattern: str) -> str:
    left = {"\\": r"\\?", "$": r"(?:\$|[0-9]{1,7})"}
    return "".join(left.get(character, re.escape(character)) for character in pattern)


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

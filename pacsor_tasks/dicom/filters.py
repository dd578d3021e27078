"""DICOM_FILTERS: which instances go to the AI, and by which rule. Pure rules over a header.

What a rule sees of an element is decided in `values`, what a pattern means in `rules`.

Source: contract §2.4; docs/filters.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydicom.datadict import keyword_for_tag

from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.dicom.values import read_values, vr_of

#: Standard elements that may tell who the patient is, beside group 0010, person names and free text
#: (PS3.15 Table E.1-1).
IDENTIFYING = frozenset({
    0x00080050, 0x00081080, 0x00200010, 0x00380010, 0x00380300, 0x00380400, 0x00380500, 0x00400009,
    0x00400253, 0x00401001, 0x00401002, 0x00402016, 0x00402017,
})  # fmt: skip
PATIENT_GROUP = 0x0010
PERSONAL_VRS = frozenset({"PN", "LT", "ST", "UT", "UC", ""})


class Found(StrEnum):
    """What a rule found of its element."""

    ABSENT = "is absent"
    MATCHES = "matches"
    DIFFERS = "does not match"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule says of one instance."""

    #: the rule's place in DICOM_FILTERS, from 1
    number: int
    rule: FilterRule
    found: Found
    skips: bool
    #: Patient data: for the eyes of who asked for them only
    values: tuple[str, ...] = field(repr=False)

    @property
    def tag(self) -> str:
        """As `(0008,0060)`."""
        return tag_text(self.rule.tag)

    @property
    def keyword(self) -> str:
        """The standard's name of the element; "" where it has none."""
        return keyword_for_tag(_number(self.rule.tag))

    @property
    def reason(self) -> str:
        """What the rule found, without any value. See `shown_pattern`."""
        pattern = shown_pattern(self.rule)
        against = f" {pattern}" if self.found is not Found.ABSENT else ""
        named = " ".join(filter(None, (self.keyword, self.tag)))
        return f"rule {self.number}: {named} {self.found}{against}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an instance goes to the AI."""

    keep: bool
    #: the rule that skips it; None when it is kept
    by: Verdict | None = None

    @property
    def reason(self) -> str | None:
        """Why it is skipped, without any value; None when it is kept."""
        return None if self.by is None else self.by.reason


KEEP = Decision(keep=True)


def decide(rules: Sequence[FilterRule], path: Path) -> Decision:
    """Apply the rules to one instance; the first rule that skips it decides.

    Reads no more than the header up to the pixel data, and nothing at all without rules.

    Raises:
        Permanent: The file cannot be read as DICOM.
    """
    return decision_of(explain(rules, path)) if rules else KEEP


def explain(rules: Sequence[FilterRule], path: Path) -> list[Verdict]:
    """What each rule says of one instance, in their order.

    Raises:
        Permanent: The file cannot be read as DICOM.
    """
    if not rules:
        return []
    seen = read_values(path, {rule.tag for rule in rules})
    return [verdict(n, rule, seen[rule.tag]) for n, rule in enumerate(rules, 1)]


def decision_of(verdicts: Sequence[Verdict]) -> Decision:
    """The first rule that skips decides; without one the instance is kept."""
    by = next((v for v in verdicts if v.skips), None)
    return Decision(keep=False, by=by) if by is not None else KEEP


def verdict(number: int, rule: FilterRule, values: Sequence[str] | None) -> Verdict:
    """What a rule says of an element with these values; None: it is absent."""
    if values is None:
        found = Found.ABSENT
    else:
        found = Found.MATCHES if rule.matches(values) else Found.DIFFERS
    return Verdict(
        number=number, rule=rule, found=found, skips=rule.skips(values), values=tuple(values or ())
    )


def tag_text(tag: tuple[int, int]) -> str:
    """A tag as people write it."""
    return f"({tag[0]:04X},{tag[1]:04X})"


def shown_pattern(rule: FilterRule) -> str:
    """The rule's pattern, or words in its place where a match would tell who the patient is."""
    return "its pattern" if is_identifying(rule.tag) else repr(rule.pattern)


def is_identifying(tag: tuple[int, int]) -> bool:
    """Whether what is known of an element's value may tell who the patient is.

    Private elements and those the standard does not know are taken to be so.
    """
    number = _number(tag)
    return tag[0] == PATIENT_GROUP or number in IDENTIFYING or vr_of(number) in PERSONAL_VRS


def _number(tag: tuple[int, int]) -> int:
    return tag[0] << 16 | tag[1]

"""One rule of DICOM_FILTERS. Apart from its use, so that settings are read without DICOM code.

Patterns are RE2's, as those of PACSOR, which is written in Go: a pattern means here what it meant
there, and no value makes one run for long. Python's `re` backtracks: `(a+)+$` on sixty letters
would hold a worker for good.

Source: contract §2.4; https://github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import re2
from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

#: Of one pattern, compiled and with what it keeps between searches: RE2's own default, enough for
#: `\pL{1,100}`, which is large.
MAX_PATTERN_BYTES = 8 * 1024 * 1024
#: How RE2's word on something begins that other engines may have.
UNKNOWN_TO_RE2 = ("invalid perl operator", "invalid escape sequence")


class FilterRule(BaseModel):
    """One rule of DICOM_FILTERS. Source: contract §2.4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: (group, element)
    tag: tuple[int, int]
    pattern: str
    should_match: bool

    @field_validator("tag", mode="before")
    @classmethod
    def _hex_tag(cls, value: Any) -> Any:
        if not isinstance(value, tuple):
            if not isinstance(value, Mapping) or set(value) != {"group", "element"}:
                raise ValueError('a tag is written {"group":"HHHH","element":"HHHH"}')
            parts = (str(value["group"]), str(value["element"]))
            if not all(re.fullmatch(r"[0-9A-Fa-f]{4}", part) for part in parts):
                raise ValueError(
                    f"tag ({parts[0]},{parts[1]}) is not two groups of four hex digits"
                )
            return tuple(int(part, 16) for part in parts)
        return value

    @field_serializer("tag")
    def _as_written(self, value: tuple[int, int]) -> dict[str, str]:
        return {"group": f"{value[0]:04X}", "element": f"{value[1]:04X}"}

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            _compiled(value)
        except (re2.error, UnicodeError) as exc:
            reason = _words(exc)
            raise ValueError(f"pattern {value!r} is not a regular expression: {reason}") from None
        return value

    def skips(self, values: Sequence[str] | None) -> bool:
        """Whether this rule skips an instance whose element has these values.

        Args:
            values: The element's values as strings; None when the element is absent.
        """
        return values is not None and self.matches(values) is not self.should_match

    def matches(self, values: Sequence[str]) -> bool:
        """Whether the pattern is found in any of these values; none at all counts as ""."""
        search = _compiled(self.pattern).search
        # A value has no lone surrogates: what does not decode is U+FFFD before it comes here.
        return any(search(value.encode("utf-8", "replace")) for value in values or ("",))


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    """The pattern, ready. Kept by its text and not in the rule, which goes between processes.

    Raises:
        re2.error: RE2 has no such pattern.
        UnicodeError: It is no Unicode text.
    """
    options = re2.Options()
    options.max_mem = MAX_PATTERN_BYTES
    options.never_capture = True  # nobody asks what a group found: that is faster
    options.log_errors = False  # to stderr, with the pattern: it may be a patient's name
    return re2.compile(pattern.encode(), options)


def _words(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it holds half of a surrogate pair"
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    if text.startswith(UNKNOWN_TO_RE2):
        return f"{text} (RE2, PACSOR's syntax, has no look-around, no back-references, no \\Z)"
    return text

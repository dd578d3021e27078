"""One rule of DICOM_FILTERS. Apart from its use, so that settings are read without DICOM code.

Source: contract §2.4.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator


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
            with warnings.catch_warnings():
                # [[:alpha:]] is a class in RE2 and something else, with a FutureWarning, in `re`.
                warnings.simplefilter("error", FutureWarning)
                re.compile(value)
        except (re.error, FutureWarning) as exc:
            raise ValueError(f"pattern {value!r} is not a regular expression: {exc}") from exc
        return value

    def skips(self, values: Sequence[str] | None) -> bool:
        """Whether this rule skips an instance whose element has these values.

        Args:
            values: The element's values as strings; None when the element is absent.
        """
        return values is not None and self.matches(values) is not self.should_match

    def matches(self, values: Sequence[str]) -> bool:
        """Whether the pattern is found in any of these values; none at all counts as ""."""
        return any(re.search(self.pattern, value) for value in values or ("",))

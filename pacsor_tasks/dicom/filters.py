"""DICOM_FILTERS: which instances go to the AI. Pure rules over a bounded header read.

Source: contract §2.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


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
        if isinstance(value, Mapping):
            if set(value) != {"group", "element"}:
                raise ValueError('a tag is written {"group":"HHHH","element":"HHHH"}')
            parts = (str(value["group"]), str(value["element"]))
            if not all(re.fullmatch(r"[0-9A-Fa-f]{4}", part) for part in parts):
                raise ValueError(
                    f"tag ({parts[0]},{parts[1]}) is not two groups of four hex digits"
                )
            return tuple(int(part, 16) for part in parts)
        return value

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        # `$$` is how Compose files write `$`; as a regex both mean the same end of string.
        pattern = value.replace("$$", "$")
        try:
            re.compile(pattern)
        except re.error as exc:
            raise ValueError(f"pattern {value!r} is not a regular expression: {exc}") from exc
        return pattern

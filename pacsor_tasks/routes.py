"""Configurable routes: a path with placeholders becomes segments and a query.

Source: docs/techcare-report.md; contract §2.5 (no public description of the API exists).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

STUDY = "study_instance_uid"
ORGANIZATION = "organization_id"
PROVIDERS = "providers"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@{}%-]+")


@dataclass(frozen=True, slots=True)
class Route:
    """A path below a base URL, e.g. `/report?study_instance_uid={study_instance_uid}`."""

    text: str

    @classmethod
    def parse(cls, text: str, known: frozenset[str], needed: frozenset[str] = frozenset()) -> Route:
        """Read a setting.

        Args:
            text: The path, with a query or without.
            known: The placeholders that are filled in.
            needed: Those of them that must be there.

        Raises:
            ValueError: Not a path, or with other placeholders.
        """
        path, _, query = text.partition("?")
        segments = path.removeprefix("/").split("/")
        if not path.startswith("/") or not all(map(_SEGMENT.fullmatch, segments)):
            raise ValueError(f"{text!r} is not a path like /report")
        if {".", ".."} & set(segments) or "#" in query:
            raise ValueError(f"{text!r} is not a path like /report")
        named = set(_PLACEHOLDER.findall(text))
        wrong = named - known
        if wrong or "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
            shown = ", ".join(sorted(f"{{{name}}}" for name in known))
            raise ValueError(f"{text!r}: the placeholders are {shown}")
        if missing := sorted(needed - named):
            raise ValueError(f"{text!r}: {{{missing[0]}}} is missing")
        return cls(text)

    def fill(self, values: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """(segments, query), not quoted yet."""
        path, _, query = self.text.partition("?")
        segments = tuple(_filled(part, values) for part in path.removeprefix("/").split("/"))
        pairs = parse_qsl(query, keep_blank_values=True)
        return segments, {key: _filled(value, values) for key, value in pairs}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

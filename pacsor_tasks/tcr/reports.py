"""A report as JSON: its parts, whoever wrote it. Pure.

Source: docs/techcare-report.md; contract §2.5 (the parts), §3.1 (DEFAULT_REPORT_MAPPING).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.hl7.report import PARTS, Report

#: Other names that a part goes by.
ALSO = {"technique": ("techniques",), "results": ("result", "findings")}
HTML, TEXT = "html", "text"
#: How many levels of lists and regions a part may have.
DEPTH = 4
_TAG = re.compile(
    r"(?i)<(/?(p|div|span|h[1-6]|ul|ol|li|table|tr|td|b|i|u|strong|em|section)\b[^<>]*|br\s*/?)>"
)


def read_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadResponse: It is something else. Says nothing of its content.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise BadResponse(f"{what}: not JSON") from None
    if not isinstance(value, dict):
        raise BadResponse(f"{what}: not a JSON object")
    return value


def report_of(value: Mapping[str, Any], what: str) -> Report:
    """The report in a JSON object: its member `report`, or the object itself.

    A part is a text, a list of texts, or a list of `{"region": …, "items": […]}`. `format` says
    whether texts are HTML; without it they are when one has a tag that HTML knows.

    Args:
        value: The object; its other members do not matter.
        what: For errors.

    Raises:
        BadResponse: A part is something else.
    """
    inner = value.get("report", value)
    if inner is None:
        return Report()
    if not isinstance(inner, Mapping):
        raise BadResponse(f"{what}: `report` is no object")
    parts = {part: _part(inner, part, what) for part in PARTS}
    given = inner.get("format", value.get("format"))
    if given is not None and given not in {HTML, TEXT}:
        raise BadResponse(f"{what}: `format` is neither html nor text")
    is_html = given == HTML or (given is None and any(map(_TAG.search, parts.values())))
    return Report(parts={part: text for part, text in parts.items() if text}, is_html=is_html)


def is_empty(report: Report) -> bool:
    """Whether no part has a text."""
    return not any(report.text(part).strip() for part in PARTS)


def _part(value: Mapping[str, Any], part: str, what: str) -> str:
    for name in (part, *ALSO.get(part, ())):
        if value.get(name) is not None:
            return _text(value[name], f"{what}: `{name}`", DEPTH)
    return ""


def _text(value: Any, what: str, depth: int) -> str:
    if isinstance(value, str):
        return value
    if depth and isinstance(value, list):
        return "\n".join(filter(None, (_text(entry, what, depth - 1) for entry in value)))
    if depth and isinstance(value, Mapping) and "items" in value:
        region = value.get("region") or ""
        if isinstance(region, str):
            items = _text(value["items"], what, depth - 1)
            return f"{region}: {items}" if region and "\n" not in items else f"{region}\n{items}"
    raise BadResponse(f"{what} is neither a text nor a list of texts")

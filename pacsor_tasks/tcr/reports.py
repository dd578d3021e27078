"""A report as JSON: its parts, whoever wrote it. Pure.

Source: docs/techcare-report.md; contract §2.5 (the parts), §3.1 (DEFAULT_REPORT_MAPPING).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.hl7 import markup
from pacsor_tasks.hl7.report import PARTS, Report

#: Other names that a part goes by.
ALSO = {"technique": ("techniques",), "results": ("result", "findings")}
HTML, TEXT = "html", "text"
#: How many levels of lists and regions a part may have.
DEPTH = 4
_ELEMENTS = (
    "article|blockquote|body|br|center|code|d[dlt]|div|em|font|h[1-6r]|head|html|img|li|mark|ol|p"
    "|pre|section|small|span|strong|su[bp]|t[dhr]|table|tbody|thead|ul"
)
#: `a<b>c` may be a comparison: of these the end tag says that they are tags, or an attribute.
_LETTERS = "[abiqsu]"
_ATTRIBUTE = r"""\s++[a-z][\w:-]*+\s*+=\s*+(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'<>=]++)"""
_TAG = re.compile(
    rf"</(?:{_ELEMENTS}|{_LETTERS})\s*+>"
    rf"|<(?:{_ELEMENTS})\s*+/?>"
    rf"|<(?:{_ELEMENTS}|{_LETTERS})(?:{_ATTRIBUTE})++\s*+/?>",
    re.IGNORECASE,
)


def read_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadResponse: It is something else. Says nothing of its content.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")
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
    whether texts are HTML; without it each part is that has a tag of HTML.

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
    parts = {part: text for part in PARTS if (text := _part(inner, part, what))}
    given = _format(inner, what) or _format(value, what)
    if given:
        return Report(parts=parts, is_html=given == HTML)
    html_parts = frozenset(part for part, text in parts.items() if _TAG.search(text))
    if parts and html_parts == parts.keys():
        return Report(parts=parts, is_html=True)
    return Report(parts=parts, html_parts=html_parts)


def is_empty(report: Report) -> bool:
    """Whether no part has a text to be seen."""
    return not any(_shows(report, part) for part in report.parts)


def unshown(report: Report) -> list[str]:
    """The parts that have something, of which a reader sees nothing or only the beginning.

    That is a picture without a text, or an element that hides the rest as it is not closed.
    """
    return [
        part
        for part, source in report.parts.items()
        if not markup.is_blank(source)
        and (not _shows(report, part) or (report.has_html(part) and markup.loses_text(source)))
    ]


def _shows(report: Report, part: str) -> bool:
    source = report.parts[part]
    return markup.shows_text(source) if report.has_html(part) else not markup.is_blank(source)


def _format(value: Mapping[str, Any], what: str) -> str:
    """What `format` says, in small letters; "" when it is absent."""
    given = value.get("format")
    said = given.strip().lower() if isinstance(given, str) else given
    if said is None or said == "":
        return ""
    if not isinstance(said, str) or said not in {HTML, TEXT}:
        raise BadResponse(f"{what}: `format` is neither html nor text")
    return said


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

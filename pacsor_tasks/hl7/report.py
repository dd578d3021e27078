"""The OBX segments of a report, in the forms PACSOR 2.10.1 went back to. Pure.

Source: contract §3.1 (forms), §3.2 (their bytes).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from pacsor_tasks.hl7.escape import Er7, clean, escape
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, Template, fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a report, its text plain or HTML as the form wants."""

    key: str
    label: str
    text: str


def b64_obx(
    section: Section, *, uppercase: bool = True, template: Template = DEFAULT_TEMPLATE
) -> Er7:
    """B64: the section's text in base64. No segment terminator, here and below.

    Args:
        section: With plain text.
        uppercase: The key in capitals; the label stays.
        template: Where the form comes from.
    """
    return _fill(template.obx_b64, "ED", _name(section, uppercase), _base64(section.text))


def plain_obx(
    section: Section, *, uppercase: bool = True, template: Template = DEFAULT_TEMPLATE
) -> Er7:
    """PLAIN: the section's text, escaped. Arguments as `b64_obx`."""
    return _fill(template.obx_plain, "TX", _name(section, uppercase), escape(section.text))


def html_obx(html: str, *, template: Template = DEFAULT_TEMPLATE) -> Er7:
    """HTML: the whole report in one segment."""
    return _fill(template.obx_html, "ED", Er7(""), _base64(html))


def html_split_obx(
    section: Section, *, uppercase: bool = True, template: Template = DEFAULT_TEMPLATE
) -> Er7:
    """HTML_SPLIT: the section's HTML in base64. Arguments as `b64_obx`."""
    return _fill(template.obx_html_split, "ED", _name(section, uppercase), _base64(section.text))


def _fill(form: str, kind: str, name: Er7, content: Er7) -> Er7:
    values = {"obx_2": Er7(kind), "section": name, "content": content}
    return Er7(fill(form, values).rstrip("\r\n"))


def _name(section: Section, uppercase: bool) -> Er7:
    key = section.key.upper() if uppercase else section.key
    return Er7(f"{escape(key)}^{escape(section.label)}")


def _base64(text: str) -> Er7:
    # No line breaks, and the base64 alphabet has no delimiter: nothing to escape.
    return Er7(base64.b64encode(clean(text).encode("utf-8")).decode("ascii"))

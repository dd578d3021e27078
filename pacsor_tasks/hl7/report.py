"""The OBX segments of a report, in the forms PACSOR 2.10.1 went back to. Pure.

Source: contract §3.1 (forms), §3.2 (their bytes).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from pacsor_tasks.hl7 import markup
from pacsor_tasks.hl7.escape import Er7, clean_bytes, escape
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, Template, fill, parted

#: The parts of a report, in the order they are sent.
PARTS = ("title", "indication", "technique", "results", "conclusion", "type")
#: Nothing known beside the report.
NO_VALUES: Mapping[str, Er7] = MappingProxyType({})
#: `type` says what kind of report it is: a section of its own, but not a part of the page.
NOT_ON_THE_PAGE = frozenset({"type"})


class ReportFormat(StrEnum):
    """How a report stands in its OBX segments."""

    B64 = "B64"
    PLAIN = "PLAIN"
    HTML = "HTML"
    HTML_SPLIT = "HTML_SPLIT"


# No repr: the text is a patient's.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """A report as it was fetched or written."""

    #: part (see PARTS) → text; what is empty is not sent
    parts: Mapping[str, str] = field(default_factory=dict)
    #: the texts are HTML
    is_html: bool = False
    #: some are: these parts, whatever `is_html` says
    html_parts: frozenset[str] = frozenset()

    def has_html(self, part: str) -> bool:
        """Whether a part is HTML."""
        return self.is_html or part in self.html_parts

    def text(self, part: str) -> str:
        """A part in plain text."""
        found = self.parts.get(part) or ""
        return markup.to_text(found) if self.has_html(part) else found

    def html(self, part: str) -> str:
        """A part as HTML without indentation."""
        found = self.parts.get(part) or ""
        if self.has_html(part):
            return markup.without_indentation(found)
        return markup.from_text(found)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Section:
    """One part of a report, its text plain or HTML as the form wants."""

    key: str
    label: str
    text: str


def report_obx(
    report: Report,
    form: ReportFormat,
    *,
    uppercase: bool = True,
    template: Template = DEFAULT_TEMPLATE,
    values: Mapping[str, Er7] = NO_VALUES,
) -> list[Er7]:
    """All segments of a report, one by one; none when it is empty. Arguments as `b64_obx`."""
    made = _obx(report, form, uppercase=uppercase, template=template, values=values)
    return [Er7(segment) for obx in made for segment in obx.split("\r")]


def _obx(
    report: Report,
    form: ReportFormat,
    *,
    uppercase: bool,
    template: Template,
    values: Mapping[str, Er7],
) -> list[Er7]:
    if form is ReportFormat.HTML:
        page = _page(report, template)
        return [html_obx(page, template=template, values=values)] if page else []
    make = {
        ReportFormat.B64: b64_obx,
        ReportFormat.PLAIN: plain_obx,
        ReportFormat.HTML_SPLIT: html_split_obx,
    }[form]
    sections = []
    for part in PARTS:
        text = report.html(part) if form is ReportFormat.HTML_SPLIT else report.text(part)
        if not markup.is_blank(text):
            key, label = _named(part, template)
            sections.append(Section(key=key, label=label, text=text))
    return [
        make(section, uppercase=uppercase, template=template, values=values) for section in sections
    ]


def b64_obx(
    section: Section,
    *,
    uppercase: bool = True,
    template: Template = DEFAULT_TEMPLATE,
    values: Mapping[str, Er7] = NO_VALUES,
) -> Er7:
    """B64: the section's text in base64. No segment terminator at the end, here and below.

    A site's form may be several segments, parted by CR.

    Args:
        section: With plain text.
        uppercase: The key in capitals; the label stays.
        template: Where the form comes from.
        values: Encoded text by placeholder, of the study and the message.
    """
    return _fill(template.obx_b64, values, "ED", _name(section, uppercase), _base64(section.text))


def plain_obx(
    section: Section,
    *,
    uppercase: bool = True,
    template: Template = DEFAULT_TEMPLATE,
    values: Mapping[str, Er7] = NO_VALUES,
) -> Er7:
    """PLAIN: the section's text, escaped. Arguments as `b64_obx`."""
    content = escape(section.text, template.controls)
    return _fill(template.obx_plain, values, "TX", _name(section, uppercase), content)


def html_obx(
    html: str, *, template: Template = DEFAULT_TEMPLATE, values: Mapping[str, Er7] = NO_VALUES
) -> Er7:
    """HTML: the whole report in one segment."""
    return _fill(template.obx_html, values, "ED", Er7(""), _base64(html))


def html_split_obx(
    section: Section,
    *,
    uppercase: bool = True,
    template: Template = DEFAULT_TEMPLATE,
    values: Mapping[str, Er7] = NO_VALUES,
) -> Er7:
    """HTML_SPLIT: the section's HTML in base64. Arguments as `b64_obx`."""
    content = _base64(section.text)
    return _fill(template.obx_html_split, values, "ED", _name(section, uppercase), content)


def _page(report: Report, template: Template) -> str:
    """The whole report: its title as heading, then each part under a heading of its own."""
    pieces = []
    for part in PARTS:
        content = report.html(part)
        if part in NOT_ON_THE_PAGE or markup.is_blank(content):
            continue
        if part == "title":
            pieces.append(f"<h1>{markup.inline(report.text(part))}</h1>")
        else:
            pieces.append(f"<h2>{markup.inline(_named(part, template)[1])}</h2>{content}")
    return "\n".join(pieces)


def _named(part: str, template: Template) -> tuple[str, str]:
    """Key and label of a section: `KEY^Label` or one name for both, or the part's own."""
    name = template.report_names.get(part, "").strip()
    key, separator, label = name.partition("^")
    return (key, label) if separator else (name or part, name or part.capitalize())


def _fill(form: str, values: Mapping[str, Er7], kind: str, name: Er7, content: Er7) -> Er7:
    of_it = {**values, "obx_2": Er7(kind), "section": name, "content": content}
    # Parted before it is filled in: no text of a report is a line end of the message.
    return Er7("\r".join(fill(line, of_it) for line in parted(form)))


def _name(section: Section, uppercase: bool) -> Er7:
    key = section.key.upper() if uppercase else section.key
    return Er7(f"{escape(key)}^{escape(section.label)}")


def _base64(text: str) -> Er7:
    # No line breaks, and the base64 alphabet has no delimiter: nothing to escape.
    return Er7(base64.b64encode(clean_bytes(text)).decode("ascii"))

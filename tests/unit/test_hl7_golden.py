"""Every form, report format and switch against the bytes on file, and what other parsers say."""

from __future__ import annotations

import base64
from dataclasses import replace

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.escape import clean, unescape
from pacsor_tasks.hl7.markup import is_blank
from pacsor_tasks.hl7.message import build_message
from pacsor_tasks.hl7.report import PARTS, Report, ReportFormat
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE, DEFAULT_TEMPLATE, Template
from tests.support.hl7_example import AT, CONTROL_ID, GOLDEN, METADATA, OPTIONS, example
from tests.support.hl7_golden import DIRECTORY, messages

MADE = messages()
TEXT = st.text(st.characters(exclude_categories=[])) | st.text("\\|^&~\r\n\t{}[]<>&;SEG_\x0b\x1c")


def segments(message: bytes) -> list[list[str]]:
    assert message.endswith(b"\r")
    return [line.split("|") for line in message.decode("utf-8").split("\r")[:-1]]


def is_valid(message: bytes) -> bool:
    """What hl7apy says of a copy without Z segments, which its groups cannot hold."""
    lines = ["|".join(line) for line in segments(message) if not line[0].startswith("Z")]
    parsed = parse_message(
        "\r".join(lines) + "\r", validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=True
    )
    return bool(parsed.validate())


def test_every_message_on_file_is_made_and_no_other() -> None:
    assert {path.name for path in DIRECTORY.glob("*.hl7")} == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_the_bytes_are_those_on_file(name: str) -> None:
    assert (DIRECTORY / name).read_bytes() == MADE[name], (
        "if this is meant: python -m tests.support.hl7_golden, and tell the sites"
    )


@pytest.mark.parametrize("name", MADE)
def test_two_other_parsers_accept_it(name: str) -> None:
    message = MADE[name]
    # The legacy PV1 is empty, where the standard wants PV1-2; a site's own form is its own affair.
    if not (name.startswith("legacy-") and "-pv1" in name) and not name.startswith("site-"):
        assert is_valid(message)
    assert str(hl7.parse(message.decode())).encode() == message


@pytest.mark.parametrize("name", MADE)
def test_nothing_of_a_template_is_left_and_nothing_breaks_a_frame(name: str) -> None:
    message = MADE[name]
    assert not set(message) & {0x0A, 0x0B, 0x1C}
    assert not any(rest in message for rest in (b"SEG_", b"{", b"}", b"\r\r", b"P12345"))


def test_the_worked_examples_of_the_contract_are_these_forms() -> None:
    report = Report(parts={"results": "Fracture deplacee : non.\nTraumatisme du poignet droit."})
    message = build_message(
        METADATA, OPTIONS, control_id=CONTROL_ID, at=AT, inference="x", report=report
    )
    assert message.startswith(GOLDEN.rpartition(b"OBX||ST|")[0])
    assert message.endswith(
        b"OBX||ED|RESULTS^Results^LN||Text^^Base64^RnJhY3R1cmUgZGVwbGFjZWUgOiBub24uClRyYXVtYXRpc21"
        b"lIGR1IHBvaWduZXQgZHJvaXQu||||||F\r"
    )


def test_obx_are_numbered_only_in_the_conformant_form() -> None:
    numbers = [line[1] for line in segments(MADE["conformant-b64-default.hl7"]) if line[0] == "OBX"]
    assert numbers == [str(n) for n in range(1, 9)]
    legacy = segments(MADE["legacy-b64-default.hl7"])
    assert {line[1] for line in legacy if line[0] == "OBX"} == {""}


def test_an_empty_report_adds_nothing() -> None:
    for kind in ReportFormat:
        options = replace(OPTIONS, report_format=kind)
        empty = Report(parts={"results": " \n", "conclusion": "\x0b"})
        message = build_message(
            METADATA, options, control_id=CONTROL_ID, at=AT, inference="x", report=empty
        )
        assert message == example("x")


def test_html_is_decoded_without_indentation() -> None:
    line = segments(MADE["legacy-html-from-html.hl7"])[-1]
    page = base64.b64decode(line[5].removeprefix("^text^^Base64^"), validate=True).decode()
    assert page == (
        "<h1>Radiographie du poignet</h1>\n<h2>Technique</h2><p>Face &amp; profil</p>\n"
        "<h2>Results</h2><div>\n<p>Fracture <b>déplacée</b> : non.</p>\n<ul>\n<li>RAS</li>\n</ul>\n"
        "</div>\n<h2>Conclusion</h2><p>Pas de lésion.</p>"
    )


@pytest.mark.parametrize("kind", ReportFormat)
@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, CONFORMANT_TEMPLATE])
@given(text=TEXT)
def test_no_text_of_a_report_moves_a_field_or_is_changed(
    kind: ReportFormat, template: Template, text: str
) -> None:
    options = replace(OPTIONS, template=template, report_format=kind)
    report = Report(parts=dict.fromkeys(PARTS, text))
    message = build_message(
        METADATA, options, control_id=CONTROL_ID, at=AT, inference=text, report=report
    )
    assert not set(message) & {0x0A, 0x0B, 0x1C}
    assert str(hl7.parse(message.decode("utf-8"))).encode() == message
    obx = [line for line in segments(message) if line[0] == "OBX"]
    assert {len(line) for line in obx} == {12}
    if not is_blank(text):
        assert len(obx) == (3 if kind is ReportFormat.HTML else 8)
        said = _said(obx[-1][5], kind)
        if kind is ReportFormat.HTML:
            assert said.endswith(f"<h2>Conclusion</h2>{clean(report.html('conclusion'))}")
        else:
            assert said == _expected(report, kind, template)


def _said(value: str, kind: ReportFormat) -> str:
    if kind is ReportFormat.PLAIN:
        return unescape(value)
    return base64.b64decode(value.rpartition("^")[2], validate=True).decode()


def _expected(report: Report, kind: ReportFormat, template: Template) -> str:
    if kind is ReportFormat.HTML_SPLIT:
        return clean(report.html("type"))
    said = clean(report.text("type"))
    if kind is ReportFormat.PLAIN and template is CONFORMANT_TEMPLATE:
        return said.replace("\r\n", "\n").replace("\r", "\n")
    return said

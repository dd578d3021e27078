"""What the simulated RIS shows: its messages as a RIS reads them, and nothing that runs."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pacsor_tasks.hl7 import mllp
from pacsor_tasks.hl7.message import build_message
from pacsor_tasks.hl7.report import Report, ReportFormat
from simulators.ris import RisSimulator
from tests.support.hl7_example import AT, METADATA, OPTIONS


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    with RisSimulator(web_port=0) as server:
        yield server


def page(ris: RisSimulator, path: str = "/") -> str:
    assert ris.web is not None
    with urllib.request.urlopen(ris.web.url + path, timeout=20) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        return str(answer.read().decode())


def send(ris: RisSimulator, number: int, inference: str, form: ReportFormat, text: str) -> None:
    message = build_message(
        METADATA,
        replace(OPTIONS, report_format=form),
        control_id=f"GW{number}",
        at=AT,
        inference=inference,
        report=Report(parts={"results": text}),
    )
    mllp.exchange("127.0.0.1", ris.port, message, timeout_s=20)


def test_before_the_first_message_it_says_so(ris: RisSimulator) -> None:
    assert "No message yet" in page(ris)
    assert 'http-equiv="refresh"' in page(ris)


def test_a_message_is_shown_field_by_field_with_its_report_decoded(ris: RisSimulator) -> None:
    send(ris, 1, "Fracture | NON\nRAS & co", ReportFormat.HTML, "Épaule < normale")
    shown = page(ris)
    assert "LEGRAND Anaïs" in shown
    assert "PX-4711" in shown
    assert "Fracture | NON\nRAS &amp; co" in shown
    assert '<iframe sandbox="" title="Report"' in shown
    assert "&lt;h2&gt;Results&lt;/h2&gt;&lt;p&gt;Épaule &amp;lt; normale&lt;/p&gt;" in shown


def test_text_in_base64_is_shown_as_text(ris: RisSimulator) -> None:
    send(ris, 1, "x", ReportFormat.B64, "Pas de lésion")
    assert "<dd>Pas de lésion</dd>" in page(ris)


def test_nothing_of_a_message_becomes_part_of_the_page(ris: RisSimulator) -> None:
    send(ris, 1, "<script>alert(1)</script>", ReportFormat.HTML_SPLIT, "<script>alert(2)</script>")
    assert "<script" not in page(ris)


def test_older_messages_stay_to_be_looked_at(ris: RisSimulator) -> None:
    for number in (1, 2):
        send(ris, number, f"finding {number}", ReportFormat.PLAIN, "x")
    assert "finding 2" in page(ris)
    assert "finding 1" in page(ris, "/messages/1")
    assert 'http-equiv="refresh"' not in page(ris, "/messages/1")

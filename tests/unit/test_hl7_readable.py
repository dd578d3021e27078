"""Messages for people: fields by name, unescaped and decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.readable import read
from tests.support.hl7_example import GOLDEN
from tests.support.hl7_golden import messages

MADE = messages()


def shown(message: bytes) -> dict[str, str]:
    return {row.where: row.text for row in read(message)}


def test_fields_have_names_and_plain_values() -> None:
    rows = {row.where: (row.name, row.text) for row in read(GOLDEN)}
    assert rows["PID-5"] == ("patient name", "LEGRAND^Anaïs")
    assert rows["OBR-3"] == ("accession number", "ACC-2026-0042")
    assert rows["MSH-10"] == ("control id", "GW26061914301500001")
    assert rows["OBX[2]-5"] == ("SmartUrgences", "Fracture : NON\nLuxation : NON")
    assert "PID-2" not in rows
    assert "MSH-2" not in rows


@pytest.mark.parametrize("form", ["legacy", "conformant"])
def test_reports_are_decoded_whatever_their_form(form: str) -> None:
    results = "Fracture déplacée : non."
    for kind in ("b64", "plain", "html", "html_split"):
        rows = read(MADE[f"{form}-{kind}-default.hl7"])
        (row,) = (row for row in rows if results in row.text)
        assert row.is_html is kind.startswith("html")


def test_an_acknowledgement_is_read_too() -> None:
    answer = b"MSH|^~\\&|RIS\nMSA|AE|GW1|no such order\nERR||OBR^1|207^Error|E"
    assert shown(answer) == {
        "MSH-3": "RIS", "MSA-1": "AE", "MSA-2": "GW1", "MSA-3": "no such order",
        "ERR-2": "OBR^1", "ERR-3": "207^Error", "ERR-4": "E",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"HTTP/1.1 400\r\n", b"\xff\xfe", b"MSH"])
def test_what_is_no_hl7_is_shown_as_it_is(content: bytes) -> None:
    (row,) = read(content)
    assert row.name == "not an HL7 message"


def test_nothing_is_nothing_and_broken_base64_stays() -> None:
    assert read(b"") == []
    broken = GOLDEN + b"OBX||ED|X||Text^^Base64^%%%||||||F\r"
    assert shown(broken)["OBX[3]-5"] == "Text^^Base64^%%%"


@given(st.binary())
def test_no_answer_stops_the_reader(content: bytes) -> None:
    read(content)
    read(b"MSH|^~\\&|" + content)

"""Report segments, byte for byte as the contract's examples."""

from __future__ import annotations

import base64

from pacsor_tasks.hl7.report import Section, b64_obx, html_obx, html_split_obx, plain_obx


def test_b64_is_the_worked_example() -> None:
    text = "Fracture deplacee : non.\nTraumatisme du poignet droit."
    assert b64_obx(Section(key="results", label="Results", text=text)) == (
        "OBX||ED|RESULTS^Results^LN||Text^^Base64^RnJhY3R1cmUgZGVwbGFjZWUgOiBub24uClRyYXVt"
        "YXRpc21lIGR1IHBvaWduZXQgZHJvaXQu||||||F"
    )


def test_plain_is_the_worked_example() -> None:
    text = "Angle 12 deg & 3 mm\nRAS"
    assert plain_obx(Section(key="conclusion", label="Conclusion", text=text)) == (
        "OBX||TX|CONCLUSION^Conclusion^LN||Angle 12 deg \\T\\ 3 mm\\X0A\\RAS||||||F"
    )


def test_html_is_the_worked_example() -> None:
    assert html_obx("<h1>Radiographie</h1><p>Pas de fracture.</p>") == (
        "OBX||ED|CRHTML^^MOTEURIA||^text^^Base64^PGgxPlJhZGlvZ3JhcGhpZTwvaDE+PHA+UGFzIGRl"
        "IGZyYWN0dXJlLjwvcD4=||||||F"
    )


def test_html_split_is_one_segment_per_section() -> None:
    content = base64.b64encode(b"<p>RAS</p>").decode()
    assert html_split_obx(Section(key="technique", label="Technique", text="<p>RAS</p>")) == (
        f"OBX||ED|TECHNIQUE^Technique^LN||^html^^Base64^{content}||||||F"
    )


def test_the_key_keeps_its_case_when_asked_and_names_are_escaped() -> None:
    section = Section(key="a^b", label="R&D", text="x")
    assert plain_obx(section, uppercase=False) == "OBX||TX|a\\S\\b^R\\T\\D^LN||x||||||F"
    assert plain_obx(section).split("|")[3] == "A\\S\\B^R\\T\\D^LN"


def test_base64_has_no_line_breaks_and_gives_the_text_back() -> None:
    text = "Épaule déplacée|" * 1000
    field = b64_obx(Section(key="results", label="Results", text=text)).split("|")[5]
    assert base64.b64decode(field.removeprefix("Text^^Base64^"), validate=True).decode() == text

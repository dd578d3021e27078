"""ORU^R01 messages, right to the byte; judged by two parsers not written here."""

from __future__ import annotations

import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.escape import clean, unescape
from pacsor_tasks.hl7.message import MessageOptions, build_message, new_control_id
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.hl7.report import (
    Report,
    ReportFormat,
    Section,
    b64_obx,
    html_obx,
    html_split_obx,
    plain_obx,
)
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE
from tests.support.hl7_example import (
    AT,
    CONTROL_ID,
    GOLDEN,
    INFERENCE,
    METADATA,
    OPTIONS,
    example,
)

SWITCHES = ("populate_pid", "populate_pv1", "populate_orc", "populate_zds", "siuid_in_obx1")
TEXT = st.text(st.characters(exclude_categories=[])) | st.text("\\|^&~\r\n\t{}[]SEG_PID\x0b\x1c")


def segments(message: bytes) -> list[str]:
    assert message.endswith(b"\r")
    return message.decode("utf-8").split("\r")[:-1]


def is_valid(message: bytes) -> bool:
    """What hl7apy says of a copy without Z segments, which its groups cannot hold."""
    lines = [line for line in segments(message) if not line.startswith("Z")]
    parsed = parse_message(
        "\r".join(lines) + "\r", validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=True
    )
    return bool(parsed.validate())


def test_the_worked_example_comes_out_to_the_byte() -> None:
    assert example() == GOLDEN


@pytest.mark.parametrize("states", list(itertools.product([True, False], repeat=5)))
def test_every_combination_of_switches_is_clean(states: tuple[bool, ...]) -> None:
    switches = dict(zip(SWITCHES, states, strict=True))
    options = replace(OPTIONS, **switches)  # type: ignore[arg-type] # all of them are bool

    message = build_message(METADATA, options, control_id=CONTROL_ID, at=AT, inference=INFERENCE)

    lines = segments(message)
    expected = {line for line in segments(GOLDEN) if line[:3] in {"MSH", "OBR"} or "|ST|" in line}
    expected |= {line for line in segments(GOLDEN) if line[:3] == "PID" and switches[SWITCHES[0]]}
    expected |= {"PV1" + "|" * 42} if switches["populate_pv1"] else set()
    expected |= {line for line in segments(GOLDEN) if line[:3] == "ORC" and switches[SWITCHES[2]]}
    expected |= {line for line in segments(GOLDEN) if line[:3] == "ZDS" and switches[SWITCHES[3]]}
    expected |= {line for line in segments(GOLDEN) if "|HD|" in line and switches[SWITCHES[4]]}
    assert set(lines) == expected
    assert len(lines) == len(expected)
    assert b"SEG_" not in message
    assert all(line.strip() for line in lines)
    # An empty PV1 is what the site asked for; the standard wants PV1-2.
    assert switches["populate_pv1"] or is_valid(message)
    assert str(hl7.parse(message.decode())).encode() == message


@pytest.mark.parametrize("inference", ["", None])
def test_without_findings_there_is_no_findings_segment(inference: str | None) -> None:
    lines = segments(example(inference))
    assert lines == [line for line in segments(GOLDEN) if "|ST|" not in line]
    assert is_valid(example(inference))


def test_missing_identity_stays_empty() -> None:
    message = build_message(
        StudyMetadata(study_uid="2.25.1", issuer_of_patient_id="MILVUE"),
        OPTIONS,
        control_id=CONTROL_ID,
        at=AT,
        inference=None,
    )
    lines = segments(message)
    assert lines[1] == "PID|||^^^MILVUE^PI||||||"
    assert lines[3].split("|")[3] == ""


def test_a_configured_application_keeps_its_hd_components_and_nothing_else() -> None:
    options = replace(OPTIONS, receiving_application="XPLORE^1.2.3^ISO", receiving_facility="A|B&C")
    message = build_message(METADATA, options, control_id=CONTROL_ID, at=AT, inference=None)
    assert segments(message)[0].split("|")[4:6] == ["XPLORE^1.2.3^ISO", "A\\F\\B\\T\\C"]


@given(TEXT, TEXT, TEXT.filter(clean))
def test_no_text_of_a_study_moves_a_field(name: str, identity: str, findings: str) -> None:
    metadata = replace(METADATA, patient_name=name, patient_id=identity, accession_number=identity)

    message = build_message(metadata, OPTIONS, control_id=CONTROL_ID, at=AT, inference=findings)

    assert not set(message) & {0x0B, 0x1C, 0x0A}
    parsed = hl7.parse(message.decode("utf-8"))
    assert str(parsed).encode() == message
    lines = [line.split("|") for line in segments(message)]
    names = ["MSH", "PID", "ORC", "OBR", "ZDS", "OBX", "OBX"]
    assert [line[0] for line in lines] == names
    assert [len(line) for line in lines] == [21, 10, 10, 26, 3, 12, 12]
    pid, obr, obx = lines[1], lines[3], lines[6]
    assert unescape(pid[3].split("^")[0]) == clean(identity)
    assert unescape(pid[5]) == clean(name)
    assert unescape(obr[3]) == clean(identity)
    assert unescape(obx[5]) == clean(findings)


SECTION = Section(key="results", label="Résultats", text="<p>Pas de fracture|luxation</p>\nRAS")
REPORTS = {
    "B64": b64_obx(SECTION),
    "PLAIN": plain_obx(SECTION),
    "HTML": html_obx(SECTION.text),
    "HTML_SPLIT": html_split_obx(SECTION),
}


@pytest.mark.parametrize("form", REPORTS)
def test_two_other_parsers_accept_the_message_with_every_report_form(form: str) -> None:
    message = GOLDEN + f"{REPORTS[form]}\r".encode()
    assert is_valid(message)
    parsed = hl7.parse(message.decode())
    assert str(parsed).encode() == message
    assert str(parsed.segment("ZDS")[1]) == "2.25.3321457788990011^milvue^Application^DICOM"
    assert str(parsed.segments("OBX")[2][5]) == REPORTS[form].split("|")[5]


def test_another_parser_reads_the_identity_a_ris_matches_on() -> None:
    parsed = parse_message(
        GOLDEN.decode(), validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False
    )
    assert parsed.msh.msh_10.to_er7() == CONTROL_ID
    assert parsed.pid.pid_3.pid_3_1.to_er7() == "PX-4711"
    assert parsed.pid.pid_5.pid_5_2.to_er7() == "Anaïs"
    assert parsed.obr.obr_3.to_er7() == "ACC-2026-0042"
    assert parsed.zds.zds_1.to_er7().startswith("2.25.3321457788990011^")


def test_a_control_id_holds_the_time_and_fits_msh_10() -> None:
    made = new_control_id(datetime(2026, 6, 19, 14, 30, 15, tzinfo=UTC))
    assert made.startswith("GW260619143015")
    assert len(made) == 20
    assert made.isascii()
    assert made.isalnum()


def _many(number: int) -> list[str]:
    return [new_control_id(AT) for _ in range(number)]


def test_control_ids_of_one_second_differ_over_processes() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = [one for batch in pool.map(_many, [500] * 4) for one in batch]
    assert len(set(made)) == len(made) == 2000


def a_sites(**changed: Any) -> MessageOptions:
    return replace(OPTIONS, template=replace(CONFORMANT_TEMPLATE, **changed))


def test_a_reports_segments_may_be_several_and_are_numbered() -> None:
    form = "\n  OBX||{obx_2}|{section}^L||{content}||||||F\r\nOBX||ST|X||y\n NTE|z\n"
    options = replace(a_sites(obx_plain=form), report_format=ReportFormat.PLAIN)
    report = Report(parts={"results": "a\r\nb", "conclusion": "c"})
    message = build_message(
        METADATA, options, control_id=CONTROL_ID, at=AT, inference="x", report=report
    )
    assert b"\n" not in message
    assert b"\r\r" not in message
    assert segments(message)[-6:] == [
        "OBX|3|TX|RESULTS^Results^L||a\\.br\\b||||||F", "OBX|4|ST|X||y", "NTE|z",
        "OBX|5|TX|CONCLUSION^Conclusion^L||c||||||F", "OBX|6|ST|X||y", "NTE|z",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ReportFormat)
def test_a_reports_segments_may_name_the_study_and_the_message(form: ReportFormat) -> None:
    said = "OBX||{obx_2}|{section}||{content}|{study_metadata[PatientID]}|{hl7_defaults[SEN_APP]}\r"
    forms = dict.fromkeys(("obx_b64", "obx_plain", "obx_html", "obx_html_split"), said)
    message = build_message(
        replace(METADATA, patient_id="A|B"),
        replace(a_sites(**forms), report_format=form),
        control_id=CONTROL_ID,
        at=AT,
        inference="x",
        report=Report(parts={"results": "r"}),
    )
    assert segments(message)[-1].endswith(f"|A\\F\\B|{OPTIONS.sending_application}")


def test_without_findings_only_what_is_there_for_them_is_left_out() -> None:
    lines = (
        "OBR|1||{study_metadata[AccessionNumber]}|{study_metadata[Inference]}|x",
        "NTE|1||{study_metadata[Inference]}",
        "OBX||ST|a||{study_metadata[Inference]}",
        "OBX||ST|b||y",
    )
    header = CONFORMANT_TEMPLATE.lines(())[0]
    options = a_sites(message="\r".join((header, *lines)))
    message = build_message(METADATA, options, control_id=CONTROL_ID, at=AT, inference="")
    assert segments(message)[1:] == [f"OBR|1||{METADATA.accession_number}||x", "OBX|1|ST|b||y"]

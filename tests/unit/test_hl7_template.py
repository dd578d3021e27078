"""Templates: segments come and go whole, and only documented placeholders are reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.escape import Er7
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, fill, is_about

#: Contract §3.1, field by field: name, last index, populated fields.
FORMS = {
    "MSH": (20, {
        1: "^~\\&", 2: "{hl7_defaults[SEN_APP]}", 3: "{hl7_defaults[SEN_FAC]}",
        4: "{hl7_defaults[REC_APP]}", 5: "{hl7_defaults[REC_FAC]}",
        6: "{hl7_defaults[MessageTimestamp]}", 8: "ORU^R01", 9: "{hl7_defaults[MessageID]}",
        10: "{hl7_defaults[PROC_ID]}", 11: "2.5.1", 14: "AL", 15: "NE", 17: "UNICODE UTF-8",
        18: "{hl7_defaults[HL7_LANG]}",
    }),
    "PID": (9, {
        3: "{study_metadata[PatientID]}^^^{study_metadata[IssuerOfPatientID]}^PI",
        5: "{study_metadata[PatientName]}", 7: "{study_metadata[PatientBirthDate]}",
        8: "{study_metadata[PatientSex]}",
    }),
    "PV1": (42, {}),
    "ORC": (9, {1: "NW", 7: "^^^", 9: "{hl7_defaults[MessageTimestamp]}"}),
    "OBR": (25, {
        1: "1", 3: "{study_metadata[AccessionNumber]}", 4: "^Milvue findings",
        7: "{hl7_defaults[MessageTimestamp]}", 25: "F",
    }),
    "ZDS": (2, {1: "{study_metadata[StudyInstanceUID]}^milvue^Application^DICOM"}),
}  # fmt: skip
MSH = "MSH|^~\\&|||||||ORU^R01|{hl7_defaults[MessageID]}|P|2.5.1"
EVERY_SEGMENT = {"pid", "pv1", "orc", "zds", "obx1"}


def test_the_default_template_has_the_segments_in_order() -> None:
    names = [line.split("|")[0] for line in DEFAULT_TEMPLATE.lines(EVERY_SEGMENT)]
    assert names == ["MSH", "PID", "PV1", "ORC", "OBR", "ZDS", "OBX", "OBX"]


@pytest.mark.parametrize("name", FORMS)
def test_the_default_template_has_the_fields_of_each_segment(name: str) -> None:
    last, populated = FORMS[name]
    line = next(s for s in DEFAULT_TEMPLATE.lines(EVERY_SEGMENT) if s.startswith(name))
    fields = line.split("|")
    assert len(fields) == last + 1
    assert {i: value for i, value in enumerate(fields) if i and value} == populated


def test_a_segment_that_is_not_populated_leaves_no_trace() -> None:
    lines = DEFAULT_TEMPLATE.lines(set())
    assert [line.split("|")[0] for line in lines] == ["MSH", "OBR", "OBX"]
    assert not any("SEG_" in line for line in lines)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\n\r\n  \r\n"])
def test_any_line_end_parts_segments_and_blank_lines_vanish(end: str) -> None:
    template = replace(DEFAULT_TEMPLATE, message=f"{MSH}{end}SEG_PID{end}OBR|1{end}")
    assert template.lines(set()) == [MSH, "OBR|1"]


def test_values_are_put_in_once_and_never_read_for_placeholders() -> None:
    values = {
        "study_metadata[PatientID]": Er7("{study_metadata[PatientName]} SEG_PID {0.__class__} }{"),
        "study_metadata[PatientName]": Er7("SECRET"),
    }
    assert fill("PID|{study_metadata[PatientID]}|", values) == (
        "PID|{study_metadata[PatientName]} SEG_PID {0.__class__} }{|"
    )


def test_a_value_that_is_not_given_is_empty_and_doubled_braces_are_literal() -> None:
    assert fill("A|{study_metadata[Modality]}|{{x}}", {}) == "A||{x}"


def test_whether_a_segment_holds_a_placeholder_is_known() -> None:
    assert is_about("OBX|{content}", "content")
    assert not is_about("OBX|{section}", "content")


@pytest.mark.parametrize(
    "bad",
    [
        "{x.__class__}",
        "{study_metadata.__class__}",
        "{study_metadata[PatientID].__class__}",
        "{study_metadata[PatientID]!r}",
        "{study_metadata[PatientID]:>{section}}",
        "{study_metadata[PatientID]:50}",
        "{study_metadata[OtherPatientIDs]}",
        "{hl7_defaults[TOKEN]}",
        "{0}",
        "{}",
        "{content",
        "content}",
        "a\x0bb",
    ],
)
def test_what_is_not_documented_is_refused_when_the_template_is_made(bad: str) -> None:
    with pytest.raises(ConfigError, match="HL7 template, SEG_PID"):
        replace(DEFAULT_TEMPLATE, pid=f"PID|{bad}\r")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("", "does not begin with MSH"),
        ("OBR|1\r" + MSH, "does not begin with MSH"),
        ("SEG_PID" + MSH, "does not begin with MSH"),
        ("MSH", "does not begin with MSH"),
        ("MSH|", "MSH-2 is not"),
        (MSH.replace("^~\\&", "$%!@"), "MSH-2 is not"),
        (MSH.replace("^~\\&", "^~\\&#"), "MSH-2 is not"),
        ("MSH|^~\\&|{hl7_defaults[MessageID]}", "MSH-10 is not"),
        (MSH.replace("{hl7_defaults[MessageID]}", "FIXED"), "MSH-10 is not"),
        (MSH.replace("{hl7", "X{hl7"), "MSH-10 is not"),
        (MSH + "\r" + MSH, "a second MSH"),
        (MSH + "\rSEG_OBX\r", "SEG_OBX stands for nothing"),
        (MSH + "\rSEG_FOO", "SEG_FOO stands for nothing"),
        (MSH + "\rSEG_PIDSEG_OBX_HTML", "SEG_OBX_HTML stands for nothing"),
        (MSH + "\rSEG_OBX10\r", "'0' is not the beginning of a segment"),
        (MSH + "\rSEG_PID, SEG_PV1", "', ' is not the beginning of a segment"),
        (MSH + "\rNTE|{content}", "{content} is known in a report's segments"),
        (MSH + "\rNTE|{section}", "{section} is known in a report's segments"),
        (MSH + "\rNTE|{obx_2}", "{obx_2} is known in a report's segments"),
        (MSH + "\rNTE|\ud800", "half of a character"),
        (MSH + "|" * (1 << 20), "longer than"),
    ],
)
def test_a_message_that_no_ris_could_acknowledge_is_refused(message: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^HL7 template, HL7_MESSAGE: ") as caught:
        replace(DEFAULT_TEMPLATE, message=message)
    assert said in str(caught.value)


def test_the_control_id_may_be_written_as_the_studys() -> None:
    message = MSH.replace("hl7_defaults", "study_metadata")
    assert replace(DEFAULT_TEMPLATE, message=message).lines(()) == [message]

"""A site's template.py: constants are read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE, DEFAULT_TEMPLATE
from pacsor_tasks.hl7.template_file import read_template

MSH = "MSH|^~\\&|||||||ORU^R01|{hl7_defaults[MessageID]}|P|2.5.1"
#: … as it is written in the file
MSH_TEXT = MSH.replace("\\", "\\\\")
EVERY_SEGMENT = {"pid", "pv1", "orc", "zds", "obx1"}


def written(directory: Path, text: str) -> Path:
    path = directory / "template.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_file_says_counts_and_the_rest_is_as_before(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'PART = "PID|1|"\nSEG_PID: str = PART + "{study_metadata[PatientID]}" "|\\r"\npass\n',
    )
    found = read_template(path)
    assert found.pid == "PID|1|{study_metadata[PatientID]}|\r"
    assert found.orc == DEFAULT_TEMPLATE.orc
    assert read_template(path, CONFORMANT_TEMPLATE).orc == CONFORMANT_TEMPLATE.orc


def test_segments_without_a_line_end_are_segments_all_the_same(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f'HL7_MESSAGE = "{MSH_TEXT}\\nSEG_PIDSEG_ORCOBR|1"\n'
        'SEG_PID = "PID|1"\nSEG_ORC = "ORC|NW"\n',
    )
    assert read_template(path).lines(EVERY_SEGMENT) == [MSH, "PID|1", "ORC|NW", "OBR|1"]
    assert read_template(path).lines(set()) == [MSH, "OBR|1"]


def test_indented_text_in_triple_quotes_is_segments(tmp_path: Path) -> None:
    text = f"""
    {MSH_TEXT}
    SEG_PID
    OBR|1
    """
    path = written(tmp_path, f'HL7_MESSAGE = """{text}"""\nSEG_PID = """\n  PID|1\n"""\n')
    assert read_template(path).lines(EVERY_SEGMENT) == [MSH, "PID|1", "OBR|1"]


def test_the_plain_obx_constant_is_the_base64_form_unless_that_is_given_too(tmp_path: Path) -> None:
    both = 'SEG_OBX = "OBX|1|{content}"\nSEG_OBX_B64 = "OBX|2|{content}"\n'
    assert read_template(written(tmp_path, both)).obx_b64 == "OBX|2|{content}"
    assert read_template(written(tmp_path, both.splitlines()[0])).obx_b64 == "OBX|1|{content}"


def test_the_sample_identity_is_read_and_never_applied(tmp_path: Path) -> None:
    path = written(tmp_path, 'MAN_METADATA_DICT = {"PatientID": "P12345", "Age": 3, "X": None}')
    assert read_template(path) == DEFAULT_TEMPLATE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os", "line 1: only constants"),
        ("x = __import__('os').system('id')", "line 1: neither text"),
        ('SEG_PID = f"PID|{1}"', "line 1: neither text"),
        ('SEG_PID = "a".replace("a", "b")', "line 1: neither text"),
        ("def f(): pass", "line 1: only constants"),
        ("\nSEG_PID = 3", "line 2: neither text"),
        ('SEG_PID += "x"', "line 1: only constants"),
        ('a.b = "x"', "line 1: write NAME = value"),
        ('SEG_PID = {"a": "b"}', "SEG_PID: text is expected"),
        ('SEG_PDI = "PID"', "did you mean SEG_PID"),
        ('SEG_PID = "PID|{x.__class__}"', "SEG_PID: .* not a documented placeholder"),
        ('SEG_PID = "PID|\\x0b"', "SEG_PID: a control character"),
        ('SEG_PID = "PID|\\ud800"', "SEG_PID: .*half of a character"),
        ('SEG_PID = "PID|1\\rSEG_PV1"', "SEG_PID: SEG_PV1 stands for nothing"),
        ('SEG_PID = "1"', "SEG_PID: '1' is not the beginning of a segment"),
        ('SEG_OBX = "OBX|{x}"', r"SEG_OBX_B64 \(or SEG_OBX\): {x} is not"),
        ('SEG_OBX_HTML = " "', "SEG_OBX_HTML: no segment"),
        ('HL7_MESSAGE = ""', "HL7_MESSAGE: does not begin with MSH"),
        ('HL7_MESSAGE = "PID|1"', "HL7_MESSAGE: does not begin with MSH"),
        ('A = "x"\n' + "A = A + A\n" * 40, "line 22: the text is longer than 1048576 characters"),
        (f'A = "{"x" * 600_000}"\nB = {{' + '"a": A + "",' * 60 + "}", "line 2: the text is long"),
        ('DEFAULT_REPORT_MAPPING = {"title": "\\ud800"}', "title: half of a character"),
        ('DEFAULT_HL7_ESCAPE_DICT = {"\\n": "\\ud800"}', "would break a field"),
        ('DEFAULT_REPORT_MAPPING = {"result": "x"}', "no part 'result'"),
        ('DEFAULT_REPORT_MAPPING = "x"', "a dictionary is expected"),
        ('DEFAULT_HL7_ESCAPE_DICT = {"a": "b"}', "'a' is not CR"),
        ('DEFAULT_HL7_ESCAPE_DICT = {"\\n": "|"}', "would break a field"),
        ('DEFAULT_HL7_ESCAPE_DICT = {"\\n": "\\\\.br"}', "would break a field"),
        ('DEFAULT_HL7_ESCAPE_DICT = {**{}}', r"\*\* in a dictionary"),
        ("SEG_PID = (", "not a Python file"),
        ("SEG_PID = " + "(" * 5000 + "'x'" + ")" * 5000, "not a Python file"),
        ("SEG_PID = " + "'x'+" * 5000 + "'x'", "nested too deeply|not a Python file"),
        ("a\0b", "not a Python file"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_template(written(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_missing_or_endless_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_template(tmp_path / "absent.py")
    with pytest.raises(ConfigError, match="longer than"):
        read_template(Path("/dev/zero"))

"""PACSOR's own files, intact and as its wizard damages them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pacsor_tasks.migration import read_config, repaired

RULE = {"tag": {"group": "0008", "element": "0060"}, "pattern": "^SR$", "should_match": True}
NAME = {"tag": {"group": "0010", "element": "0010"}, "pattern": "^TEST.*", "should_match": False}


def compact(*rules: dict[str, object]) -> str:
    return json.dumps(rules, separators=(",", ":"))


def sourced(tmp_path: Path, line: str) -> str:
    """What is left of a line of a `.config` after a shell has run it, as PACSOR's wizard does."""
    file = tmp_path / "site.config"
    file.write_text(line + "\n")
    script = f'. "{file}" 2>/dev/null; printf %s "$DICOM_FILTERS"'
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False
    ).stdout


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        (compact(RULE), [RULE]),
        ("[]", []),
        ("[{tag:{group:0010,element:0010},pattern:^TEST.*,should_match:false}]", [NAME]),
        ("[{pattern:^TEST.*,should_match:false,tag:{group:0010,element:0010}}]", [NAME]),
        (
            "[{tag:{group:0010,element:0010},pattern:^A,{1}[}],should_match:true},"
            "{tag:{group:0010,element:0010},pattern:^TEST.*,should_match:false}]",
            [{**NAME, "pattern": "^A,{1}[}]", "should_match": True}, NAME],
        ),
    ],
)
def test_quotes_that_were_lost_are_put_back(text: str, read_as: list[dict]) -> None:
    found = repaired(text).text
    assert found is not None
    assert json.loads(found) == read_as


def test_a_shells_damage_without_a_dollar_is_made_good(tmp_path: Path) -> None:
    rules = [NAME, {**NAME, "pattern": r"^\d\d"}]
    left = sourced(tmp_path, f"DICOM_FILTERS={compact(*rules)}")
    assert '"' not in left
    found = repaired(left)
    assert found.problem == "the quotes were lost"
    assert json.loads(found.text or "") == rules


def test_a_process_number_for_a_dollar_is_a_guess_that_nobody_takes_by_himself(
    tmp_path: Path,
) -> None:
    left = sourced(tmp_path, f"DICOM_FILTERS={compact(RULE).replace('$', '$$')}")
    assert "^SR$" not in left
    found = repaired(left)
    assert found.text is None
    assert json.loads(found.guess or "") == [RULE]
    assert "process number" in found.problem


@pytest.mark.parametrize(
    "text", ["[{", "yes", "[{tag:{group:8,element:0060}}]", "{}", "[x", "[ ]x"]
)
def test_what_is_no_filter_at_all_stays_a_problem(text: str) -> None:
    found = repaired(text)
    assert (found.text, found.guess) == (None, None)
    assert found.problem


def test_a_config_is_read_by_todays_names() -> None:
    found = read_config(
        "CLIENT=fr.milvue.chu.north.1\nURL=https://predict.milvue.com\nTOKEN=a b\n"
        "PACS_IP=10.0.0.1\n"
        f"DICOM_FILTERS={compact(RULE).replace('$', '$$')}\nSYMLINK=Yes\nHL7_ENABLE=true\n"
        "CALLBACKS=http://storescu:8000,http://hl7:8000,http://hl7:8000\nHL7_RIS_IP=10.0.0.2\n"
        "HL7_TCR_URL=https://tcr.example/report\nWEBPS_PROVIDERS=\nHL7_INCLUDE_TCR=false\n"
    )
    assert found.values == {
        "CLIENT_NAME": "fr.milvue.chu.north.1",
        "API_URL": "https://predict.milvue.com",
        "TOKEN": "a b",
        "PACS_IP": "10.0.0.1",
        "DICOM_FILTERS": compact(RULE),
        "CALLBACK_URLS": "http://storescu:8000,http://hl7:8000",
        "RIS_HOST_IP": "10.0.0.2",
        "TCR_API_URL": "https://tcr.example",
        "INCLUDE_TECHCARE_REPORT": "false",
    }
    assert found.warnings == ["HL7_TCR_URL is an old name: write TCR_API_URL"]


def test_without_hl7_no_callback_is_made_up_and_a_damaged_filter_stays_damaged() -> None:
    found = read_config("HL7_ENABLE=false\nDICOM_FILTERS=[{tag:x}]\nTOKEN='s3cret\n")
    assert found.values == {"DICOM_FILTERS": "[{tag:x}]"}
    assert [warning.partition(":")[0] for warning in found.warnings] == ["line 3", "DICOM_FILTERS"]
    assert "s3cret" not in "".join(found.warnings)

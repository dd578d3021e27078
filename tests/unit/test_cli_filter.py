"""`pacsor filter`: what it says of files, and that it tells no patient's data unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pacsor_tasks.cli import cli
from pacsor_tasks.errors import ConfigError
from tests.support.instances import write_instance

NAME = '{"tag":{"group":"0010","element":"0010"},"pattern":"^Nobody","should_match":false}'
MODALITY = '{"tag":{"group":"0008","element":"0060"},"pattern":"^DX$","should_match":true}'


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x", "PACS_IP": "127.0.0.1", "PACS_PORT": "104",
        "PACS_AET": "PACS", "DATA_DIR": str(tmp_path / "data"),
        "DICOM_FILTERS": f"[{NAME},{MODALITY}]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def pacsor(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def lines(result: Result) -> list[str]:
    return result.stdout.splitlines()


def test_each_file_is_kept_or_skipped_by_a_rule(tmp_path: Path) -> None:
    kept = write_instance(tmp_path / "in", Modality="DX", PatientName="Secret^Person")
    other = write_instance(tmp_path / "in", Modality="SR", PatientName="Secret^Person")
    named = write_instance(tmp_path / "in", Modality="DX", PatientName="Nobody^Known")
    result = pacsor("filter", tmp_path / "in")
    assert sorted(lines(result)) == sorted([
        f"keep  {kept}",
        f"skip  {other}  rule 2: Modality (0008,0060) does not match '^DX$'",
        f"skip  {named}  rule 1: PatientName (0010,0010) matches its pattern",
    ])  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "1 kept, 2 skipped\n")
    assert not (tmp_path / "data").exists()


def test_every_rule_is_explained_on_demand(tmp_path: Path) -> None:
    path = write_instance(tmp_path, Modality="SR", PatientName="Secret^Person")
    result = pacsor("filter", "--explain", path)
    assert lines(result)[1:] == [
        "      rule 1: PatientName (0010,0010) does not match its pattern: keeps",
        "      rule 2: Modality (0008,0060) does not match '^DX$': skips",
    ]
    missing = write_instance(tmp_path, Modality=None)
    assert "rule 2: Modality (0008,0060) is absent: keeps" in pacsor(
        "filter", "--explain", missing
    ).stdout  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--explain"], ["--json"], ["--json", "--explain"]])
def test_no_value_is_printed_unasked(tmp_path: Path, arguments: list[str]) -> None:
    path = write_instance(tmp_path, PatientName="Nobody^Known", Modality="SECRET")
    result = pacsor("filter", *arguments, path)
    for told in ("Nobody", "Known", "SECRET"):
        assert told not in result.output


def test_values_are_printed_when_asked_for_and_it_says_so(tmp_path: Path) -> None:
    path = write_instance(tmp_path, PatientName="Nobody^Known", Modality="DX")
    result = pacsor("filter", "--show-values", path)
    assert "pattern '^Nobody', values: 'Nobody^Known'" in result.stdout
    assert "PATIENT DATA".lower() in result.stderr
    shown = json.loads(pacsor("filter", "--json", "--show-values", path).stdout)
    assert [r["values"] for r in shown["rules"]] == [["Nobody^Known"], ["DX"]]
    assert shown["rules"][0]["pattern"] == "^Nobody"


def test_json_is_an_object_a_line(tmp_path: Path) -> None:
    path = write_instance(tmp_path, PatientName="Nobody^Known", Modality=None)
    assert json.loads(pacsor("filter", "--json", path).stdout) == {
        "file": str(path),
        "cores": ["core"],
        "decision": "skip",
        "rule": 1,
        "reason": "rule 1: PatientName (0010,0010) matches its pattern",
        "rules": [
            {"rule": 1, "tag": "(0010,0010)", "keyword": "PatientName", "pattern": None,
             "should_match": False, "found": "matches", "skips": True},
            {"rule": 2, "tag": "(0008,0060)", "keyword": "Modality", "pattern": "^DX$",
             "should_match": True, "found": "absent", "skips": False},
        ],
    }  # fmt: skip


def test_cores_with_the_same_rules_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDITIONAL_CORES", "core1,core2")
    for n in (1, 2):
        monkeypatch.setenv(f"API_URL_{n}", "http://127.0.0.1:9")
        monkeypatch.setenv(f"TOKEN_{n}", "x")
        monkeypatch.setenv(f"CALLBACK_URLS_{n}", "http://storescu:8000")
    monkeypatch.setenv("DICOM_FILTERS_2", f"[{MODALITY}]")
    path = write_instance(tmp_path, PatientName="Nobody^Known", Modality="DX")
    assert lines(pacsor("filter", path)) == [
        f"skip  {path}  [core, core1]  rule 1: PatientName (0010,0010) matches its pattern",
        f"keep  {path}  [core2]",
    ]
    assert lines(pacsor("filter", "--core", "core2", path)) == [f"keep  {path}"]
    assert isinstance(pacsor("filter", "--core", "core9", path).exception, ConfigError)


def test_rules_are_tried_before_they_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_URL")  # a laptop without any settings
    path = write_instance(tmp_path, Modality="DX")
    assert lines(pacsor("filter", "--rules", f"[{MODALITY}]", path)) == [f"keep  {path}"]
    assert lines(pacsor("filter", "--rules", "[]", path)) == [f"keep  {path}  there are no rules"]
    for wrong in ("nonsense", '[{"tag":{}}]', "[1]"):
        refused = pacsor("filter", "--rules", wrong, path).exception
        assert isinstance(refused, ConfigError)
        assert str(refused).startswith("--rules: ")
    for no_list in ("null", "5", "{}"):
        refused = pacsor("filter", "--rules", no_list, path).exception
        assert str(refused) == "--rules: not a list of rules, [{…}, …]"
    refused = pacsor("filter", "--rules", '[{"tag":1,"pattern":"x"}]', path).exception
    assert str(refused) == (
        '--rules: 0.tag: a tag is written {"group":"HHHH","element":"HHHH"};'
        " 0.should_match: required, and not set"
    )


def test_what_cannot_be_judged_is_told_and_is_a_problem(tmp_path: Path) -> None:
    good = write_instance(tmp_path / "in", Modality="DX")
    bad = tmp_path / "in" / "bad.dcm"
    bad.write_bytes(good.read_bytes()[:400])
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    result = pacsor("filter", tmp_path / "in")
    assert result.exit_code == 1
    assert any(line.startswith(f"unreadable  {bad}") for line in lines(result))
    assert result.stderr == "1 kept, 1 could not be judged, 1 not DICOM, left out\n"
    assert pacsor("filter", tmp_path / "in" / "notes.txt").exit_code == 1
    assert pacsor("filter", tmp_path / "nowhere").exit_code == 2


def test_a_named_pipe_beside_good_files_is_told_and_is_a_problem(tmp_path: Path) -> None:
    good = write_instance(tmp_path / "in", Modality="DX")
    pipe = tmp_path / "in" / "pipe"
    os.mkfifo(pipe)
    result = pacsor("filter", tmp_path / "in")
    assert sorted(lines(result)) == [f"keep  {good}", f"unreadable  {pipe}  no regular file"]
    assert result.exit_code == 1

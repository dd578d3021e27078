"""The switches: scopes, times, operations, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks.errors import ConfigError
from simulators.milvue.switches import OPERATIONS, SCOPES, MilvueSwitches
from simulators.pacs.switches import PacsSwitches
from simulators.switches import Switches


def make(file: Path | None = None, **initial: Any) -> Switches[MilvueSwitches]:
    return Switches(
        MilvueSwitches, scopes=SCOPES, operations=OPERATIONS, initial=initial, file=file
    )


def test_a_general_value_holds_until_changed() -> None:
    switches = make(running_times=0)
    assert switches.take(operation="status").running_times == 0
    switches.set(running_times=7)
    assert switches.take(operation="status").running_times == 7


def test_a_rule_for_one_study_leaves_the_others_alone() -> None:
    switches = make()
    switches.set(outcome="error", study_uid="1.2")
    assert switches.take(operation="status", study_uid="1.2").outcome == "error"
    assert switches.take(operation="status", study_uid="1.3").outcome == "done"


def test_a_rule_for_two_requests_is_used_up_by_two() -> None:
    switches = make()
    switches.set(fault=500, times=2)
    faults = [switches.take(operation="status").fault for _ in range(3)]
    assert faults == [500, 500, None]


def test_a_limited_rule_is_not_used_up_by_operations_that_do_not_look_at_it() -> None:
    switches = make()
    switches.set(e3_shape="empty", times=1)
    for _ in range(5):
        switches.take(operation="status", study_uid="1.2")
    assert switches.take(operation="results").e3_shape == "empty"
    assert switches.take(operation="results").e3_shape == "dicom"


def test_a_peek_uses_nothing_up() -> None:
    switches = make()
    switches.set(fault="reset", times=1)
    assert switches.peek(operation="upload").fault == "reset"
    assert switches.take(operation="upload").fault == "reset"


def test_of_two_rules_the_later_wins_and_a_scoped_one_wins_over_a_general_one() -> None:
    switches = make()
    switches.set(fault=500, operation="status")
    switches.set(fault=503, operation="status")
    switches.set(fault=429)
    assert switches.take(operation="status").fault == 503
    assert switches.take(operation="results").fault == 429


def test_clear_goes_back_to_the_initial_values() -> None:
    switches = make(running_times=3)
    switches.set(running_times=9)
    switches.set(fault=500, study_uid="1.2")
    switches.clear()
    assert switches.describe()["rules"] == []
    assert switches.take(operation="status").running_times == 3


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"nonsense": 1}, "nonsense"),  # no such switch
        ({"e3_shape": "round"}, "e3_shape"),  # no such value
        ({"fault": 200}, "fault"),  # not an error status
        ({"times": 0, "fault": 500}, "times"),  # never
    ],
)
def test_what_cannot_be_is_refused_by_name(entries: dict[str, Any], named: str) -> None:
    switches = make()
    with pytest.raises(ConfigError, match=named):
        switches.set(**entries)
    assert switches.describe() == make().describe()


def test_words_may_be_written_with_commas_and_statuses_in_hexadecimal() -> None:
    pacs = Switches(PacsSwitches, initial={"status": "0xA700", "refuse_sop_classes": "1.2, 1.3"})
    assert pacs.take().status == 0xA700
    assert pacs.take().refuse_sop_classes == ("1.2", "1.3")


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "switches.json"
    switches = make(file)
    assert switches.take(operation="status").fault is None  # no file yet
    file.write_text(json.dumps({"fault": 503}))
    assert switches.take(operation="status").fault == 503
    file.write_text(json.dumps([{"fault": 429, "times": 1}, {"running_times": 0}]))
    assert switches.take(operation="status").fault == 429
    assert switches.take(operation="status").fault is None


def test_a_file_that_turns_bad_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "switches.json"
    file.write_text('{"fault": 503}')
    switches = make(file)
    file.write_text('{"fault": ')
    assert switches.take(operation="status").fault == 503


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "switches.json"
    file.write_text('{"nonsense": 1}')
    with pytest.raises(ConfigError, match="nonsense"):
        make(file)

"""DICOM_FILTERS that a shell may have changed, or of which there are two, go to a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pacsor_tasks.migration import read_config, repaired
from pacsor_tasks.migration.filters import agree
from tests.support.migrating import SITE, installed, migrated, plan_of, under

LOOK = "look at this"


def rules(*patterns: str, tag: str = "0020") -> str:
    return json.dumps(
        [
            {"tag": {"group": "0010", "element": tag}, "pattern": p, "should_match": False}
            for p in patterns
        ],
        separators=(",", ":"),
    )


def damaged(*patterns: str) -> str:
    return rules(*patterns).replace('"', "").replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("found", "guess"),
    [
        ("^SR48213", "^SR$"),
        ("^SR48", "^SR$"),  # a container's shell has a short number
        ("^SR1", "^SR$"),
        ("^(SR48213|KO48213)", "^(SR$|KO$)"),
        ("^SR48213|^KO", "^SR$|^KO"),
        ("^999012348213", None),  # the site's own digits, then 48213
        ("^1234567890148213", None),
        ("^0048213", None),  # no number of a process begins with 0
        (r"^(A)\x31", None),  # without its digits it is no pattern
    ],
)
def test_a_pattern_that_ends_in_digits_goes_to_a_person(found: str, guess: str | None) -> None:
    left = repaired(damaged("^TEST", found))
    assert left.text is None
    assert "process number" in left.problem
    assert left.guess == (guess and rules("^TEST", guess))
    assert json.loads(left.as_found or "") == json.loads(rules("^TEST", found))


@pytest.mark.parametrize("found", ["^SR$", "^[0-9]", r"^\d{3}", "^9990123.", "^TEST"])
def test_a_pattern_that_ends_in_no_digit_has_no_process_number(found: str) -> None:
    assert json.loads(repaired(damaged(found)).text or "") == json.loads(rules(found))


def test_the_digits_that_were_found_and_what_was_meant_are_written_for_a_person(
    tmp_path: Path,
) -> None:
    install = installed(tmp_path / "p", a_config=f"{SITE}DICOM_FILTERS={damaged('^KNEE2')}\n")
    done = migrated(install, tmp_path / "ours", code=1)
    written = (tmp_path / "ours" / ".env").read_text()
    assert f"# Probably meant: DICOM_FILTERS='{rules('^KNEE$')}'" in written
    assert f"the site's own: DICOM_FILTERS='{rules('^KNEE2')}'" in written
    assert "the gateway does not start with it yet" in done.output


@pytest.mark.parametrize("name", ["env", "a_config"])
@pytest.mark.parametrize("found", ["^TEST", r"^KNEE\d+", "^KNEEd+"])
def test_quotes_that_were_put_back_are_shown_to_a_person(
    found: str, name: str, tmp_path: Path
) -> None:
    text = f"{SITE}DICOM_FILTERS={damaged(found)}\n"
    install = installed(tmp_path / "p", **{name: text})
    plan = plan_of(install)
    assert json.loads(plan.values["DICOM_FILTERS"]) == json.loads(rules(found))
    assert "DICOM_FILTERS: the quotes were lost; they are back" in under(plan, LOOK)
    assert "compare each pattern" in under(plan, LOOK)
    assert "DICOM_FILTERS" not in under(plan, "as it is")
    migrated(install, tmp_path / "ours")
    assert f"# In PACSOR's file: {damaged(found)}" in (tmp_path / "ours" / ".env").read_text()


def test_setup_says_so_too() -> None:
    found = read_config(f"DICOM_FILTERS={damaged('^TEST')}\n")
    assert found.values["DICOM_FILTERS"] == rules("^TEST")
    assert [w.partition(";")[0] for w in found.warnings] == ["DICOM_FILTERS: the quotes were lost"]


@pytest.mark.parametrize(
    ("env", "config", "says"),
    [
        (rules("^CR$$"), rules("^TEST"), ".env and a.config differ; .env counts"),
        ("[]", rules("^TEST"), ".env and a.config differ; .env counts"),
        (rules("^CR$$"), damaged("^DX48213"), ".env and a.config differ; .env counts"),
        (damaged("^CR48213"), rules("^DX"), ".env and a.config differ; a.config counts"),
        (damaged("^CR"), damaged("^DX"), ".env and a.config differ; .env counts"),
        (f"{rules('^CR')}\nDICOM_FILTERS=[]", "[]", "given twice, in lines 6 and 7"),
        (f"[]\nDICOM_FILTERS={rules('^CR')}", rules("^CR"), "given twice, in lines 6 and 7"),
        ("", f"{rules('^CR')}\nDICOM_FILTERS=[]", "given twice, in lines 6 and 7"),
        (None, f"{rules('^CR')}\nDICOM_FILTERS=[]", "given twice, in lines 6 and 7"),
    ],
)
def test_two_truths_about_filters_are_shown(
    env: str | None, config: str, says: str, tmp_path: Path
) -> None:
    files = {"a_config": f"{SITE}DICOM_FILTERS={config}\n"}
    if env is not None:
        files["env"] = f"{SITE}DICOM_FILTERS={env}\n"
    plan = plan_of(installed(tmp_path / "p", **files))
    assert f"DICOM_FILTERS: {says}" in under(plan, LOOK)
    assert "DICOM_FILTERS" not in under(plan, "as it is")


@pytest.mark.parametrize(
    ("env", "config"),
    [
        (rules("^CR$$"), rules("^CR$$")),
        (rules("^CR$$"), rules("^CR$$").replace(",", ", ")),
        (rules("^CR$$"), damaged("^CR48213")),
        (rules(r"^KNEE\d+"), damaged("^KNEEd+")),
        ("[]", "[]"),
    ],
)
def test_filters_that_both_files_agree_on_are_as_they_are(
    env: str, config: str, tmp_path: Path
) -> None:
    install = installed(
        tmp_path / "p", env=f"{SITE}DICOM_FILTERS={env}\n", a_config=f"DICOM_FILTERS={config}\n"
    )
    assert "DICOM_FILTERS" in under(plan_of(install), "as it is")


@pytest.mark.parametrize(
    ("one", "other", "is_agreed"),
    [
        (rules("^A", tag="00aa"), rules("^A", tag="00AA"), True),
        (rules("^A"), rules("^A", "^B"), False),
        (rules("^A"), rules("^A", tag="0021"), False),
        (rules("^A$"), damaged("^A99012"), True),
        (damaged("^A99012"), rules("^A$"), True),
        (damaged("^A99012"), rules("^A"), False),
        (damaged("^A1"), damaged("^A2"), False),
        (rules("^A1"), rules("^A$"), False),
        (rules("^A$$"), rules("^A$"), True),
        ("[{tag:x}]", "[{tag:x}]", True),
        ("[{tag:x}]", rules("^A"), False),
    ],
)
def test_values_agree_that_can_be_the_same_rules(one: str, other: str, is_agreed: bool) -> None:
    assert agree(one, other) is is_agreed

"""The truth table of DICOM_FILTERS and its worked set. Source: contract §2.4."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pacsor_tasks.dicom.filters import Found, decision_of, is_identifying, verdict
from pacsor_tasks.dicom.rules import FilterRule


def rule(
    pattern: str, should_match: bool, group: str = "0010", element: str = "0010"
) -> FilterRule:
    return FilterRule.model_validate(
        {
            "tag": {"group": group, "element": element},
            "pattern": pattern,
            "should_match": should_match,
        }
    )


NOT_TESTS = rule("^TEST.*", should_match=False)
ONLY_SR = rule("^SR$", True, "0008", "0060")


@pytest.mark.parametrize(
    ("name", "modality", "is_skipped"),
    [
        ("TEST", "SR", True),  # rule A skips what matches
        ("NOT_A_TEST", "SR", False),  # `^` anchors: A does not match; B matches
        ("NOT_A_TEST", "DX", True),  # rule B skips what does not match
        ("NOT_A_TEST", None, False),  # B has nothing to look at
    ],
)
def test_the_worked_set_of_two_rules(name: str, modality: str | None, is_skipped: bool) -> None:
    values = None if modality is None else [modality]
    assert (NOT_TESTS.skips([name]) or ONLY_SR.skips(values)) is is_skipped


@pytest.mark.parametrize(
    ("values", "should_match", "is_skipped"),
    [
        (["a match"], False, True),
        (["a match"], True, False),
        (["other"], False, False),
        (["other"], True, True),
        (None, False, False),  # missing keeps, whatever the rule wants
        (None, True, False),
        ([""], True, True),  # present but empty is present
        ([""], False, False),
        ([], True, True),  # no value at all counts as ""
        (["x", "a match"], False, True),  # any one value is enough
        (["x", "a match"], True, False),
        (["x", "y"], True, True),
    ],
)
def test_present_or_missing_matching_or_not(
    values: list[str] | None, should_match: bool, is_skipped: bool
) -> None:
    assert rule("match$", should_match).skips(values) is is_skipped


def test_a_pattern_is_searched_anywhere_in_the_value() -> None:
    assert rule("OS", should_match=False).skips(["DOSE"])


def test_an_empty_value_can_be_asked_for() -> None:
    assert not rule("^$", should_match=True).skips([""])


def test_compose_dollars_mean_one_dollar() -> None:
    assert not rule("^SR$$", should_match=True).skips(["SR"])


def test_hex_tags_are_read_in_either_case() -> None:
    assert rule("x", True, "7fE0", "00aB").tag == (0x7FE0, 0x00AB)


@pytest.mark.parametrize(
    ("given", "values", "reason"),
    [
        (ONLY_SR, ["DX"], "rule 1: Modality (0008,0060) does not match '^SR$'"),
        (ONLY_SR, ["SR"], "rule 1: Modality (0008,0060) matches '^SR$'"),
        (ONLY_SR, None, "rule 1: Modality (0008,0060) is absent"),
        # that a name matches this pattern tells the name
        (NOT_TESTS, ["TEST"], "rule 1: PatientName (0010,0010) matches its pattern"),
        # private: nobody knows what it holds, nor what it is called
        (rule("^X", True, "0009", "1001"), [""], "rule 1: (0009,1001) does not match its pattern"),
    ],
)
def test_a_reason_names_the_rule_and_no_value(
    given: FilterRule, values: list[str] | None, reason: str
) -> None:
    assert verdict(1, given, values).reason == reason


@pytest.mark.parametrize(
    ("tag", "is_hidden"),
    [
        ((0x0008, 0x0060), False),  # Modality
        ((0x0008, 0x103E), False),  # SeriesDescription
        ((0x0020, 0x000D), False),  # a UID
        ((0x0010, 0x0040), True),  # all of the patient's group
        ((0x0008, 0x0050), True),  # AccessionNumber
        ((0x0008, 0x0090), True),  # a person's name
        ((0x0020, 0x4000), True),  # free text
        ((0x0011, 0x0010), True),  # private
        ((0x0008, 0xFFFF), True),  # unknown
    ],
)
def test_patterns_of_what_may_tell_the_patient_are_not_repeated(
    tag: tuple[int, int], is_hidden: bool
) -> None:
    assert is_identifying(tag) is is_hidden


def test_of_several_rules_that_skip_the_first_is_named() -> None:
    verdicts = [
        verdict(1, ONLY_SR, None),
        verdict(2, ONLY_SR, ["DX"]),
        verdict(3, NOT_TESTS, ["TEST"]),
    ]
    decision = decision_of(verdicts)
    assert not decision.keep
    assert decision.by is verdicts[1]
    assert [v.found for v in verdicts] == [Found.ABSENT, Found.DIFFERS, Found.MATCHES]


def test_what_no_rule_skips_is_kept_for_no_reason() -> None:
    decision = decision_of([verdict(1, ONLY_SR, ["SR"])])
    assert (decision.keep, decision.by, decision.reason) == (True, None, None)


def test_the_values_are_not_in_the_representation() -> None:
    assert "Secret" not in repr(verdict(1, NOT_TESTS, ["Secret"]))


@pytest.mark.parametrize(
    "tag",
    [
        {"group": "10", "element": "0010"},  # not four digits
        {"group": "00G0", "element": "0010"},  # not hexadecimal
        {"group": "0010"},
        {"group": "0010", "element": "0010", "name": "PatientName"},
        "00100010",
    ],
)
def test_what_is_not_a_tag_is_refused(tag: object) -> None:
    with pytest.raises(ValidationError, match="tag"):
        FilterRule.model_validate({"tag": tag, "pattern": "x", "should_match": True})

"""What a pattern of DICOM_FILTERS means: what it meant to PACSOR, whose patterns are Go's RE2."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.settings_types import FilterRules, lines


def rule(pattern: str) -> FilterRule:
    """One on StudyDescription."""
    return FilterRule(tag=(0x0008, 0x1030), pattern=pattern, should_match=False)


def found(pattern: str, value: str) -> bool:
    return rule(pattern).matches([value])


@pytest.mark.parametrize(
    ("pattern", "value", "is_found"),
    [
        # classes within classes; Python would read `[A-Z[:digit:]` and a literal `]`
        ("^[A-Z[:digit:]]+$", "RG7", True),
        ("[A-Z[:digit:]]", ":", False),
        ("[A-Z[:digit:]]", "[", False),
        ("[^_[:alpha:]]", "a_Z", False),
        ("[^_[:alpha:]]", "a_1", True),
        ("^[[:alpha:]]+$", "hand", True),
        (r"^\pL+$", "Münchén", True),
        (r"^\p{Greek}$", "λ", True),
        # without a lower bound a repeat is none, but the text itself
        ("^x{,2}$", "xx", False),
        ("^x{,2}$", "x{,2}", True),
        ("^x{0,2}$", "xx", True),
        # ends: of the text, and no line break before it
        ("^SR$", "SR", True),
        ("^SR$", "SR\n", False),
        (r"^SR\z", "SR\n", False),
        (r"(?m)^SR$", "one\nSR\ntwo", True),
        ("(?s)a.b", "a\nb", True),
        ("a.b", "a\nb", False),
        # ASCII only
        (r"^\d$", "7", True),
        (r"^\d$", "٣", False),
        (r"^\w$", "é", False),
        (r"^\s$", "\u00a0", False),
        (r"\bé", "é", False),
        # characters, not bytes
        ("^.$", "é", True),
        ("^.$", "\U0001f9b4", True),
        ("^[é-ü]$", "ï", True),
        ("H\ufffdpital", "H\ufffdpital", True),
        ("a\0b", "xa\0bx", True),
        # upper and lower case
        ("sr", "SR", False),
        ("(?i)sr", "SR", True),
        ("(?i)^élève$", "ÉLÈVE", True),
        ("(?i:S)r", "sR", False),
        # literally
        (r"\Qa.b\E", "a.b", True),
        (r"\Qa.b\E", "axb", False),
        ("", "", True),
        ("", "anything", True),
        # several of them, and groups that nobody asks for
        ("^(CR|DX)$", "DX", True),
        ("(?P<part>hand|foot) (?:left|right)", "a foot left", True),
    ],
)
def test_a_pattern_means_what_it_means_in_go(pattern: str, value: str, is_found: bool) -> None:
    assert found(pattern, value) is is_found


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(unclosed", r"missing \)"),
        ("(?=SR)", r"no look-around"),
        ("(?<!SR)X", r"no look-around"),
        (r"(a)\1", "no back-references"),
        ("(?P<a>x)(?P=a)", "no back-references"),
        ("(?>a+)", "invalid perl operator"),
        ("a++", "bad repetition operator"),
        (r"SR\Z", r"no \\Z"),
        ("(?x) S R", "invalid perl operator"),
        ("[z-a]", "invalid character class range"),
        ("[[:letters:]]", "invalid character class range"),
        ("a{1001}", "invalid repetition size"),
        ("(a{100}){100}", "invalid repetition size"),
        (r"\pL{1,900}", "pattern too large"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_re2_does_not_know_is_refused(
    pattern: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValidationError, match=f"is not a regular expression: .*{reason}"):
        rule(pattern)
    assert capfd.readouterr() == ("", "")  # RE2 would write it to stderr


def test_the_refusal_names_the_rule_and_its_field() -> None:
    rules = [{"tag": {"group": "0008", "element": "0060"}, "should_match": True, "pattern": p}
             for p in ("^SR$", "^(?!SR)")]  # fmt: skip
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(FilterRules).validate_python(json.dumps(rules))
    assert lines(refused.value).startswith(
        "1.pattern: pattern '^(?!SR)' is not a regular expression: invalid perl operator: (?!"
    )


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("(a+)+$", "a" * 60 + "!"),
        ("(a+)+$", "a" * 65535 + "!"),  # the most that is looked at
        ("^(a|aa)+$", "a" * 65535 + "!"),
        ("(.*)*x", "a" * 65536),
        (r"^(\w+\s?)*$", "word " * 13000 + "!"),
    ],
)
def test_no_value_keeps_a_pattern_busy(pattern: str, value: str) -> None:
    assert not found(pattern, value)


#: Where both engines mean the same: ASCII, no class within a class, no line break at the end.
LETTERS = st.sampled_from("ab01 _-^")
ATOMS = st.one_of(
    LETTERS.map(re.escape),
    st.sampled_from([".", r"\d", r"\w", r"\s", "[ab]", "[^a0]", "[a-z]"]),
)
REPEATED = st.tuples(ATOMS, st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "+?"])).map(
    "".join
)
PATTERNS = st.recursive(
    st.lists(REPEATED, max_size=4).map("".join),
    lambda inner: st.one_of(
        inner.map("({})".format),
        st.tuples(inner, inner).map("|".join),
        inner.map("^{}".format),
        inner.map(r"\b{}".format),
        inner.map("{}$".format),
        inner.map("(?:{})?".format),
    ),
    max_leaves=3,
)


@given(PATTERNS, st.text(st.sampled_from("ab01 _-^"), max_size=8))
def test_plain_patterns_find_what_pythons_do(pattern: str, value: str) -> None:
    assert found(pattern, value) is (re.search(pattern, value) is not None)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.text(max_size=8))
def test_a_quoted_text_is_found_where_it_stands(text: str, around: str) -> None:
    """Of all of Unicode, surrogates in the value too."""
    quoted = "".join(c if c not in string.punctuation else f"\\{c}" for c in text)
    assert found(quoted, around + text + around)


def test_rules_go_between_processes() -> None:
    """One that has been used is as good in a process of its own."""
    given_rule = rule("^(CR|DX)$")
    assert given_rule.matches(["DX"])
    assert pickle.loads(pickle.dumps(given_rule)) == given_rule
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(given_rule.matches, [["DX"], ["SR"]]) == [True, False]

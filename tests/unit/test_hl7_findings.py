"""What the findings segment says."""

from __future__ import annotations

from typing import Any

import pytest

from pacsor_tasks.hl7.findings import inference_text
from pacsor_tasks.milvue.schemas import Detections, Measures, validated


def words(fr: str, en: str) -> dict[str, str]:
    return {"fr": fr, "en": en, "es": en, "de": en, "it": en, "pt": en}


def finding(fr: str, en: str, label: str) -> dict[str, Any]:
    return {"value": en.lower(), "translation": words(fr, en), "label": label, "score": 0.5}


def measure(fr: str, en: str, value: float, unit: str) -> dict[str, Any]:
    return {"type": "angle", "value": en, "translation": words(fr, en), "measure": value,
            "unit": unit, "lines": []}  # fmt: skip


FRACTURE, LUXATION = ("Fracture", "Fracture"), ("Luxation", "Dislocation")


@pytest.mark.parametrize(
    ("label", "language", "line"),
    [
        ("abnormal", "FR", "Fracture : OUI"),
        ("normal", "FR", "Fracture : NON"),
        ("doubt", "FR", "Fracture : DOUTE"),
        ("abnormal", "EN", "Fracture : YES"),
        ("normal", "EN", "Fracture : NO"),
        ("doubt", "EN", "Fracture : DOUBT"),
        # What the AI could not judge is said, not left out: silence would read as normal.
        ("out_scope", "FR", "Fracture : HORS CHAMP"),
        ("unknown", "EN", "Fracture : UNKNOWN"),
        ("a label of tomorrow", "EN", "Fracture : UNKNOWN"),
        ("Abnormal", "FR", "Fracture : OUI"),
        ("OUT_SCOPE", "FR", "Fracture : HORS CHAMP"),
    ],
)
def test_a_label_has_a_word_in_each_language(label: str, language: str, line: str) -> None:
    assert inference_text({"findings": [finding(*FRACTURE, label)]}, None, language) == line


@pytest.mark.parametrize(
    ("status", "word"),
    [("yes", "OUI"), ("no", "NON"), ("doubt", "DOUTE"), ("out_scope", "HORS CHAMP"),
     ("unknown", "INDETERMINE"), ("", "INDETERMINE"), ("YES", "OUI"), ("No", "NON")],
)  # fmt: skip
def test_the_deprecated_status_stands_in_for_a_missing_label(status: str, word: str) -> None:
    old = finding(*FRACTURE, "") | {"type": status}
    assert inference_text({"findings": [old]}, None, "FR") == f"Fracture : {word}"


def test_a_finding_without_a_name_is_not_swallowed() -> None:
    bare = {"value": "", "translation": {"fr": "", "en": ""}, "label": "abnormal"}
    assert inference_text({"findings": [bare]}, None, "FR") == "? : OUI"


def test_the_text_of_the_ai_wins_over_its_findings_and_stays_as_it_is() -> None:
    answer = {"hl7": "Fracture : NON\n\nRAS\n\nRAS", "findings": [finding(*FRACTURE, "abnormal")]}
    assert inference_text(answer, None, "FR") == "Fracture : NON\n\nRAS\n\nRAS"


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_an_empty_text_of_the_ai_does_not_hide_its_findings(text: str | None) -> None:
    answer = {"hl7": text, "findings": [finding(*LUXATION, "normal")]}
    assert inference_text(answer, None, "EN") == "Dislocation : NO"


def test_findings_keep_the_order_of_the_ai() -> None:
    answer = {"findings": [finding(*LUXATION, "normal"), finding(*FRACTURE, "abnormal")]}
    assert inference_text(answer, None, "FR") == "Luxation : NON\nFracture : OUI"


def test_without_findings_of_the_study_the_most_severe_of_its_instances_counts() -> None:
    answer = {
        "hl7": "",
        "findings": [],
        "instances": [
            {"findings": [finding(*FRACTURE, "normal"), finding(*LUXATION, "doubt")]},
            {"findings": [finding(*FRACTURE, "abnormal"), finding(*LUXATION, "out_scope")]},
            {"findings": [finding(*FRACTURE, "doubt")]},
        ],
    }
    assert inference_text(answer, None, "FR") == "Fracture : OUI\nLuxation : DOUTE"


def test_measures_are_lines_with_one_decimal_and_their_unit() -> None:
    answer = {
        "instances": [
            {"measures": [measure("Angle de Cobb", "Cobb angle", 12.34, "deg")]},
            {"measures": [measure("Longueur", "Length", 3, "mm")]},
        ]
    }
    assert inference_text(None, answer, "FR") == "Angle de Cobb : 12.3 deg\nLongueur : 3.0 mm"
    assert inference_text(None, answer, "EN") == "Cobb angle : 12.3 deg\nLength : 3.0 mm"


def test_the_same_measure_is_said_once_and_no_number_is_not_said() -> None:
    angle = measure("Angle", "Angle", 12.31, "deg")
    answer = {
        "instances": [
            {"measures": [angle, {**angle, "measure": 12.29}]},
            {"measures": [{**angle, "measure": float("nan")}, {**angle, "measure": None}]},
            {"measures": [{**angle, "measure": 14.0}]},
        ]
    }
    assert inference_text(None, answer, "FR") == "Angle : 12.3 deg\nAngle : 14.0 deg"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"measure": None}, ""),
        ({}, ""),
        ({"measure": 0}, "Cobb : 0.0 deg"),
        ({"measure": -0.04}, "Cobb : 0.0 deg"),
        ({"measure": -0.06}, "Cobb : -0.1 deg"),
        ({"measure": 12.3, "unit": None}, "Cobb : 12.3"),
    ],
)
def test_what_was_not_measured_is_not_said_to_be_zero(given: dict[str, Any], line: str) -> None:
    one = {"value": "Cobb", "unit": "deg"} | given
    answer = validated(Measures, {"instances": [{"measures": [one]}]}, "x")
    assert inference_text(None, answer.model_dump(), "FR") == line


def test_a_label_in_capitals_counts_when_the_most_severe_is_chosen() -> None:
    instances = [
        {"findings": [{"value": "Fracture", "label": label}]} for label in ("normal", "ABNORMAL")
    ]
    answer = validated(Detections, {"instances": instances}, "x")
    assert inference_text(answer.model_dump(), None, "FR") == "Fracture : OUI"


def test_measures_follow_detections() -> None:
    measures = {"instances": [{"measures": [measure("Angle", "Angle", 1.0, "deg")]}]}
    assert inference_text({"hl7": "Fracture : NON"}, measures, "FR") == (
        "Fracture : NON\nAngle : 1.0 deg"
    )


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"status": "running"}, {"status": "forbidden", "message": "no contract"},
     {"findings": None, "instances": None}, {"instances": [{"findings": None, "measures": None}]}],
)  # fmt: skip
def test_an_answer_without_findings_says_nothing(answer: dict[str, Any] | None) -> None:
    assert inference_text(answer, answer, "FR") == ""


def test_a_language_that_is_missing_falls_back_to_english_then_to_the_ais_own_word() -> None:
    half = finding(*LUXATION, "normal") | {"translation": {"en": "Dislocation"}}
    bare = finding(*LUXATION, "normal") | {"translation": None}
    assert inference_text({"findings": [half]}, None, "FR") == "Dislocation : NON"
    assert inference_text({"findings": [bare]}, None, "ES") == "dislocation : NO"

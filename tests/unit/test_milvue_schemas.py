"""JSON bodies of the API, complete, sparse and wrong. Source: contract §1.3."""

from __future__ import annotations

from typing import Any

import pytest

from pacsor_tasks.errors import BadResponse, NotReady
from pacsor_tasks.milvue.download import outcome_of
from pacsor_tasks.milvue.outcomes import Outcome, StudyState
from pacsor_tasks.milvue.schemas import (
    Detections,
    GotStudy,
    Measures,
    PolledStudy,
    PostedStudy,
    SignedResults,
    Translation,
    validated,
)

SIX = {code: f"{code}-word" for code in ("en", "fr", "es", "de", "it", "pt")}
FINDING = {
    "value": "fracture",
    "translation": SIX,
    "label": "abnormal",
    "score": 0.9,
    "type": "yes",
}
BOX = {**FINDING, "top_left": [1, 2], "bottom_right": [3, 4]}
BODY_PART = {"value": "hand", "translation": SIX, "score": 1}
DETECTIONS: dict[str, Any] = {
    "StudyInstanceUID": "1.2",
    "status": "done",
    "version": "2.3.1",
    "message": None,
    "flag": {"score": 0.9, "label": "abnormal"},
    "hl7": "text",
    "findings": [FINDING],
    "instances": [
        {
            "SOPInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.4",
            "body_parts": [BODY_PART],
            "findings": [FINDING],
            "bounding_boxes": [BOX],
            "new_in_2027": {"a": 1},
        }
    ],
    "signed_url": "https://h/p?sig=SECRET",
    "report": {"title": "t", "techniques": ["x"], "results": [{"region": "r", "items": ["i"]}]},
}
MEASURE = {
    "type": "angle",
    "value": "hallux",
    "translation": SIX,
    "measure": 12.5,
    "unit": "deg",
    "lines": [[1, 2, 3, 4], [5, 6, 7, 8]],
}
MEASURES: dict[str, Any] = {
    "StudyInstanceUID": "1.2",
    "status": "done",
    "version": "2.3.1",
    "instances": [{"SOPInstanceUID": "1.2.3", "measures": [MEASURE], "body_parts": None}],
}


def test_complete_detections_are_read() -> None:
    found = validated(Detections, DETECTIONS, "x")
    assert found.findings[0].translation.to("FR") == "fr-word"
    assert found.instances[0].bounding_boxes[0].bottom_right == [3, 4]
    assert found.report is not None
    assert found.report.results[0].items == ["i"]
    assert found.flag.label == "abnormal"


def test_complete_measures_are_read() -> None:
    found = validated(Measures, MEASURES, "x")
    measure = found.instances[0].measures[0]
    assert (measure.measure, measure.unit, len(measure.lines)) == (12.5, "deg", 2)
    assert found.instances[0].body_parts == []


def test_a_signed_url_in_findings_is_not_shown() -> None:
    assert "SECRET" not in repr(validated(Detections, DETECTIONS, "x"))


@pytest.mark.parametrize("model", [Detections, Measures])
def test_findings_may_leave_everything_out(model: type[Detections] | type[Measures]) -> None:
    assert validated(model, {}, "x").instances == []
    assert validated(model, {"instances": None, "message": None}, "x").instances == []


@pytest.mark.parametrize("language", ["xx", "", "model_fields", "to"])
def test_an_unknown_language_has_no_translation(language: str) -> None:
    assert Translation(en="word").to(language) == ""


@pytest.mark.parametrize(
    ("word", "state"),
    [("done", StudyState.DONE), ("RUNNING", StudyState.RUNNING), ("error", StudyState.ERROR)],
)
def test_a_polled_state_is_read_in_any_case(word: str, state: StudyState) -> None:
    assert validated(PolledStudy, {"status": word}, "x").status is state


@pytest.mark.parametrize(
    ("model", "body", "names"),
    [
        (PolledStudy, {"status": "DOE^JOHN"}, "status"),
        (PolledStudy, {}, "status"),
        (PolledStudy, {"status": None}, "status"),
        (GotStudy, {"StudyInstanceUID": "1"}, "status"),
        (GotStudy, {"status": 3}, "status"),
        (SignedResults, {"signed_urls": {"a": "DOE^JOHN"}}, "signed_urls"),
        (SignedResults, {"signed_urls": ["u", None]}, "signed_urls.1"),
        (PostedStudy, {"signed_urls": ["DOE^JOHN"]}, "signed_urls"),
        (Detections, {"instances": [{"findings": "DOE^JOHN"}]}, "instances.0.findings"),
    ],
)
def test_a_wrong_body_is_told_by_its_fields_not_their_values(
    model: Any, body: dict[str, Any], names: str
) -> None:
    with pytest.raises(BadResponse, match=names) as caught:
        validated(model, body, "call")
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("word", list(Outcome))
def test_a_status_is_an_outcome_of_the_same_name(word: Outcome) -> None:
    assert outcome_of(GotStudy(status=word.upper()), "1.2", "x") is word


def test_running_is_not_ready_whatever_else_is_said() -> None:
    body = {"status": "Running", "StudyInstanceUID": "1.2", "signed_urls": {"odd": 1}}
    with pytest.raises(NotReady):
        outcome_of(validated(GotStudy, body, "x"), "1.2", "x")


@pytest.mark.parametrize(
    ("status", "uid", "said"),
    [("pending", "1.2", "unknown status 'pending'"), ("done", "9.9", "about study '9.9'")],
)
def test_an_unknown_word_or_another_study_is_a_bad_response(
    status: str, uid: str, said: str
) -> None:
    with pytest.raises(BadResponse, match=said):
        outcome_of(GotStudy(status=status, StudyInstanceUID=uid), "1.2", "x")

"""Messages of other providers: what is read of them, and what they are known by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.tcr.received import received_of, run_id_of

STUDY = {"StudyInstanceUID": "1.2.3", "PatientID": "PX-1", "AccessionNumber": 4711}
REPORT = {"conclusion": "No fracture."}


def envelope(data: Any, provider: str = "radio-a") -> dict[str, Any]:
    return {"provider": provider, "data": data}


@pytest.mark.parametrize(
    "data",
    [
        {"id": "1", "study": STUDY, "report": REPORT},
        {"id": "1", **STUDY, "report": REPORT},
        {"id": "1", **STUDY, **REPORT},
        {"id": "1", "study_instance_uid": "1.2.3", "study": {"PatientID": "PX-1",
         "AccessionNumber": "4711"}, "report": REPORT},
        json.dumps({"id": "1", "study": STUDY, "report": REPORT}),
    ],
)  # fmt: skip
def test_study_and_report_are_found_in_every_shape(data: Any):
    found = received_of(envelope(data))
    assert (found.provider, found.study_uid) == ("radio-a", "1.2.3")
    assert found.study["PatientID"] == "PX-1"
    assert found.study["AccessionNumber"] == "4711"
    assert found.report.text("conclusion") == "No fracture."
    assert "PX-1" not in repr(found)


@pytest.mark.parametrize(
    "data",
    [
        None, 7, [], "", "text", "[]",
        {"report": REPORT},
        {"StudyInstanceUID": "../x", "report": REPORT},
        {"StudyInstanceUID": ["1.2"], "report": REPORT},
        {"study": "1.2.3", "report": REPORT},
        {"study": STUDY},
        {"study": STUDY, "report": {"conclusion": " "}},
        {"study": STUDY, "report": 7},
    ],
)  # fmt: skip
def test_anything_else_is_refused_without_being_repeated(data: Any):
    with pytest.raises(BadResponse) as caught:
        received_of(envelope(data))
    assert "PX-1" not in str(caught.value)


def test_a_message_needs_a_provider():
    with pytest.raises(BadResponse, match="no provider"):
        received_of(envelope({"study": STUDY, "report": REPORT}, ""))


@pytest.mark.parametrize("name", ["id", "message_id", "report_id"])
def test_a_message_is_known_by_its_id_and_provider(name: str):
    told = {"study": STUDY, "report": REPORT}
    one = run_id_of(envelope({name: "r-1", **told}))
    assert one == run_id_of(envelope(json.dumps({"sent_at": "later", name: "r-1", **told})))
    assert one != run_id_of(envelope({name: "r-2", **told}))
    assert one != run_id_of(envelope({name: "r-1", **told}, "radio-b"))


@pytest.mark.parametrize(
    "changed",
    [
        {"report": {"conclusion": "A fracture."}},
        {"study": {**STUDY, "AccessionNumber": "4712"}},
        {"study": {**STUDY, "StudyInstanceUID": "1.2.4"}},
        {"format": "html"},
    ],
)
def test_a_corrected_report_under_the_same_id_is_no_repetition(changed: dict[str, Any]):
    told = {"id": "r-1", "study": STUDY, "report": REPORT}
    assert run_id_of(envelope(told)) != run_id_of(envelope({**told, **changed}))


def test_what_cannot_be_understood_is_known_by_its_id_and_content():
    one = run_id_of(envelope({"id": "r-1", "report": REPORT}))
    assert one == run_id_of(envelope({"report": REPORT, "id": "r-1"}))
    assert one != run_id_of(envelope({"id": "r-1", "report": {"conclusion": "other"}}))
    assert one != run_id_of(envelope({"id": "r-2", "report": REPORT}))


def test_an_id_that_is_no_unicode_is_one_all_the_same():
    found = {run_id_of(envelope({"id": f"r-{text}"})) for text in ("\ud800", "\udfff", "")}
    assert len(found) == 3


@pytest.mark.parametrize(
    "data", [{"report": REPORT}, "not JSON", None, [1], {"id": ""}, {"id": []}]
)
def test_without_an_id_it_is_known_by_its_content(data: Any):
    assert run_id_of(envelope(data)) == run_id_of(json.loads(json.dumps(envelope(data))))
    assert run_id_of(envelope(data)) != run_id_of(envelope({"report": {"conclusion": "other"}}))

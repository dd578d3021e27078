"""Messages of other providers: what is read of them, and what they are known by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.tcr.received import envelope_of, received_of, run_id_of

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
        {"id": "1", "study": None, **STUDY, "report": REPORT},
        json.dumps({"id": "1", "study": STUDY, "report": REPORT}),
        "\ufeff" + json.dumps({"id": "1", "study": STUDY, "report": REPORT}),
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
        {"study": STUDY, "report": {**REPORT, "format": ["html"]}},
        {"study": STUDY, "format": {}, "report": REPORT},
    ],
)  # fmt: skip
def test_anything_else_is_refused_without_being_repeated(data: Any):
    with pytest.raises(BadResponse) as caught:
        received_of(envelope(data))
    assert "PX-1" not in str(caught.value)


@pytest.mark.parametrize("provider", ["", "a\0", "\ud800"])
def test_a_message_needs_a_provider(provider: str):
    with pytest.raises(BadResponse, match="no provider"):
        received_of(envelope({"study": STUDY, "report": REPORT}, provider))


def nested(levels: int) -> list[Any]:
    """Lists in lists."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    "content", ["<![foo[ x", "<p>a</p><![x]]>", f"<p>&#{'9' * 5000};</p>", "<a ", "<!--", "\ud800"]
)
def test_html_that_is_none_is_a_report_all_the_same(content: str):
    data = {"id": "r-1", "format": "html", "study": STUDY, "report": {"conclusion": content}}
    assert received_of(envelope(data)).report.text("conclusion")
    assert run_id_of(envelope(data))


@pytest.mark.parametrize(
    "data",
    [
        {"id": "r-1", "report": {"format": ["html"], **REPORT}, "study": STUDY},
        {"id": "r-1", "study": {"StudyInstanceUID": nested(990)}, "report": REPORT},
        {"id": "r-1", "study": STUDY, "report": {"conclusion": nested(5000)}},
        {"id": "r-1", "study": STUDY, "format": nested(5000), "report": REPORT},
        nested(5000),
        {"id": float("nan")},
        b"\xff\x00",
    ],
)
def test_every_message_has_an_id_and_can_be_kept(data: Any):
    made = envelope_of("radio-a", data)
    kept = json.loads(json.dumps(made))
    assert run_id_of(made) == run_id_of(kept)
    assert run_id_of(envelope(data, "\ud800"))
    with pytest.raises(BadResponse):
        received_of(kept)


def test_what_is_too_deep_in_a_message_does_not_keep_the_rest_from_being_read():
    data = {"id": "r-1", "study": STUDY, "report": REPORT, "more": nested(990)}
    assert received_of(envelope_of("radio-a", data)).study_uid == "1.2.3"


def test_a_message_in_bytes_is_as_one_in_text():
    text = json.dumps({"id": "r-1", "study": STUDY, "report": REPORT})
    assert envelope_of("radio-a", text.encode()) == envelope_of("radio-a", text)
    assert envelope_of("radio-a", memoryview(text.encode())) == envelope(text)


def test_the_ids_are_the_same_in_every_process_and_version():
    """A message that comes again after an update must not become another delivery."""
    told = {"id": "r-1", "study": STUDY, "report": REPORT}
    assert run_id_of(envelope(told)) == "c9b95fd9-ac67-5484-95f1-0ddef7d29e1e"
    mixed = {**told, "report": {"results": "<b>a</b>", "title": "<p>b</p>", "conclusion": "c"}}
    assert run_id_of(envelope(mixed)) == "a06e402d-b3d8-597e-8062-bf5b426f5cdd"


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

"""Reports as JSON, and the routes to them."""

from __future__ import annotations

import pytest

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.hl7.report import PARTS, ReportFormat, report_obx
from pacsor_tasks.routes import Route
from pacsor_tasks.tcr.reports import is_empty, read_object, report_of, unshown

TEXT = {
    "title": "Hand",
    "indication": "Fall",
    "technique": "Two views",
    "results": "No fracture.",
    "conclusion": "Nothing to see | here.",
    "type": "radiograph",
}


@pytest.mark.parametrize(
    "value",
    [
        {"report": TEXT},
        TEXT,
        {"status": "done", "StudyInstanceUID": "1.2", **TEXT},
        {"report": {**TEXT, "technique": None, "techniques": ["Two views"]}},
        {"report": {**TEXT, "results": ["No fracture."]}},
        {"report": {**TEXT, "results": None, "findings": "No fracture."}},
        {"format": "text", "report": TEXT},
        {"report": {**TEXT, "format": "text", "more": {"of": ["anything"]}}},
    ],
)
def test_the_parts_are_found_in_every_shape(value: dict[str, object]):
    found = report_of(value, "report")
    assert {part: found.text(part) for part in PARTS} == TEXT
    assert not found.is_html


@pytest.mark.parametrize(
    ("results", "text"),
    [
        (["a", "b"], "a\nb"),
        ([{"region": "Wrist", "items": ["a"]}], "Wrist: a"),
        ([{"region": "Wrist", "items": ["a", "b"]}, {"items": ["c"]}], "Wrist\na\nb\n\nc"),
        ([{"region": "", "items": "a"}], "\na"),
        ([], ""),
    ],
)
def test_results_may_be_lists_by_region(results: object, text: str):
    assert report_of({"results": results}, "report").text("results") == text


@pytest.mark.parametrize(
    ("given", "results", "is_html"),
    [
        (None, "<p>No fracture.</p>", True),
        (None, "line<br/>line", True),
        (None, "angle <5 deg and >3 mm", False),
        (None, "<unknown> text", False),
        (None, "Si p<b et c>d alors", False),
        (None, "p<b>c and a <u> b", False),
        (None, "a <p = 3> b", False),
        (None, "<b>No</b> fracture.", True),
        (None, "line<BR>line", True),
        (None, "<a href=http://x/y>", True),
        (None, "<td class='a b' id=\"c\" >x", True),
        ("html", "plain but said to be HTML", True),
        ("HTML", "plain but said to be HTML", True),
        (" Text ", "<p>said to be text</p>", False),
        ("text", "<p>said to be text</p>", False),
    ],
)
def test_html_is_what_is_said_to_be_or_looks_like_it(
    given: str | None, results: str, is_html: bool
):
    value = {"report": {"results": results}, **({"format": given} if given else {})}
    assert report_of(value, "report").is_html is is_html


def test_without_a_format_each_part_is_what_it_looks_like():
    found = report_of({"results": "<b>ok</b>", "conclusion": "1 <\n  2"}, "report")
    assert found.text("results") == "ok"
    assert found.text("conclusion") == "1 <\n  2"
    assert found.html("conclusion") == "<p>1 &lt;<br>  2</p>"
    assert found.html("results") == "<b>ok</b>"


def test_a_format_that_is_null_is_not_given():
    value = {"format": "html", "report": {"format": None, "results": "plain"}}
    assert report_of(value, "report").is_html


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"format": "html", "results": "<p>a</p>", "title": " "}, []),
        ({"format": "html", "results": "<img src=x>", "title": "T"}, ["results"]),
        ({"format": "html", "results": "<p>a</p><script>b"}, ["results"]),
        ({"format": "html", "results": "<head><title>b"}, ["results"]),
        ({"results": "<script>b", "title": "\u200b\ufeff"}, []),
    ],
)
def test_what_is_not_shown_is_told(value: dict[str, object], parts: list[str]):
    assert unshown(report_of(value, "report")) == parts


@pytest.mark.parametrize(
    "value",
    [
        {"report": []},
        {"format": ["html"], "results": "x"},
        {"format": {}, "results": "x"},
        {"format": True, "results": "x"},
        {"report": {"format": [], "results": "x"}},
        {"report": "text"},
        {"results": 7},
        {"results": [[[[["too deep"]]]]]},
        {"results": {"region": "x"}},
        {"results": [{"region": 7, "items": []}]},
        {"format": "pdf", "results": "x"},
    ],
)
def test_anything_else_is_refused_without_being_repeated(value: dict[str, object]):
    with pytest.raises(BadResponse, match="report of 1"):
        report_of(value, "report of 1")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"report": None},
        {"report": {"title": " \n"}},
        {"report": {"title": "\u200b\ufeff"}},
        {"report": {"title": "<p>\ufeff&nbsp;</p>"}},
    ],
)
def test_a_report_may_be_empty(value: dict[str, object]):
    assert is_empty(report_of(value, "report"))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", b"\xff\xfe", "[" * 100_000])
def test_only_an_object_is_read(text: str | bytes):
    with pytest.raises(BadResponse, match="x: not"):
        read_object(text, "x")


def test_an_object_may_begin_with_a_byte_order_mark():
    assert (
        read_object('\ufeff{"a": 1}', "x") == read_object(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}
    )


def test_html_keeps_its_formatting_without_indentation_in_the_message():
    html = "<ul>\n    <li>No <b>fracture</b>.</li>\n</ul>"
    (segment,) = report_obx(
        report_of({"report": {"conclusion": html}}, "r"), ReportFormat.HTML_SPLIT
    )
    import base64

    sent = segment.split("^Base64^")[1].split("|")[0]
    assert base64.b64decode(sent).decode() == "<ul>\n<li>No <b>fracture</b>.</li>\n</ul>"


KNOWN = frozenset({"study_instance_uid", "organization_id"})


@pytest.mark.parametrize(
    ("text", "segments", "query"),
    [
        ("/report?study_instance_uid={study_instance_uid}", ("report",),
         {"study_instance_uid": "1.2&x=/y"}),
        ("/v2/{study_instance_uid}/report", ("v2", "1.2&x=/y", "report"), {}),
        ("/r?o={organization_id}&s={study_instance_uid}&f=html", ("r",),
         {"o": "", "s": "1.2&x=/y", "f": "html"}),
    ],
)  # fmt: skip
def test_a_route_is_filled_in_after_it_was_taken_apart(
    text: str, segments: tuple[str, ...], query: dict[str, str]
):
    route = Route.parse(text, KNOWN)
    values = {"study_instance_uid": "1.2&x=/y", "organization_id": ""}
    assert route.fill(values) == (segments, query)


@pytest.mark.parametrize(
    "text",
    ["report", "", "/", "//x", "/a//b", "/../x", "/a/{other}", "/a/{study_instance_uid", "/a b",
     "/a#b", "http://else/where", "/a?x={x}", "/a}"],
)  # fmt: skip
def test_what_is_no_route_is_refused(text: str):
    with pytest.raises(ValueError, match=r"path|placeholder"):
        Route.parse(text, KNOWN)


def test_a_route_must_have_what_it_needs():
    with pytest.raises(ValueError, match="study_instance_uid"):
        Route.parse("/report", KNOWN, frozenset({"study_instance_uid"}))

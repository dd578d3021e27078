"""Text and HTML of reports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7 import markup


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("RAS", "<p>RAS</p>"),
        ("a\nb", "<p>a<br>b</p>"),
        ("a\r\n\r\nb", "<p>a</p><p>b</p>"),
        ("1 < 2 & 3 > 2", "<p>1 &lt; 2 &amp; 3 &gt; 2</p>"),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_text_becomes_paragraphs(text: str, html: str) -> None:
    assert markup.from_text(text) == html


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("  <p>\n\t a</p>\r\n\r\n <b>b</b>  ", "<p>\na</p>\n<b>b</b>"),
        ("<p>a  b</p>", "<p>a  b</p>"),
        (" <pre>\n  a\n\n  b</pre>\n  c", "<pre>\n  a\n\n  b</pre>\nc"),
        ("<PRE> x </PRE>", "<PRE> x </PRE>"),
        ("", ""),
    ],
)
def test_html_loses_its_indentation_and_nothing_else(source: str, plain: str) -> None:
    assert markup.without_indentation(source) == plain


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>a</p><p>b &amp; c</p>", "a\nb & c"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul>\n <li>a</li>\n <li>b</li></ul>", "- a\n- b"),
        ("<head><title>t</title></head><body>a</body>", "a"),
        ("<style>p {}</style>a<script>b()</script>", "a"),
        ("<b>a</b> <i>b</i>", "a b"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a\tb"),
        ("a < b", "a < b"),
        ("<p>not closed", "not closed"),
        ("<script>if (a<b) x('</p>')</script >a", "a"),
        ('<p title="x > y" hidden>a</p>', "a"),
        ("<p it's>a</p>", "a"),
        ("a&#233;&#xe9;&eacute;&nbsp;&#0000000065;", "aééé\xa0A"),
        ("<template><p>a</p></template>b", "b"),
        ("<template/>b <script/>c", "b c"),
        ("<!DOCTYPE html><!---->a<!-- > --><!-->b<?c?></>", "ab"),
    ],
)
def test_html_is_read_as_text(source: str, text: str) -> None:
    assert markup.to_text(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<html><head><title>T</title><body><p>Fracture</p></body></html>", "Fracture"),
        ("<head><p>Fracture</p>", "Fracture"),
        ("<head><meta charset=utf-8><style>p{}</style>Fracture", "Fracture"),
        ("<head><title>T<body>Fracture", "Fracture"),
        ("<head></p><title>T</title></head>Fracture", "Fracture"),
    ],
)
def test_a_head_ends_without_its_end_tag(source: str, text: str) -> None:
    assert markup.to_text(source) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>a</p><![x]]>b", "a\nb"),
        ("<![foo[ a", "<![foo[ a"),
        ("a <b", "a <b"),
        ("<p>a<!-- b", "a<!-- b"),
        ("<!-- <p>a</p>", "<!--\na"),
        ('<a b=">" c', '" c'),
        ("<p a='b>c", "c"),
        (f"a&#{'9' * 5000};b", "a\ufffdb"),
        (f"a&#{'0' * 5000}65;b", "aAb"),
    ],
)
def test_what_is_no_markup_is_text(source: str, text: str) -> None:
    assert markup.to_text(source) == text


@pytest.mark.parametrize(
    ("source", "shows", "loses"),
    [
        ("<p>a</p>", True, False),
        ("<p>a</p><script>1<p>x", True, True),
        ("<style>p{}", False, True),
        ("<style>", False, False),
        ("<template><p>a", False, True),
        ("<template>", False, False),
        ("<head><title>Fracture", False, True),
        ("<head><title>T</title></head>", False, False),
        ("<img src=x>", False, False),
        ("<p>\u200b\ufeff &nbsp;</p>", False, False),
        ("", False, False),
    ],
)
def test_what_is_shown_and_what_is_hidden_to_the_end(source: str, shows: bool, loses: bool) -> None:
    assert markup.shows_text(source) is shows
    assert markup.loses_text(source) is loses
    assert bool(markup.to_text(source).strip("\u200b\ufeff \xa0")) is shows


@pytest.mark.parametrize(
    "unit",
    ["<a ", "<!--", "<pre>", "&#9", "<p a='", '<a b=">" ', "<![", "\t", "</script "],
)
def test_a_megabyte_of_anything_is_read(unit: str) -> None:
    """Were the time quadratic, each would take hours: the suite's time limit is the test."""
    for begin, end in (("x", "y"), ("<script>", ">"), ("<p>", "</p>")):
        source = f"{begin}{unit * (1_000_000 // len(unit))}{end}"
        markup.to_text(source)
        markup.without_indentation(source)
        markup.loses_text(source)


@given(st.lists(st.sampled_from([*"<>/!-=&#;'\"[] \n", "a", "<p", "<head>", "</script>", "<pre>"])))
def test_no_markup_stops_the_reader(pieces: list[str]) -> None:
    markup.to_text("".join(pieces))
    markup.without_indentation("".join(pieces))


@given(st.text())
def test_no_html_stops_the_reader(source: str) -> None:
    markup.to_text(source)
    markup.without_indentation(source)

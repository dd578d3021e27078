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
    ],
)
def test_html_is_read_as_text(source: str, text: str) -> None:
    assert markup.to_text(source) == text


@given(st.text())
def test_no_html_stops_the_reader(source: str) -> None:
    markup.to_text(source)
    markup.without_indentation(source)

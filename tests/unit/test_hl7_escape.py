"""Escaping: no text breaks a message, none is changed by the way there and back."""

from __future__ import annotations

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.escape import Delimiters, clean, escape, escape_components, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=[])) | st.text("\\|^&~\r\n\tXEFSTR.0A\x0b\x1c")


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("Anaïs", "Anaïs"),
        ("a|b", "a\\F\\b"),
        ("a^b", "a\\S\\b"),
        ("a&b", "a\\T\\b"),
        ("a~b", "a\\R\\b"),
        ("a\\b", "a\\E\\b"),
        # The backslash of an escape is not escaped again …
        ("|\\", "\\F\\\\E\\"),
        # … and text that looks like an escape is text.
        ("\\F\\", "\\E\\F\\E\\"),
        ("a\r\nb\tc", "a\\X0D\\\\X0A\\b\\X09\\c"),
        # MLLP frame bytes and other controls have no place in a field.
        ("a\x0bb\x1cc\x00\x7f\x85d", "abcd"),
        # Half a surrogate pair, as JSON can carry it.
        ("a\ud83d", "a\ufffd"),
        ("Angle 12 deg & 3 mm\nRAS", "Angle 12 deg \\T\\ 3 mm\\X0A\\RAS"),
    ],
)
def test_text_is_encoded(text: str, encoded: str) -> None:
    assert escape(text) == encoded


def test_a_name_keeps_its_components_and_loses_every_other_delimiter() -> None:
    assert escape_components("O|B^A&B^C~D") == "O\\F\\B^A\\T\\B^C\\R\\D"


@given(ANY_TEXT)
def test_no_text_can_break_a_message(text: str) -> None:
    encoded = escape(text)
    assert not set(encoded) & set("|^&~")
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in encoded)
    encoded.encode("utf-8")


@given(ANY_TEXT)
def test_the_way_there_and_back_gives_the_text_back(text: str) -> None:
    assert unescape(escape(text)) == clean(text)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_without_controls_is_not_changed(text: str) -> None:
    assert unescape(escape(text)) == text


@given(st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_another_parser_finds_every_value_in_its_field(texts: list[str]) -> None:
    fields = [escape(text) for text in texts]
    message = hl7.parse("MSH|^~\\&|A\rZZZ|" + "|".join(fields) + "|end\r")
    assert len(message) == 2
    assert [str(field) for field in message[1]] == ["ZZZ", *fields, "end"]


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        ("a\\.br\\b", "a\nb"),
        ("\\XC3A9\\", "é"),
        ("\\XC3\\\\XA9\\", "é"),
        ("\\XE6\\\\XBCa2\\\\X0D0A\\x", "漢\r\nx"),
        ("\\XC3\\a\\XA9\\", "\ufffda\ufffd"),
        ("\\E\\X41\\E\\", "\\X41\\"),
        # Unknown, unfinished or highlighting sequences stay as they are.
        ("\\H\\a\\N\\", "\\H\\a\\N\\"),
        ("a\\b", "a\\b"),
        ("\\X0\\", "\\X0\\"),
    ],
)
def test_a_peers_escapes_are_read(encoded: str, text: str) -> None:
    assert unescape(encoded) == text


def test_a_message_with_its_own_delimiters_is_unescaped_with_them() -> None:
    delimiters = Delimiters(field="#", component="*", repetition="!", escape="?", subcomponent="$")
    assert unescape("?XC3??XA9?", delimiters) == "é"
    assert unescape("?F??S??T??R??E?\\F\\", delimiters) == "#*$!?\\F\\"


@given(st.sampled_from("\\?0aAX^"), st.text("0aAX1F\\?^", max_size=20))
def test_no_delimiter_of_a_peer_makes_unescaping_fail(mark: str, text: str) -> None:
    unescape(text, Delimiters(escape=mark))

"""HTML taken apart into texts and tags, in one pass. Pure.

Python's own `html.parser` reads the rest again for each construct that is not closed, raises for
some, and reads both differently from one patch version to the next. Here every source is read, in
time that grows with its length; what is no markup is text.

Source: WHATWG HTML, 13.2.5 (tokenization), as far as a reader of text needs it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from enum import Enum, auto

#: No step of it is taken back (`*+`), so a failure costs what was read once. A quote that is not
#: closed is a character like any other.
_TAG = re.compile(r"""</?([a-zA-Z][^\s/>]*+)(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+>""")
#: The same, a quote being nothing special.
_BLIND_TAG = re.compile(r"</?([a-zA-Z][^\s/>]*+)[^>]*+>")
_EMPTY_COMMENT = re.compile(r"<!---?>")
_COMMENT_END = re.compile(r"--!?>")
#: A declaration, an instruction, an end tag without a name: nobody sees them.
_BOGUS = re.compile(r"<(?:[!?]|/[^a-zA-Z])")
#: Elements whose content is not HTML; none of it is shown.
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
#: More digits than any character has. `int` refuses thousands of them.
_LONG_NUMBER = re.compile(r"&#([0-9]{8,})")


class Kind(Enum):
    """What a token is."""

    TEXT = auto()
    START = auto()
    END = auto()
    #: the rest is not shown, as an element that hides its content is not closed
    LOST = auto()


Token = tuple[Kind, str]


def tokens(source: str) -> Iterator[Token]:
    """Its texts, without references to characters, and its tags, by their names in small letters.

    A tag that closes itself is START and END.
    """
    # Behind the last `>` nothing can be a tag.
    end = source.rfind(">") + 1
    scan = _Scan(source)
    at = 0
    while at < end:
        found = source.find("<", at, end)
        if found < 0:
            break
        if found > at:
            yield Kind.TEXT, _text(source[at:found])
        at, said = scan.markup(found)
        yield from said
    if at < len(source):
        yield Kind.TEXT, _text(source[at:])


class _Scan:
    """Reads what begins with `<`, and knows what it need not look for again."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._has_comment_end = True
        self._tag = _TAG

    def markup(self, at: int) -> tuple[int, list[Token]]:
        """Where the source goes on behind it, and what it was.

        Args:
            at: Of a `<`, with a `>` somewhere behind it.
        """
        if self._source.startswith("<!--", at):
            return self._comment(at)
        if _BOGUS.match(self._source, at):
            return self._source.index(">", at) + 1, []
        tag = self._tag.match(self._source, at) or _BLIND_TAG.match(self._source, at)
        if tag is None:
            return at + 1, [(Kind.TEXT, "<")]
        if tag.re is not self._tag:
            # Its quotes lead to the end. To follow those of every tag would be quadratic.
            self._tag = _BLIND_TAG
        return self._element(tag)

    def _comment(self, at: int) -> tuple[int, list[Token]]:
        end = _EMPTY_COMMENT.match(self._source, at)
        if end is None and self._has_comment_end:
            end = _COMMENT_END.search(self._source, at + 4)
        if end is not None:
            return end.end(), []
        self._has_comment_end = False
        # A browser hides the rest. It may be the report.
        return at + 1, [(Kind.TEXT, "<")]

    def _element(self, tag: re.Match[str]) -> tuple[int, list[Token]]:
        name, end = tag[1].lower(), tag.end()
        if tag[0].startswith("</"):
            return end, [(Kind.END, name)]
        if tag[0].endswith("/>"):
            return end, [(Kind.START, name), (Kind.END, name)]
        if name in _RAW_END:
            return self._raw(name, end)
        return end, [(Kind.START, name)]

    def _raw(self, name: str, at: int) -> tuple[int, list[Token]]:
        """What is neither shown nor read, to its end tag."""
        close = _RAW_END[name].search(self._source, at)
        end = self._source.find(">", close.end()) + 1 if close else 0
        if end:
            return end, [(Kind.START, name), (Kind.END, name)]
        lost = [(Kind.LOST, name)] if self._source[at:].strip() else []
        return len(self._source), [(Kind.START, name), *lost]


def _text(data: str) -> str:
    """Text without references to characters."""
    if "&" not in data:
        return data
    return html.unescape(_LONG_NUMBER.sub(_short_number, data))


def _short_number(match: re.Match[str]) -> str:
    digits = match[1].lstrip("0") or "0"
    # What is too large is the replacement character, as any number that is no character.
    return f"&#{digits if len(digits) < 8 else 9_999_999}"

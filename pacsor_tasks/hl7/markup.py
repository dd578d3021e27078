"""HTML as RISs show it, from text and back. Pure.

Source: contract §2.7 (2.5.1: formatting kept, no indentation).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

from pacsor_tasks.hl7.tags import Kind, Token, tokens

_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANK_LINES = re.compile(r"\n{2,}")
_SPACES = re.compile(r"[ \t\r\n\f]+")
#: Elements that begin and end a line.
_BLOCKS = frozenset(
    {
        "address", "article", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figure", "footer",
        "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p",
        "pre", "section", "table", "tr", "ul",
    }
)  # fmt: skip
#: What a head may have in it. Its end tag may be left out: any other element ends it, or a text.
_OF_A_HEAD = frozenset(
    {"base", "head", "html", "link", "meta", "noscript", "script", "style", "template", "title"}
)
_PRE = re.compile(r"(?i)<pre\b")
_PRE_END = re.compile(r"(?i)</pre>")
#: Controls, and what has no width: zero-width spaces, byte order marks.
_UNSEEN = frozenset({"Cc", "Cf"})


def from_text(text: str) -> str:
    """Text as paragraphs; a single line end is a `<br>`."""
    lines = _LINE_END.sub("\n", text).strip("\n")
    paragraphs = (part.strip("\n") for part in re.split(r"\n[ \t]*\n", lines))
    return "".join(
        f"<p>{html.escape(part, quote=False).replace(chr(10), '<br>')}</p>"
        for part in paragraphs
        if part.strip()
    )


def inline(text: str) -> str:
    """Text for the inside of an element, on one line."""
    return html.escape(_SPACES.sub(" ", text).strip(), quote=False)


def without_indentation(source: str) -> str:
    """The same HTML with no blanks at the beginning or end of its lines and no blank lines.

    What stands in `<pre>` stays as it is.
    """
    text, kept = _put_aside(_LINE_END.sub("\n", source).replace("\0", ""))
    text = "\n".join(line.strip(" \t") for line in text.split("\n"))
    text = _BLANK_LINES.sub("\n", text).strip("\n")
    return re.sub(r"<pre\x00([0-9]+)>", lambda match: kept[int(match[1])], text)


def _put_aside(source: str) -> tuple[str, list[str]]:
    """The source with a mark for each `<pre>…</pre>`, and these."""
    kept: list[str] = []
    pieces: list[str] = []
    at = 0
    while (begin := _PRE.search(source, at)) and (end := _PRE_END.search(source, begin.end())):
        pieces += [source[at : begin.start()], f"<pre\x00{len(kept)}>"]
        kept.append(source[begin.start() : end.end()])
        at = end.end()
    return "".join([*pieces, source[at:]]), kept


def to_text(source: str) -> str:
    """What a reader sees of it, a line per block. Takes any source; what is no markup is text."""
    reader = _Reader()
    for kind, value in _shown(source):
        reader.take(kind, value)
    lines = "".join(reader.parts).split("\n")
    text = "\n".join(line.strip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def is_blank(text: str) -> bool:
    """Whether a text has nothing to see. Looks no further than the first letter."""
    return all(c.isspace() or unicodedata.category(c) in _UNSEEN for c in text)


def shows_text(source: str) -> bool:
    """Whether a reader of the HTML sees a letter. Looks no further than the first one."""
    return any(kind is Kind.TEXT and not is_blank(value) for kind, value in _shown(source))


def loses_text(source: str) -> bool:
    """Whether the end of it is hidden, by an element that is not closed."""
    return any(kind is Kind.LOST for kind, _ in _shown(source))


def _shown(source: str) -> Iterator[Token]:
    """Its tokens without those of heads and templates."""
    templates, head, hidden = 0, _Head(), False
    for kind, value in tokens(source):
        if kind is not Kind.TEXT and value == "template":
            templates = templates + 1 if kind is Kind.START else max(0, templates - 1)
            hidden = hidden and bool(templates)
        elif templates:
            hidden = hidden or (kind is Kind.TEXT and not is_blank(value))
        elif kind is Kind.LOST or not head.hides(kind, value):
            yield kind, value
    if hidden:
        yield Kind.LOST, "template"
    if head.has_open_title:
        yield Kind.LOST, "title"


class _Head:
    """Whether the head goes on."""

    def __init__(self) -> None:
        self._is_open = False
        self._is_in_title = False
        self.has_open_title = False

    def hides(self, kind: Kind, value: str) -> bool:
        """Whether a token is of the head, and not shown."""
        if kind is Kind.TEXT:
            self._read(value)
        elif value == "head":
            self._turn(is_open=kind is Kind.START)
            return True
        elif self._is_open and value == "title":
            self._is_in_title = kind is Kind.START
            self.has_open_title = self.has_open_title and self._is_in_title
        elif kind is Kind.START and value not in _OF_A_HEAD:
            self._turn(is_open=False)
        return self._is_open

    def _read(self, text: str) -> None:
        if not self._is_open or is_blank(text):
            return
        if self._is_in_title:
            self.has_open_title = True
        else:
            self._turn(is_open=False)

    def _turn(self, *, is_open: bool) -> None:
        self._is_open = is_open
        self._is_in_title = self.has_open_title = False


class _Reader:
    """Collects text; block elements become line ends."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def take(self, kind: Kind, value: str) -> None:
        """Go on with a token that is shown."""
        if kind is Kind.TEXT:
            self._data(value)
        elif value in _BLOCKS:
            self._begin_line()
            if kind is Kind.START and value == "li":
                self.parts.append("- ")
        elif kind is Kind.START and value == "br":
            self.parts.append("\n")
        elif kind is Kind.START and value in {"td", "th"} and not self._is_at_begin():
            self.parts.append("\t")

    def _data(self, data: str) -> None:
        text = _SPACES.sub(" ", data)
        if text.strip() or (self.parts and not self.parts[-1].endswith(("\n", " "))):
            self.parts.append(text)

    def _begin_line(self) -> None:
        if not self._is_at_begin():
            self.parts.append("\n")

    def _is_at_begin(self) -> bool:
        return not self.parts or self.parts[-1].endswith("\n")

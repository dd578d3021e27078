"""HTML as RISs show it, from text and back. Pure.

Source: contract §2.7 (2.5.1: formatting kept, no indentation).
"""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

_LINE_END = re.compile(r"\r\n|\r|\n")
_INDENTATION = re.compile(r"(?m)^[ \t]+|[ \t]+$")
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
#: Elements whose content is not shown.
_HIDDEN = frozenset({"script", "style", "head", "template"})
_PREFORMATTED = re.compile(r"(?is)<pre\b.*?</pre>")


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
    kept: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"<pre\x00{len(kept) - 1}>"

    text = _PREFORMATTED.sub(put_aside, _LINE_END.sub("\n", source).replace("\0", ""))
    text = _BLANK_LINES.sub("\n", _INDENTATION.sub("", text)).strip("\n")
    return re.sub(r"<pre\x00([0-9]+)>", lambda match: kept[int(match[1])], text)


def to_text(source: str) -> str:
    """What a reader sees of it, a line per block."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    lines = "".join(reader.parts).split("\n")
    text = "\n".join(line.strip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class _Reader(HTMLParser):
    """Collects text; block elements become line ends."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "br":
            self.parts.append("\n")
        elif tag in _BLOCKS:
            self._begin_line()
            if tag == "li":
                self.parts.append("- ")
        elif tag in {"td", "th"} and self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append("\t")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _BLOCKS:
            self._begin_line()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            text = _SPACES.sub(" ", data)
            if text.strip() or (self.parts and not self.parts[-1].endswith(("\n", " "))):
                self.parts.append(text)

    def _begin_line(self) -> None:
        if self.parts and not self.parts[-1].endswith("\n"):
            self.parts.append("\n")

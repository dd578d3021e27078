"""HL7 escaping: text becomes characters that can stand in a field without breaking the message.

`Er7` marks text that is already encoded, so mypy sees a value escaped twice or not at all.
Source: contract §3.3; HL7 v2.5.1 chapter 2.7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType

#: Text in HL7's vertical-bar encoding: escaped, no control characters, ready for the wire.
Er7 = NewType("Er7", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delimiters:
    """The five characters of MSH-1 and MSH-2 that give a message its structure."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


STANDARD_DELIMITERS = Delimiters()

#: What stands for the control characters that text may hold: PACSOR's forms.
HEXADECIMAL: Mapping[str, str] = {"\r": "\\X0D\\", "\n": "\\X0A\\", "\t": "\\X09\\"}
#: The standard's own, for formatted text (FT).
FORMATTED: Mapping[str, str] = {
    "\r\n": "\\.br\\", "\r": "\\.br\\", "\n": "\\.br\\", "\t": "\\X09\\",
}  # fmt: skip
_DELIMITERS = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
# The C0 and C1 controls, but for CR, LF and TAB: the MLLP frame bytes 0x0B and 0x1C among them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# JSON can carry half of a surrogate pair, which UTF-8 cannot.
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_ASCII_CONTROLS = bytes(c for c in (*range(32), 127) if c not in b"\t\r\n")
_C1_ENCODED = re.compile(rb"\xc2[\x80-\x9f]")
#: What makes a text differ from its encoding.
_SPECIAL = re.compile(r"[\x00-\x1f\x7f-\x9f\\|^&~\ud800-\udfff]")


def clean(text: str) -> str:
    """Drop what no field can carry: control characters, except CR, LF and TAB.

    Returns:
        The text an unescaping receiver reads. Lone surrogates become U+FFFD.
    """
    if text.isprintable():
        return text
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def clean_bytes(text: str) -> bytes:
    """The same as UTF-8; quick for reports of megabytes."""
    try:
        encoded = text.encode("utf-8").translate(None, _ASCII_CONTROLS)
    except UnicodeEncodeError:
        return clean(text).encode("utf-8")
    return _C1_ENCODED.sub(b"", encoded) if b"\xc2" in encoded else encoded


def escape(text: str, controls: Mapping[str, str] = HEXADECIMAL) -> Er7:
    r"""Encode one value: delimiters as `\F\` and its like, then CR, LF and TAB.

    Args:
        text: Plain.
        controls: What stands for CR, LF, TAB, and for CR LF where that is one line end. What it
            leaves out is written in hexadecimal.
    """
    if not _SPECIAL.search(text):
        return Er7(text)  # nearly always
    pattern, encoded = _table(tuple(controls.items()))
    return Er7(pattern.sub(lambda match: encoded[match[0]], clean(text)))


def escape_components(text: str, controls: Mapping[str, str] = HEXADECIMAL) -> Er7:
    """Encode a value whose `^` already separates HL7 components, such as a DICOM person name."""
    return Er7("^".join(escape(part, controls) for part in text.split("^")))


@lru_cache(maxsize=64)
def _table(controls: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    encoded = {**_DELIMITERS, **HEXADECIMAL, **dict(controls)}
    longest_first = sorted(encoded, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))), encoded


def unescape(text: str, delimiters: Delimiters = STANDARD_DELIMITERS) -> str:
    r"""The text a field stands for. A sequence that is not known stays as it is.

    Args:
        text: One field or component as it stood in the message.
        delimiters: The message's own.
    """
    mark = re.escape(delimiters.escape)
    meanings = {
        "E": delimiters.escape,
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        ".br": "\n",
    }

    in_hexadecimal = f"{mark}X((?:[0-9A-Fa-f]{{2}})+){mark}"

    def meaning(match: re.Match[str]) -> str:
        if match["bytes"]:
            digits = "".join(re.findall(in_hexadecimal, match["bytes"]))
            return bytes.fromhex(digits).decode("utf-8", "replace")
        return meanings.get(match["one"], match[0])

    # Some peers write each byte of a character as a sequence of its own.
    sequence = f"(?P<bytes>(?:{in_hexadecimal})+)|{mark}(?P<one>[^{mark}]*){mark}"
    return re.sub(sequence, meaning, text)

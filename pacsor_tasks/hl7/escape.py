"""HL7 escaping: text becomes characters that can stand in a field without breaking the message.

`Er7` marks text that is already encoded, so mypy sees a value escaped twice or not at all.
Source: contract §3.3; HL7 v2.5.1 chapter 2.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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

_ESCAPES = str.maketrans(
    {
        "\\": "\\E\\",
        "|": "\\F\\",
        "^": "\\S\\",
        "&": "\\T\\",
        "~": "\\R\\",
        "\r": "\\X0D\\",
        "\n": "\\X0A\\",
        "\t": "\\X09\\",
    }
)
# The C0 and C1 controls, but for CR, LF and TAB: the MLLP frame bytes 0x0B and 0x1C among them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# JSON can carry half of a surrogate pair, which UTF-8 cannot.
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def clean(text: str) -> str:
    """Drop what no field can carry: control characters, except CR, LF and TAB.

    Returns:
        The text an unescaping receiver reads. Lone surrogates become U+FFFD.
    """
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def escape(text: str) -> Er7:
    r"""Encode one value: delimiters as `\F\` and its like, CR, LF and TAB in hexadecimal."""
    return Er7(clean(text).translate(_ESCAPES))


def escape_components(text: str) -> Er7:
    """Encode a value whose `^` already separates HL7 components, such as a DICOM person name."""
    return Er7("^".join(escape(part) for part in text.split("^")))


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

    def meaning(match: re.Match[str]) -> str:
        sequence = match[1]
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", sequence):
            return bytes.fromhex(sequence[1:]).decode("utf-8", "replace")
        return meanings.get(sequence, match[0])

    return re.sub(f"{mark}([^{mark}]*){mark}", meaning, text)

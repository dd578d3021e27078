"""Acknowledgements: what a RIS said of the message, and what that means for its delivery.

| MSA-1 | meaning | raises |
|---|---|---|
| AA, CA | it has the message | nothing |
| AE, CE | an error there; may pass | `AckError` (retryable; the caller bounds the tries) |
| AR, CR | it will not take this message | `AckRejected` (permanent) |
| other, unreadable, or of another message | we do not know | `AckMismatch` (retryable) |

Source: contract §3.4; HL7 v2.5.1 §2.9, §2.15.8 (MSA), §2.15.5 (ERR), table 0008.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pacsor_tasks.errors import Rejected, Retryable
from pacsor_tasks.hl7.escape import Delimiters, clean, unescape

ACCEPTED = frozenset({"AA", "CA"})
MAX_TEXT = 200
MAX_ERRORS = 10
_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANK = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """An acknowledgement. `text` is the peer's and may hold patient data: show it, never log it."""

    #: MSA-1
    code: str
    #: MSA-2: MSH-10 of the message it answers
    control_id: str
    #: MSA-3, on one line, at most 200 characters
    text: str
    #: ERR-3 and ERR-4 of each ERR segment, e.g. `207 E`
    errors: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for the operator: the code and the reason given."""
        if self.code in ACCEPTED and not self.text:
            return self.code
        reason = self.text or "no reason given"
        errors = f" [ERR {', '.join(self.errors)}]" if self.errors else ""
        return f"{self.code}: {reason}{errors}"


class AckMismatch(Retryable):
    """What came back does not acknowledge this message: send it again, with the same MSH-10."""


class AckError(Retryable):
    """AE or CE: the RIS could not process the message. Worth a bounded number of tries."""

    is_loggable = False
    #: over about half an hour: an application error rarely heals by itself
    max_attempts = 20

    def __init__(self, ack: Ack) -> None:
        super().__init__(f"the RIS answered {ack}")
        self.ack = ack


class AckRejected(Rejected):
    """AR or CR: the RIS refuses the message; it would refuse it again."""

    is_loggable = False

    def __init__(self, ack: Ack) -> None:
        super().__init__(f"the RIS answered {ack}")
        self.ack = ack


def check(data: bytes, control_id: str) -> Ack:
    """Return the acknowledgement if it says that the RIS has our message.

    Args:
        data: What came back, without MLLP frame.
        control_id: MSH-10 of the message sent.

    Raises:
        AckMismatch: No acknowledgement, not of this message, or an unknown code.
        AckError: AE or CE.
        AckRejected: AR or CR.
    """
    ack = parse_ack(data)
    if ack.control_id != control_id:
        raise AckMismatch("the acknowledgement is of another message (MSA-2 is not our MSH-10)")
    if ack.code in ACCEPTED:
        return ack
    if ack.code in {"AE", "CE"}:
        raise AckError(ack)
    if ack.code in {"AR", "CR"}:
        raise AckRejected(ack)
    raise AckMismatch("the acknowledgement has no known code in MSA-1")


def parse_ack(data: bytes) -> Ack:
    """Read an acknowledgement as peers write them.

    Any line ends, a missing last one, any delimiters, and UTF-8 or else Latin-1 are accepted.

    Raises:
        AckMismatch: Not an HL7 message, or one without MSA.
    """
    segments = [line for line in _LINE_END.split(decoded(data)) if line.strip()]
    header = segments[0].lstrip() if segments else ""
    if not header.startswith("MSH") or len(header) < 4 or header[3].isalnum():
        raise AckMismatch("the answer is not an HL7 message")
    delimiters = delimiters_of(header)
    rows = [segment.strip().split(delimiters.field) for segment in segments]
    msa = next((row for row in rows if row[0] == "MSA"), None)
    if msa is None:
        raise AckMismatch("the answer has no MSA segment")
    errors = (_error(row, delimiters) for row in rows if row[0] == "ERR")
    return Ack(
        code=_at(msa, 1).upper(),
        control_id=unescape(_at(msa, 2), delimiters),
        text=_one_line(unescape(_at(msa, 3), delimiters), MAX_TEXT),
        errors=tuple(error for error in errors if error)[:MAX_ERRORS],
    )


def decoded(data: bytes) -> str:
    """What a peer sent as text: UTF-8, or else Latin-1."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def delimiters_of(header: str) -> Delimiters:
    """Those that an MSH segment names; the standard's where it names none."""
    standard = Delimiters()
    given = header[4:].split(header[3], 1)[0]
    component, repetition, escape, subcomponent = (
        given[i : i + 1] or getattr(standard, name)
        for i, name in enumerate(("component", "repetition", "escape", "subcomponent"))
    )
    return Delimiters(
        field=header[3],
        component=component,
        repetition=repetition,
        escape=escape,
        subcomponent=subcomponent,
    )


def _error(row: list[str], delimiters: Delimiters) -> str:
    """Code and severity. The other fields may quote what was wrong: patient data."""
    code = _at(row, 3).split(delimiters.component)[0]
    if not code:
        # Before v2.5: ERR-1 is segment^sequence^field^code.
        parts = _at(row, 1).split(delimiters.component)
        code = parts[3].split(delimiters.subcomponent)[0] if len(parts) > 3 else ""
    return _one_line(f"{_one_line(code, 20)} {_one_line(_at(row, 4), 2)}", 23)


def _at(row: list[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _one_line(text: str, limit: int) -> str:
    return _BLANK.sub(" ", clean(text)).strip()[:limit]

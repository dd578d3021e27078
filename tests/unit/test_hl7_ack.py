"""Acknowledgements as peers write them, and what each means."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.errors import Permanent, Rejected, Retryable
from pacsor_tasks.hl7.ack import Ack, AckError, AckMismatch, AckRejected, check, parse_ack

MSH = "MSH|^~\\&|RIS|SITE|GW|MILVUE|20260619143016||ACK^R01^ACK|A1|P|2.5.1"


def answer(*segments: str, end: str = "\r") -> bytes:
    return "".join(segment + end for segment in (MSH, *segments)).encode()


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("as the standard", answer("MSA|AA|GW1")),
        ("no last CR", answer("MSA|AA|GW1").rstrip(b"\r")),
        ("line feeds", answer("MSA|AA|GW1", end="\n")),
        ("both", answer("MSA|AA|GW1", end="\r\n")),
        ("blank lines", b"\r\n" + answer("MSA|AA|GW1", end="\r\n\r\n")),
        ("a byte order mark", b"\xef\xbb\xbf" + answer("MSA|AA|GW1")),
        ("blanks around", answer(" MSA| AA |GW1 |")),
        ("small letters", answer("MSA|aa|GW1")),
        ("own delimiters", b"MSH#*!?$#RIS\rMSA#AA#GW1\r"),
        ("no encoding characters", b"MSH|\rMSA|AA|GW1\r"),
        ("a segment between", answer("SFT|x", "MSA|AA|GW1", "ERR|")),
        ("as simple-hl7: v2.3", b"MSH|^~\\&|R|S|G|M|2026||ACK|A1|P|2.3\rMSA|AA|GW1"),
    ],
)
def test_an_acceptance_is_recognised(what: str, data: bytes) -> None:
    assert check(data, "GW1") == Ack(code="AA", control_id="GW1", text="")


@pytest.mark.parametrize(
    ("code", "error", "policy"),
    [
        ("AE", AckError, Retryable),
        ("CE", AckError, Retryable),
        ("AR", AckRejected, Rejected),
        ("CR", AckRejected, Permanent),
    ],
)
def test_a_refusal_carries_the_reason(
    code: str, error: type[AckError | AckRejected], policy: type[Exception]
) -> None:
    data = answer(f"MSA|{code}|GW1|Unknown \\T\\ closed\\X0A\\order", "ERR||OBR^1|101^Field|E")
    with pytest.raises((AckError, AckRejected)) as caught:
        check(data, "GW1")
    assert isinstance(caught.value, error)
    assert isinstance(caught.value, policy)
    assert str(caught.value) == f"the RIS answered {code}: Unknown & closed order [ERR 101 E]"
    assert caught.value.ack.errors == ("101 E",)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("nothing", b""),
        ("blank", b"\r\n"),
        ("another protocol", b"HTTP/1.1 200 OK"),
        ("a header cut off", b"MSH"),
        ("a header without delimiter", b"MSHA^~\\&A"),
        ("no MSA", answer("ERR|x")),
        ("MSA before MSH", b"MSA|AA|GW1\r" + answer()),
        ("no control id", answer("MSA|AA")),
        ("an empty control id", answer("MSA|AA|")),
        ("another control id", answer("MSA|AA|GW2")),
        ("a longer control id", answer("MSA|AA|GW11")),
        ("no code", answer("MSA||GW1")),
        ("an unknown code", answer("MSA|OK|GW1")),
        ("a rejection of another message", answer("MSA|AR|GW2")),
    ],
)
def test_what_does_not_acknowledge_the_message_is_a_mismatch(what: str, data: bytes) -> None:
    with pytest.raises(AckMismatch) as caught:
        check(data, "GW1")
    assert isinstance(caught.value, Retryable)
    assert not isinstance(caught.value, AckError)


def test_text_that_is_not_utf_8_is_read_as_latin_1() -> None:
    data = MSH.encode() + b"\rMSA|AE|GW1|dossier ferm\xe9\r"
    assert parse_ack(data).text == "dossier fermé"


def test_what_a_peer_writes_is_bounded_and_on_one_line() -> None:
    errors = [f"ERR|||{'9' * 500}|E" for _ in range(50)]
    ack = parse_ack(answer("MSA|AR|GW1|" + "a\x1b[2J\\X0D\\" * 1000, *errors))
    assert len(ack.text) <= 200
    assert ack.text.isprintable()
    assert len(ack.errors) == 10
    assert len(str(ack)) < 600


def test_only_the_codes_of_an_error_segment_are_kept() -> None:
    ack = parse_ack(
        answer(
            "MSA|AE|GW1",
            "ERR||PID^1^5|207^Application error^HL70357|E||||LEGRAND is unknown",
            # Before v2.5, and free text where a code should be.
            "ERR|PID^1^5^101&Required field missing",
            "ERR|LEGRAND is unknown",
            "ERR",
        )
    )
    assert ack.errors == ("207 E", "101")
    assert str(ack) == "AE: no reason given [ERR 207 E, 101]"


@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda tail: MSH.encode() + tail)
    | st.binary(min_size=5, max_size=5).map(
        lambda d: (
            b"MSH" + d + d[:1] + b"\rMSA" + d[:1] + b"AA" + d[:1] + b"x" + d[3:4] + b"F" + d[3:4]
        )
    )
)
def test_no_bytes_do_more_than_mismatch(data: bytes) -> None:
    with contextlib.suppress(AckMismatch):
        parse_ack(data)

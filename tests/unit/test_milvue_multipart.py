"""Multipart bodies, cut at every place an answer can be cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.errors import BadResponse, PacsorError
from pacsor_tasks.milvue.media import MediaType
from pacsor_tasks.milvue.multipart import PREAMBLE_LIMIT_BYTES, Truncated, read_parts

Part = tuple[dict[str, str], bytes]


class Collector:
    """Keeps what the parts hold."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.n_finished = 0

    def open(self, headers: Mapping[str, str]) -> Sink:
        return Sink(self, dict(headers))


class Sink:
    def __init__(self, owner: Collector, headers: dict[str, str]) -> None:
        self._owner, self._headers, self._data = owner, headers, bytearray()

    def write(self, data: memoryview, /) -> None:
        self._data += data

    def finish(self) -> None:
        self._owner.n_finished += 1
        self._owner.parts.append((self._headers, bytes(self._data)))


def cut(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def read(body: bytes, boundary: str | None = "BOUND", size: int = 1 << 16) -> list[Part]:
    collector = Collector()
    count = read_parts(cut(body, size), boundary, collector.open)
    assert count == len(collector.parts)
    return collector.parts


DICOM = {"content-type": "application/dicom"}
NEARLY = b"\r\n--BOUN\r\n--BOUN-\r\n\r--BOUND\n--BOUND\r\r\n"
#: body, what is in it, why
SHAPES = [
    pytest.param(
        b"--BOUND\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--BOUND--\r\n",
        [(DICOM, b"DICM")],
        id="one part",
    ),
    pytest.param(
        b"--BOUND\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--BOUND--",
        [(DICOM, b"DICM")],
        id="no line end after the closer",
    ),
    pytest.param(
        b"--BOUND\r\ncontent-TYPE:application/dicom  \r\nX-Y: a: b\r\n\r\n1\r\n"
        b"--BOUND\r\n\r\n2\r\n--BOUND--\r\nepilogue",
        [({**DICOM, "x-y": "a: b"}, b"1"), ({}, b"2")],
        id="headers in any case, a part without any, an epilogue",
    ),
    pytest.param(b"preamble\r\n--BOUND\r\n\r\n1\r\n--BOUND--\r\n", [({}, b"1")], id="a preamble"),
    pytest.param(
        b"\r\n\r\n--BOUND\r\n\r\n1\r\n--BOUND--\r\n", [({}, b"1")], id="blank lines before"
    ),
    pytest.param(
        b"--BOUND \t\r\n\r\n1\r\n--BOUND \r\n\r\n2\r\n--BOUND--",
        [({}, b"1"), ({}, b"2")],
        id="blanks after a delimiter",
    ),
    pytest.param(
        b"--BOUND\r\n\r\n\r\n--BOUND\r\n\r\n\r\n\r\n--BOUND--",
        [({}, b""), ({}, b"\r\n")],
        id="empty parts",
    ),
    pytest.param(
        b"--BOUND\r\n\r\n" + NEARLY + b"\r\n--BOUND--", [({}, NEARLY)], id="almost delimiters"
    ),
    pytest.param(
        b"--BOUNDARY\r\n--BOUND\r\n\r\n1\r\n--BOUND--", [({}, b"1")], id="a longer word before"
    ),
    pytest.param(b"preamble\r\n--BOUND--", [], id="a preamble and the closer"),
    pytest.param(b"--BOUND--\r\n", [], id="only the closer"),
    pytest.param(b"--BOUND--", [], id="only the closer, no line end"),
    pytest.param(b"\r\n--BOUND--\r\n", [], id="only the closer, after a blank line"),
    pytest.param(b"--0123456789abcdef--\r\n", [], id="only the closer of another boundary"),
]


@pytest.mark.parametrize(("body", "parts"), SHAPES)
def test_a_body_reads_the_same_however_it_is_cut(body: bytes, parts: list[Part]) -> None:
    for size in range(1, len(body) + 1):
        assert read(body, size=size) == parts, f"in blocks of {size}"


@pytest.mark.parametrize(
    ("boundary", "closer"),
    [
        (None, b"--" + b"a" * 32 + b"--\r\n"),
        ("x", b"--x--\r\n"),
        ("y" * 70, b"--" + b"y" * 70 + b"--\r\n"),
        ("'()+_,-./:=?", b"--'()+_,-./:=?--"),
    ],
)
def test_an_empty_answer_may_have_a_boundary_of_any_length(
    boundary: str | None, closer: bytes
) -> None:
    assert read(closer, boundary) == []


WHOLE = b"--BOUND\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--BOUND\r\n\r\n2\r\n--BOUND--"


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_body_that_stops_anywhere_before_its_closer_is_truncated(length: int) -> None:
    for size in (1, 7, 1000):
        with pytest.raises(Truncated):
            read(WHOLE[:length], size=size)


@pytest.mark.parametrize(
    ("body", "boundary", "reason"),
    [
        pytest.param(WHOLE, None, "names no boundary", id="no boundary"),
        pytest.param(WHOLE, "z" * 300, "cannot be parsed|ended before", id="boundary too long"),
        pytest.param(
            b"x" * (PREAMBLE_LIMIT_BYTES + 1), "BOUND", "does not contain", id="no multipart at all"
        ),
        pytest.param(b"--BOUND\r\nno header\r\n\r\n", "BOUND", "parsed", id="a bad header"),
        pytest.param(
            b"--BOUND\r\nA: " + b"x" * 100_000 + b"\r\n\r\n--BOUND--",
            "BOUND",
            "parsed",
            id="long header",
        ),
    ],
)
def test_what_is_no_multipart_body_is_a_bad_response(
    body: bytes, boundary: str | None, reason: str
) -> None:
    with pytest.raises((BadResponse, Truncated), match=reason):
        read(body, boundary)


def test_an_error_of_a_sink_comes_out_as_it_is() -> None:
    def refuse(headers: Mapping[str, str]) -> Sink:
        raise BadResponse("wrong part")

    with pytest.raises(BadResponse, match="wrong part"):
        read_parts([WHOLE], "BOUND", refuse)


@given(
    st.lists(st.binary(max_size=60).filter(lambda data: b"--B" not in data), max_size=5),
    st.integers(1, 40),
)
def test_what_was_put_in_comes_out(bodies: list[bytes], size: int) -> None:
    body = b"".join(b"--B\r\nContent-Type: a/b\r\n\r\n" + data + b"\r\n" for data in bodies)
    parts = read(body + b"--B--\r\n", "B", size)
    assert [data for _, data in parts] == bodies


@given(st.binary(max_size=200), st.integers(1, 50))
def test_rubbish_raises_only_our_errors(body: bytes, size: int) -> None:
    with suppress(PacsorError):
        read(b"--B\r\n" + body, "B", size)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json", MediaType("application/json")),
        ("Application/JSON; charset=utf-8", MediaType("application/json")),
        ("multipart/related; boundary=abc", MediaType("multipart/related", "abc")),
        ('multipart/related; boundary="a b;c"', MediaType("multipart/related", "a b;c")),
        ("Multipart/Related;BOUNDARY=AbC", MediaType("multipart/related", "AbC")),
        (
            'multipart/related; type="Application/DICOM"; boundary=x; charset=utf-8',
            MediaType("multipart/related", "x", "application/dicom"),
        ),
        (
            "multipart/related; type=application/dicom; transfer-syntax=*; boundary=x",
            MediaType("multipart/related", "x", "application/dicom"),
        ),
        ("application/dicom; transfer-syntax=*", MediaType("application/dicom")),
        ("application/dicom+gzip;transfer-syntax=*", MediaType("application/dicom+gzip")),
        ("multipart/related; boundary=", MediaType("multipart/related")),
        ("multipart/related; boundary", MediaType("multipart/related")),
        ("", MediaType("")),
        ("nonsense", MediaType("")),
        ("a/b/c", MediaType("")),
        ("; boundary=x", MediaType("")),
    ],
)
def test_media_types_are_read_whatever_their_spelling(value: str, expected: MediaType) -> None:
    assert MediaType.parse(value) == expected


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("application/json", {"is_json"}),
        ("application/problem+json", {"is_json"}),
        ("multipart/related", {"is_multipart"}),
        ("multipart/mixed", {"is_multipart"}),
        ("application/dicom", {"is_dicom"}),
        ("application/dicom+gzip", {"is_dicom", "is_gzipped"}),
        ("text/html", set()),
        ("", set()),
    ],
)
def test_media_types_know_their_kind(name: str, flags: set[str]) -> None:
    media = MediaType(name)
    kinds = ("is_json", "is_multipart", "is_dicom", "is_gzipped")
    assert {kind for kind in kinds if getattr(media, kind)} == flags

"""Putting an answer's frame together from pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.ack import AckMismatch
from pacsor_tasks.hl7.mllp import MAX_ACK_BYTES, Frame

CONTENT = st.binary(max_size=80).filter(lambda data: not set(data) & {0x0B, 0x1C})


@given(CONTENT, st.lists(st.integers(0, 90)), st.sampled_from([b"", b"\r\n", b" \0"]))
def test_a_frame_is_found_however_it_is_cut(content: bytes, cuts: list[int], noise: bytes) -> None:
    data = noise + b"\x0b" + content + b"\x1c\r"
    frame, previous = Frame(), 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        assert not frame.has_last_cr
        frame.feed(data[previous:cut])
        previous = cut
    assert frame.content == content
    assert frame.has_last_cr


def test_the_content_is_known_before_the_last_cr() -> None:
    frame = Frame()
    frame.feed(b"\x0bMSA\x1c")
    assert frame.content == b"MSA"
    assert not frame.has_last_cr
    frame.feed(b"\r")
    assert frame.has_last_cr


@pytest.mark.parametrize(
    "pieces",
    [
        [b"A"],
        [b"\r\n", b"A"],
        [b"\x0bA\x1c\r\x0bB\x1c\r"],
        [b"\x0bA\x1c", b"\r\x0b"],
        [b"\x0bA\x0bB\x1c\r"],
        [b"\x0bA\x1cB"],
        [b"\x0b", b"A" * MAX_ACK_BYTES],
    ],
)
def test_what_is_not_exactly_one_frame_is_refused(pieces: list[bytes]) -> None:
    frame = Frame()
    for piece in pieces[:-1]:
        frame.feed(piece)
    with pytest.raises(AckMismatch):
        frame.feed(pieces[-1])

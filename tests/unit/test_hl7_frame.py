"""Putting an answer's frame together from pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsor_tasks.hl7.ack import AckMismatch
from pacsor_tasks.hl7.frames import MAX_ACK_BYTES, Frames
from tests.support.mllp_peers import framed

CONTENT = st.binary(max_size=80).filter(lambda data: not set(data) & {0x0B, 0x1C})


def acknowledging(code: str, control_id: str = "GW1") -> bytes:
    return f"MSH|^~\\&|R\rMSA|{code}|{control_id}\r".encode()


def fed(*pieces: bytes) -> Frames:
    frames = Frames()
    for piece in pieces:
        frames.feed(piece)
    return frames


@given(CONTENT, st.lists(st.integers(0, 90)), st.sampled_from([b"", b"\r\n", b" \0"]))
def test_a_frame_is_found_however_it_is_cut(content: bytes, cuts: list[int], noise: bytes) -> None:
    data = noise + b"\x0b" + content + b"\x1c\r"
    frames, previous = Frames(), 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        assert not frames.is_whole
        frames.feed(data[previous:cut])
        previous = cut
    assert frames.contents == [content]
    assert frames.is_whole
    assert frames.counting("GW1") == content


@given(st.lists(st.integers(0, 90)))
def test_two_frames_are_found_however_they_are_cut(cuts: list[int]) -> None:
    commit, application = acknowledging("CA"), acknowledging("AR")
    data = framed(commit) + framed(application)
    frames, previous = Frames(), 0
    for cut in [*sorted(cuts), len(data)]:
        frames.feed(data[previous:cut])
        previous = max(previous, min(cut, len(data)))
    assert frames.contents == [commit, application]
    assert frames.is_whole
    assert frames.counting("GW1") == application


def test_the_content_is_known_before_the_last_cr() -> None:
    frames = fed(b"\x0bMSA\x1c")
    assert frames.contents == [b"MSA"]
    assert not frames.is_whole
    frames.feed(b"\r")
    assert frames.is_whole


def test_a_frame_that_has_begun_is_waited_for() -> None:
    frames = fed(b"\x0bA\x1c\r\x0bB")
    assert not frames.is_whole
    with pytest.raises(AckMismatch, match="more than one MLLP frame"):
        frames.counting("GW1")


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        # Enhanced mode: it is there; this is what became of it.
        (("CA", "GW1"), ("AA", "GW1"), 1),
        (("CA", "GW1"), ("AE", "GW1"), 1),
        (("CA", "GW1"), ("AR", "GW1"), 1),
        (("AA", "GW1"), ("CA", "GW1"), 0),
        # One message twice, or two messages?
        (("AA", "GW1"), ("AA", "GW1"), None),
        (("CA", "GW1"), ("CA", "GW1"), None),
        (("AA", "GW1"), ("AR", "GW1"), None),
        (("AR", "GW1"), ("AA", "GW1"), None),
        (("CE", "GW1"), ("AA", "GW1"), None),
        (("CA", "GW1"), ("XX", "GW1"), None),
        (("CA", "GW0"), ("AA", "GW1"), None),
        (("CA", "GW1"), ("AA", "GW0"), None),
        (("CA", ""), ("AA", ""), None),
    ],
)
def test_of_two_acknowledgements_the_applications_counts(
    first: tuple[str, str], second: tuple[str, str], counts: int | None
) -> None:
    contents = [acknowledging(*first), acknowledging(*second)]
    frames = fed(b"".join(framed(content) for content in contents))
    if counts is None:
        with pytest.raises(AckMismatch):
            frames.counting("GW1")
    else:
        assert frames.counting("GW1") == contents[counts]
    with pytest.raises(AckMismatch):
        frames.counting("")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"A"],
        [b"\r\n", b"A"],
        [b"\x0bA\x1c\r\x0bB\x1c\r\x0bC\x1c\r"],
        [b"\x0bA\x0bB\x1c\r"],
        [b"\x0bA\x1cB"],
        [b"\x0bA\x1c", b"\rB"],
        [b"\x0b", b"A" * MAX_ACK_BYTES],
        [framed(b"A"), b"\x0b", b"A" * MAX_ACK_BYTES],
    ],
)
def test_what_is_not_made_of_frames_is_refused(pieces: list[bytes]) -> None:
    frames = fed(*pieces[:-1])
    with pytest.raises(AckMismatch):
        frames.feed(pieces[-1])

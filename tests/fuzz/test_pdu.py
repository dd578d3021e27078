"""The fuzz targets for a bounded time: PACSOR_FUZZ_SECONDS each, 3 by default."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.engine import load
from tests.fuzz.pdu import CORPUS, fuzz, inbound_target, parser_target, pour_target, seeds
from tests.support import raw_dicom as raw
from tests.support.instances import encode, make_dataset

SECONDS = float(os.environ.get("PACSOR_FUZZ_SECONDS", "3"))
DATA_SET = encode(make_dataset(PixelData=b"\1\2" * 50, SOPInstanceUID="1.2.3.4"))


@pytest.mark.parametrize("target", [parser_target, inbound_target, pour_target])
def test_what_was_found_before_is_still_taken(target) -> None:
    for data in [*seeds(), *load(CORPUS)]:
        target(data)


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", ["parser", "inbound", "pour", "receiver"])
def test_random_streams_do_no_harm(name: str) -> None:
    assert fuzz(name, SECONDS, random.randrange(1 << 30)).n_runs > 20


def fragments(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, the rest in one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


sizes = st.lists(st.integers(0, 40), max_size=6)
lengths = st.one_of(st.none(), st.sampled_from([0, 1, 2, 5, 6, 0xFFFFFFFF]), st.integers(0, 300))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A C-STORE, or nearly one: fragments as they like, several to a PDU, a length that lies."""
    pdvs = []
    command = raw.store_rq("1.2.3.4", leave_out=draw(st.sets(st.sampled_from([2, 0x100, 0x800]))))
    for control, data in ((raw.COMMAND, command), (0, DATA_SET)):
        pieces = fragments(data, draw(sizes))
        for n, piece in enumerate(pieces):
            is_last = n == len(pieces) - 1
            length = draw(lengths) if draw(st.integers(0, 30)) == 0 else None
            pdvs.append(raw.pdv(control | (raw.LAST if is_last else 0), piece, length=length))
    stream, at = b"", 0
    for size in draw(st.lists(st.integers(1, 4), max_size=8)):
        stream += raw.pdu(raw.P_DATA, b"".join(pdvs[at : at + size]))
        at += size
    return stream + raw.pdu(raw.P_DATA, b"".join(pdvs[at:]))


@settings(deadline=None, max_examples=150)
@given(st.lists(messages(), max_size=3), st.integers(0, 255))
def test_messages_however_fragmented_do_no_harm(sent: list[bytes], how: int) -> None:
    data = bytes((how,)) + b"".join(sent)
    parser_target(data)
    inbound_target(data)
    pour_target(data)

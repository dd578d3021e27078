"""C-STOREs that a lane takes: the same files and answers as without it, whatever comes."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.native import native
from receiver.durability import Durability
from receiver.inbound import Accepted
from receiver.lane import MOST_MISSES
from tests.support import raw_dicom as raw
from tests.support.instances import CR, encode, make_dataset
from tests.support.lanes import Served, Way

pytestmark = pytest.mark.skipif(native is None, reason="nothing is compiled")

CT = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS = {
    1: Accepted(CR, ExplicitVRLittleEndian),
    3: Accepted(CR, ImplicitVRLittleEndian),
    5: Accepted(CT, ExplicitVRLittleEndian),
    7: Accepted(CR, ExplicitVRBigEndian),
}
STUDIES = ["1.2.3", "1.2.4"]


@cache
def data_set(context_id: int, uid: str, study_uid: str = STUDIES[0], n_bytes: int = 300) -> bytes:
    syntax = CONTEXTS[context_id].transfer_syntax_uid
    made = make_dataset(
        study_uid,
        SOPInstanceUID=uid,
        SOPClassUID=CONTEXTS[context_id].abstract_syntax_uid,
        SeriesInstanceUID=f"{study_uid}.1",
        PixelData=random.Random(uid).randbytes(n_bytes),
    )
    return encode(
        made,
        implicit=syntax == ImplicitVRLittleEndian,
        little=syntax != ExplicitVRBigEndian,
    )


def message(
    context_id: int,
    uid: str,
    data: bytes,
    *,
    sizes: tuple[int, ...] = (),
    per_pdu: int = 1,
    leave_out: tuple[int, ...] = (),
    padding: tuple[str, str] = ("", ""),
    comment: int = 0,
) -> bytes:
    """A C-STORE.

    Args:
        context_id: The context it comes in.
        uid: Of the instance, in the command.
        data: The data set.
        sizes: Of its PDVs, as far as it goes; one more has the rest. Without data if one is 0.
        per_pdu: PDVs in a PDU.
        leave_out: Elements of the command.
        padding: Of the command's class and instance UID.
        comment: Bytes of one more element of the command.
    """
    command = raw.store_rq(
        uid + padding[1],
        7,
        sop_class_uid=CONTEXTS[context_id].abstract_syntax_uid + padding[0],
        leave_out=leave_out,
        add=[raw.element(0x1031, b"C" * comment)] if comment else (),
    )
    pieces, at = [], 0
    for size in sizes:
        if size and at >= len(data):
            break
        pieces.append(data[at : at + size])
        at += size
    if at < len(data) or not pieces or 0 in sizes:
        pieces.append(data[at:])
    pdvs = [raw.pdv(raw.COMMAND | raw.LAST, command, context_id=context_id)]
    pdvs += [
        raw.pdv(raw.LAST if n == len(pieces) - 1 else 0, piece, context_id=context_id)
        for n, piece in enumerate(pieces)
    ]
    return b"".join(
        raw.pdu(raw.P_DATA, b"".join(pdvs[n : n + per_pdu])) for n in range(0, len(pdvs), per_pdu)
    )


def sequence(tag: tuple[int, int]) -> bytes:
    """A sequence of undefined length with one empty item, explicit VR little endian."""
    head = struct.pack("<HH2sHI", *tag, b"SQ", 0, 0xFFFFFFFF)
    return head + struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


#: What may be wrong, or only not plain, with a data set: its bytes, as they are sent.
ODDITIES: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "a byte lacks": lambda data: data[:-1],
    "half of it lacks": lambda data: data[: len(data) // 2],
    "padding follows": lambda data: data + bytes(6),
    "rubbish follows": lambda data: data + b"rubbish, not an element",
    "a sequence follows": lambda data: data + sequence((0x7FE1, 0x1010)),
    "an element follows": lambda data: data + struct.pack("<HH2sH", 0x7FE1, 0x10, b"LO", 2) + b"A ",
    "it is of another instance": lambda data: data.replace(b"1.9.1", b"1.9.8"),
    "it is of another study": lambda data: data.replace(b"1.2.3", b"1.2.9"),
    "the study has a leading zero": lambda data: data.replace(b"1.2.3", b"1.02"),
    "the series is no UID": lambda data: data.replace(b"1.2.3.1", b"1.2.3.x"),
    "nothing": lambda _: b"",
    "no data set at all": lambda _: b"\x08\x00\x16\x00",
}


def both(
    root: Path, parts: list[bytes], durability: Durability, n_bytes: int = 5 << 17
) -> tuple[Served, Way]:
    """What came of a stream: the same with a lane and without."""
    way = Way(root / "lane", CONTEXTS, durability, n_bytes=n_bytes)
    served = way.serve(parts)
    without = Way(root / "python", CONTEXTS, durability, has_lane=False, n_bytes=n_bytes)
    expected = without.serve(parts)
    if served.end == "malformed":
        # What came before the fault may have been passed on in parts.
        served.passed = expected.passed = b""
    assert served == expected
    return served, way


def test_all_but_the_first_of_a_study_go_by_the_lane(tmp_path: Path) -> None:
    sent = {f"1.9.{n}": data_set(1, f"1.9.{n}", n_bytes=10 + 3000 * n) for n in range(40)}
    parts = [message(1, uid, data, sizes=(1000,) * 9) for uid, data in sent.items()]
    served, way = both(tmp_path, parts, Durability.GROUP)
    assert (served.n_stored, way.n_by_lane) == (40, 39)
    for uid, data in sent.items():
        path = tmp_path / "lane" / "incoming" / STUDIES[0] / f"{uid}.dcm"
        syntax, start = data_set_offset(path)
        assert (syntax, path.read_bytes()[start:]) == (ExplicitVRLittleEndian, data)
    assert raw.parse_command(served.answers[12:])[0x0900] == b"\0\0"


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("context_id", CONTEXTS)
@pytest.mark.parametrize("sizes", [(), (100, 100)])
def test_what_is_not_plain_is_decided_as_ever(
    tmp_path: Path, oddity: str, context_id: int, sizes: tuple[int, ...]
) -> None:
    uids = [f"1.9.{n}" for n in range(6)]
    odd = ODDITIES[oddity](data_set(context_id, "1.9.1"))
    parts = [message(context_id, uid, data_set(context_id, uid)) for uid in uids]
    parts[1] = message(context_id, "1.9.1", odd, sizes=sizes)
    served, way = both(tmp_path, parts, Durability.NONE)
    assert served.n_stored >= 5
    assert way.n_by_lane >= 3


COMMANDS: dict[str, dict[str, Any]] = {
    "padded": {"padding": ("\0\0\0", " ")},
    "a class padded to more than a UID": {"padding": ("\0" * 300, "")},
    "a class padded to more than an answer": {"padding": (" " * 20_000, "")},
    "an instance padded to more than a UID": {"padding": ("", " " * 300)},
    "an instance padded to more than an answer": {"padding": ("", "\0" * 20_000)},
    "another element": {"comment": 20},
    "a long one": {"comment": 5_000},
    "one that is too long": {"comment": 70_000},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_not_plain_is_answered_as_ever(tmp_path: Path, name: str) -> None:
    parts = [message(1, f"1.9.{n}", data_set(1, f"1.9.{n}")) for n in range(3)]
    parts += [message(1, f"1.9.{n}", data_set(1, f"1.9.{n}"), **COMMANDS[name]) for n in (3, 4)]
    served, way = both(tmp_path, parts, Durability.GROUP)
    assert served.n_stored == (3 if "too long" in name else 5)
    assert way.n_by_lane >= 2


def test_fragments_without_data_are_taken_as_ever(tmp_path: Path) -> None:
    parts = [message(1, "1.9.0", data_set(1, "1.9.0"))]
    data = data_set(1, "1.9.1")
    parts.append(message(1, "1.9.1", data, sizes=(0, len(data), 0)))
    parts.append(message(1, "1.9.2", data_set(1, "1.9.2")))
    served, way = both(tmp_path, parts, Durability.GROUP)
    assert (served.n_stored, way.n_by_lane) == (3, 1)


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("durability", [Durability.NONE, Durability.GROUP])
def test_a_large_one_is_written_while_it_comes_and_judged_as_ever(
    tmp_path: Path, oddity: str, durability: Durability
) -> None:
    uids = [f"1.9.{n}" for n in range(6)]
    sent = {uid: data_set(1, uid, n_bytes=300_000) for uid in uids}
    parts = [message(1, uid, data, sizes=(60_000,) * 5) for uid, data in sent.items()]
    odd = ODDITIES[oddity](sent["1.9.2"].replace(b"1.9.2", b"1.9.1"))
    parts[3] = message(1, "1.9.1", odd, sizes=(60_000,) * 5)
    way = Way(tmp_path / "lane", CONTEXTS, durability, piece_bytes=40_000)
    served = way.serve(parts)
    without = Way(tmp_path / "python", CONTEXTS, durability, has_lane=False, piece_bytes=40_000)
    assert served == without.serve(parts)
    assert way.n_by_lane >= 3


@pytest.mark.parametrize("n_bytes", [70_000, 200_000, 310_000])
def test_a_large_one_that_is_cut_off_leaves_nothing(tmp_path: Path, n_bytes: int) -> None:
    uids = [f"1.9.{n}" for n in range(3)]
    parts = [
        message(1, uid, data_set(1, uid, n_bytes=300_000), sizes=(60_000,) * 5) for uid in uids
    ]
    parts[2] = parts[2][:n_bytes]
    way = Way(tmp_path / "lane", CONTEXTS, piece_bytes=30_000)
    served = way.serve(parts)
    n_whole = 3 if n_bytes > len(parts[1]) else 2
    assert (served.n_stored, way.n_by_lane) == (n_whole, n_whole - 1)
    assert len(served.files) == n_whole


def test_one_that_does_not_fit_and_those_behind_it(tmp_path: Path) -> None:
    sizes = [100, 100, 5000, 100, 100_000, 100, 100]
    parts = [
        message(1, f"1.9.{n}", data_set(1, f"1.9.{n}", n_bytes=size), sizes=(1500,) * 50)
        for n, size in enumerate(sizes)
    ]
    served, way = both(tmp_path, parts, Durability.GROUP, n_bytes=4096)
    assert (served.n_stored, way.n_by_lane) == (7, 4)


def test_what_always_is_too_large_is_no_longer_tried(tmp_path: Path) -> None:
    sizes = [10] + [9000] * 8
    parts = [
        message(1, f"1.9.{n}", data_set(1, f"1.9.{n}", n_bytes=size), sizes=(1500,) * 9)
        for n, size in enumerate(sizes)
    ]
    served, way = both(tmp_path, parts, Durability.GROUP, n_bytes=4096)
    assert (served.n_stored, way.n_by_lane) == (9, 0)
    assert way.n_turns == MOST_MISSES


def test_answers_that_are_not_taken_at_once_come_whole_and_in_order(tmp_path: Path) -> None:
    parts = [message(1, f"1.9.{n}", data_set(1, f"1.9.{n}")) for n in range(100)]
    way = Way(tmp_path / "lane", CONTEXTS, send_bytes=4096)
    served = way.serve(parts)
    assert (served.n_stored, way.n_by_lane) == (100, 99)
    assert way.n_unsent > 3
    assert served == Way(tmp_path / "python", CONTEXTS, has_lane=False).serve(parts)


def test_another_study_class_syntax_and_one_again(tmp_path: Path) -> None:
    order = [(1, 0), (1, 0), (3, 0), (3, 0), (5, 0), (5, 0), (1, 1), (1, 1), (1, 0), (1, 0), (7, 0)]
    parts = [
        message(cx, f"1.9.{n}", data_set(cx, f"1.9.{n}", STUDIES[study]))
        for n, (cx, study) in enumerate(order)
    ]
    parts += [parts[1], parts[0], raw.p_data(raw.COMMAND | raw.LAST, raw.echo_rq()), parts[3]]
    other = message(1, "1.9.1", data_set(1, "1.9.1", n_bytes=400))
    served, way = both(tmp_path, [*parts, other], Durability.GROUP)
    assert len(served.files) == len(order)
    assert served.n_stored == len(order) + 4
    assert way.n_by_lane == 5
    assert served.passed


def test_a_study_that_was_closed_meanwhile_goes_on_in_a_new_directory(tmp_path: Path) -> None:
    incoming, moved = tmp_path / "incoming" / STUDIES[0], tmp_path / "moved"
    parts = [message(1, f"1.9.{n}", data_set(1, f"1.9.{n}")) for n in range(8)]

    class Echoed(Way):
        def pass_on(self, context_id: int, control: int, data: bytes) -> None:
            incoming.rename(moved)

    way = Echoed(tmp_path, CONTEXTS)
    parts.insert(4, raw.p_data(raw.COMMAND | raw.LAST, raw.echo_rq()))
    served = way.serve(parts)
    assert (served.n_stored, way.n_by_lane) == (8, 6)
    assert len(list(moved.glob("*.dcm"))) == len(list(incoming.glob("*.dcm"))) == 4


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Instances as they come and other things, now and then with a byte that is another."""
    parts = []
    for _ in range(draw(st.integers(3, 14))):
        context_id = draw(st.sampled_from([1] * 12 + [3, 3, 5]))
        uid = f"1.9.{draw(st.integers(0, 30))}"
        odd = draw(st.sampled_from(["plain"] * 30 + list(ODDITIES)))
        study_uid = draw(st.sampled_from([STUDIES[0]] * 12 + STUDIES))
        data = ODDITIES[odd](data_set(context_id, uid, study_uid, draw(st.integers(0, 900))))
        part = message(
            context_id,
            uid,
            data,
            sizes=tuple(draw(st.lists(st.integers(180, 400), max_size=3))),
            per_pdu=draw(st.integers(1, 4)),
            leave_out=tuple(
                draw(st.sampled_from([()] * 30 + [(2,), (0x110,), (0x800,), (0x1000,)]))
            ),
        )
        if draw(st.integers(0, 15)) == 0:
            at = draw(st.integers(0, len(part) - 1))
            part = part[:at] + bytes((draw(st.integers(0, 255)),)) + part[at + 1 :]
        if draw(st.integers(0, 9)) == 0:
            parts.append(raw.p_data(raw.COMMAND | raw.LAST, raw.echo_rq()))
        parts.append(part)
        if draw(st.integers(0, 5)) == 0:
            # Two at once, or one in two.
            at = draw(st.integers(0, len(part)))
            parts[-1:] = [part[:at], part[at:]] if draw(st.booleans()) else [part + part]
    return parts


@settings(max_examples=150, deadline=None)
@given(
    streams(),
    st.sampled_from([400, 3000, 5 << 17]),
    st.sampled_from([Durability.NONE, Durability.GROUP, Durability.INSTANCE]),
)
def test_whatever_comes_it_is_the_same(
    parts: list[bytes], n_bytes: int, durability: Durability
) -> None:
    n_files = len(list(Path("/proc/self/fd").iterdir()))
    with tempfile.TemporaryDirectory() as directory:
        both(Path(directory), parts, durability, n_bytes)
    assert len(list(Path("/proc/self/fd").iterdir())) == n_files

"""Peers that no library would be: they cost themselves only.

One receiver meets them all while a good sender goes on sending. After each of them its threads,
files and memory are what they were, and nothing half-written is left.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.instances import CR, encode, make_dataset
from tests.support.net import wait_until
from tests.support.raw_dicom import (
    ABORT,
    ASSOCIATE_AC,
    COMMAND,
    LAST,
    NO_DATA_SET,
    P_DATA,
    RELEASE_RQ,
    RawPeer,
    associate_rq,
    command_set,
    dial,
    echo_rq,
    element,
    p_data,
    pdu,
    pdv,
    raw_peer,
    store_message,
    store_rq,
    uid_element,
    us_element,
)  # fmt: skip
from tests.support.victims import IDLE_S, Victim, unharmed, victim

__all__ = ["unharmed", "victim"]

pytestmark = pytest.mark.xdist_group("bad_peers")


@contextmanager
def half_sent(victim: Victim) -> Iterator[tuple[RawPeer, str]]:
    """A peer that has sent half of an instance, and the instance's UID."""
    dataset = make_dataset(PixelData=bytes(400_000))
    uid = str(dataset.SOPInstanceUID)
    message = store_message(uid, encode(dataset))
    with raw_peer(victim.port) as peer:
        peer.send(message[: len(message) // 2])
        wait_until(lambda: not victim.running.nothing_half_written())
        yield peer, uid
    wait_until(victim.is_unharmed, 15)
    assert not victim.knows(uid)


@pytest.mark.parametrize("end", ["abort", "close", "reset"])
def test_an_end_in_the_middle_of_an_instance_leaves_nothing(victim: Victim, end: str) -> None:
    with half_sent(victim) as (peer, _):
        getattr(peer, end)()


def test_half_an_instance_and_then_silence_is_ended_by_the_idle_timeout(victim: Victim) -> None:
    with half_sent(victim) as (peer, _):
        assert peer.ended(IDLE_S * 5)


def test_a_release_in_the_middle_of_an_instance_leaves_nothing(victim: Victim) -> None:
    dataset = make_dataset()
    with raw_peer(victim.port) as peer:
        peer.send(p_data(COMMAND | LAST, store_rq(dataset.SOPInstanceUID)))
        peer.send(p_data(0, encode(dataset)))
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert peer.ended()
    assert not victim.knows(dataset.SOPInstanceUID)


LIES: dict[str, Callable[[bytes], bytes]] = {
    "PDU longer than its PDV": lambda d: pdu(P_DATA, pdv(0, d), len(d) + 9),
    "PDU shorter than its PDV": lambda d: pdu(P_DATA, pdv(0, d), len(d) - 9),
    "PDU of 4 GB, PDV not": lambda d: pdu(P_DATA, pdv(0, d), 0xFFFFFFFF),
    "PDU and PDV of 4 GB": lambda d: pdu(P_DATA, pdv(0, d, length=0xFFFFFFFB), 0xFFFFFFFF),
    "PDV of 4 GB in a small PDU": lambda d: pdu(P_DATA, pdv(0, d, length=0xFFFFFFFF)),
    "PDV of no length": lambda d: pdu(P_DATA, pdv(0, d, length=0)),
    "PDV of one byte": lambda d: pdu(P_DATA, pdv(0, d, length=1)),
    "PDU of five bytes": lambda d: pdu(P_DATA, bytes(5)),
    "release of 4 GB": lambda d: pdu(RELEASE_RQ, d, 0xFFFFFFFF),
    "abort of 4 GB": lambda d: pdu(ABORT, d, 0xFFFFFFFF),
    "association in an association": lambda d: associate_rq(),
    "association of 4 GB": lambda d: pdu(1, d, 0xFFFFFFFF),
    "PDU of no type": lambda d: pdu(0x42, d),
    "other context": lambda d: p_data(0, d, context_id=3),
    "command in the data set": lambda d: p_data(COMMAND | LAST, store_rq("1.2.3")),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_a_length_or_a_type_ends_the_association(victim: Victim, name: str) -> None:
    dataset = make_dataset()
    raw = encode(dataset)
    with raw_peer(victim.port) as peer:
        peer.send(p_data(COMMAND | LAST, store_rq(dataset.SOPInstanceUID)))
        with suppress(OSError):
            peer.send(LIES[name](raw[: len(raw) // 2]))
            peer.send(p_data(LAST, raw[len(raw) // 2 :]))
        # At once, or when nothing more comes.
        assert peer.ended(IDLE_S * 5)
    assert not victim.knows(dataset.SOPInstanceUID)


def tiny(data: bytes, size: int) -> list[bytes]:
    """PDVs of so many bytes each."""
    starts = range(0, len(data), size)
    return [pdv(LAST if at + size >= len(data) else 0, data[at : at + size]) for at in starts]


ODD_BUT_ALLOWED: dict[str, Callable[[bytes], bytes]] = {
    "a byte in each PDU": lambda d: b"".join(pdu(P_DATA, one) for one in tiny(d, 1)),
    "a byte in each PDV of one PDU": lambda d: pdu(P_DATA, b"".join(tiny(d, 1))),
    "10,000 PDVs in one PDU": lambda d: pdu(
        P_DATA, b"".join([pdv(0, b"") * 9000, *tiny(d, max(1, len(d) // 1000))])
    ),
    "nothing between": lambda d: p_data(0, d[:99]) + p_data(0, b"") * 50 + p_data(LAST, d[99:]),
    "nothing at the end": lambda d: p_data(0, d) + p_data(LAST, b""),
    "nothing in front": lambda d: p_data(0, b"") + p_data(LAST, d),
    "a PDU with nothing in it": lambda d: (
        p_data(0, d[:99]) + pdu(P_DATA, b"") + p_data(LAST, d[99:])
    ),
    "bits that mean nothing": lambda d: p_data(0xFC, d[:99]) + p_data(0xFC | LAST, d[99:]),
    "PDU longer than was agreed": lambda d: p_data(LAST, d),
}


@pytest.mark.parametrize("name", ODD_BUT_ALLOWED)
def test_odd_fragments_make_the_same_instance(victim: Victim, name: str) -> None:
    dataset = make_dataset(PixelData=bytes(range(256)) * (800 if "longer" in name else 8))
    raw, uid = encode(dataset), str(dataset.SOPInstanceUID)
    with raw_peer(victim.port) as peer:
        peer.send(p_data(COMMAND | LAST, store_rq(uid)) + ODD_BUT_ALLOWED[name](raw))
        assert peer.status() == 0x0000
        peer.release()
    assert victim.holds(uid, raw)


@pytest.mark.parametrize("in_one_pdu", [True, False])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_command_may_come_in_pieces(victim: Victim, size: int, in_one_pdu: bool) -> None:
    dataset = make_dataset()
    raw, uid = encode(dataset), str(dataset.SOPInstanceUID)
    command = store_rq(uid)
    starts = range(0, len(command), size)
    pieces = [
        pdv(COMMAND | (LAST if at + size >= len(command) else 0), command[at : at + size])
        for at in starts
    ]
    with raw_peer(victim.port) as peer:
        if in_one_pdu:
            # … together with the data set.
            peer.send(pdu(P_DATA, b"".join([*pieces, pdv(LAST, raw)])))
        else:
            peer.send(b"".join(pdu(P_DATA, piece) for piece in pieces) + p_data(LAST, raw))
        assert peer.status() == 0x0000
    assert victim.holds(uid, raw)


def test_several_instances_in_one_write_are_all_answered(victim: Victim) -> None:
    stored = [make_dataset() for _ in range(20)]
    with raw_peer(victim.port) as peer:
        peer.send(b"".join(store_message(str(d.SOPInstanceUID), encode(d)) for d in stored))
        assert [peer.status() for _ in stored] == [0x0000] * 20


def test_the_end_of_an_instance_behind_another_request_is_not_left_unread(victim: Victim) -> None:
    dataset = make_dataset(PixelData=b"\x00\x01\x00\x00\xff\xff" * 2000)
    message = store_message(str(dataset.SOPInstanceUID), encode(dataset))
    with raw_peer(victim.port) as peer:
        peer.send(p_data(COMMAND | LAST, echo_rq(7)) + message[:-4])
        # It is in the answering of the first that the rest arrives.
        time.sleep(0.02)
        peer.send(message[-4:])
        assert [peer.status(), peer.status()] == [0x0000] * 2


GIVEN = "1.2.3.4"
COMMANDS: dict[str, tuple[bytes, bool]] = {
    # name: (command set, whether the instance is taken)
    "no priority": (store_rq(GIVEN, leave_out=[0x0700]), True),
    "elements more": (
        store_rq(GIVEN, add=[element(0x1030, b"SENDER"), element(0x5555, b"")]),
        True,
    ),
    "no group length": (store_rq(GIVEN)[12:], True),
    "wrong group length": (element(0, struct.pack("<I", 9)) + store_rq(GIVEN)[12:], True),
    "no class": (store_rq(GIVEN, leave_out=[0x0002]), False),
    "no instance": (store_rq(GIVEN, leave_out=[0x1000]), False),
    "no field": (store_rq(GIVEN, leave_out=[0x0100]), False),
    "no message id": (store_rq(GIVEN, leave_out=[0x0110]), False),
    "no data set type": (store_rq(GIVEN, leave_out=[0x0800]), False),
    "data set denied": (
        store_rq(GIVEN, leave_out=[0x0800], add=[us_element(0x0800, NO_DATA_SET)]),
        False,
    ),
    "odd numbers": (
        store_rq(GIVEN, leave_out=[0x0110], add=[element(0x0110, b"\1")]),
        False,
    ),
    "instance of 70,000 bytes": (
        store_rq(GIVEN, leave_out=[0x1000], add=[element(0x1000, b"1" * 70_000)]),
        False,
    ),
    "instance that is a path": (
        store_rq(GIVEN, leave_out=[0x1000], add=[uid_element(0x1000, "../../1.2")]),
        False,
    ),
    "bytes above ASCII": (
        store_rq(GIVEN, leave_out=[0x1000], add=[element(0x1000, b"\xff\xfe1.2")]),
        False,
    ),
    "length beyond the end": (store_rq(GIVEN) + struct.pack("<HHI", 0, 0x5000, 1 << 30), False),
    "cut off": (store_rq(GIVEN)[:-3], False),
    "other group": (store_rq(GIVEN) + struct.pack("<HHI", 8, 0x18, 2) + b"1\0", False),
    "nothing": (b"", False),
    "rubbish": (bytes(range(255)), False),
    "a response": (
        command_set(
            uid_element(0x0002, CR), us_element(0x0100, 0x8001), us_element(0x0120, 1),
            us_element(0x0800, NO_DATA_SET), us_element(0x0900, 0),
        ),
        False,
    ),
    "of a service nobody offers": (
        command_set(
            uid_element(0x0002, CR), us_element(0x0100, 0x0020), us_element(0x0110, 1),
            us_element(0x0700, 0), us_element(0x0800, 1),
        ),
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_not_whole_costs_its_association_at_most(
    victim: Victim, name: str
) -> None:
    dataset = make_dataset()
    uid = str(dataset.SOPInstanceUID)
    command, is_taken = COMMANDS[name]
    raw = encode(dataset)
    # The same length of UID would be chance; so the command is made for this instance here.
    command = _for_instance(command, uid)
    with raw_peer(victim.port) as peer:
        peer.send(p_data(COMMAND | LAST, command) + p_data(LAST, raw))
        try:
            status = peer.status()
        except (EOFError, KeyError, OSError):
            status = None
        peer.abort()
    if is_taken:
        assert status == 0x0000
        assert victim.holds(uid, raw)
    else:
        assert status != 0x0000
        assert not victim.knows(uid)


def _for_instance(command: bytes, uid: str) -> bytes:
    return command.replace(uid_element(0x1000, GIVEN), uid_element(0x1000, uid))


def test_a_data_set_without_a_command_ends_the_association(victim: Victim) -> None:
    with raw_peer(victim.port) as peer:
        peer.send(p_data(LAST, encode(make_dataset())))
        assert peer.ended()


def test_a_context_that_was_not_accepted_ends_the_association(victim: Victim) -> None:
    dataset = make_dataset()
    with dial(victim.port).sock as sock:
        peer = RawPeer(sock)
        assert peer.associate((("1.2.3", ("1.2.840.10008.1.2",)),)) == ASSOCIATE_AC
        assert not peer.accepted
        peer.send(store_message(str(dataset.SOPInstanceUID), encode(dataset)))
        assert peer.ended()
    assert not victim.knows(dataset.SOPInstanceUID)

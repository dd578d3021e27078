"""Which presentation contexts are proposed, and which one an instance goes by."""

from __future__ import annotations

import pytest
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.scu_contexts import alternatives, choose, propose

CR, SC = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.7"
CR_EXPLICIT, CR_IMPLICIT = Pair(CR, ExplicitVRLittleEndian), Pair(CR, ImplicitVRLittleEndian)
CR_J2K, CR_RLE = Pair(CR, JPEG2000Lossless), Pair(CR, RLELossless)
SC_EXPLICIT, SC_IMPLICIT = Pair(SC, ExplicitVRLittleEndian), Pair(SC, ImplicitVRLittleEndian)


def classes(count: int, syntax: str = ExplicitVRLittleEndian) -> list[Pair]:
    return [Pair(f"1.2.3.{number}", syntax) for number in range(count)]


@pytest.mark.parametrize(
    ("syntax", "others"),
    [
        (JPEG2000Lossless, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        (DeflatedExplicitVRLittleEndian, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        (ExplicitVRBigEndian, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
        (ExplicitVRLittleEndian, [ImplicitVRLittleEndian]),
        (ImplicitVRLittleEndian, [ExplicitVRLittleEndian]),
        (MPEG4HP41, []),  # a video is not decoded here
        ("1.2.3.4.5", []),  # nor is what nobody knows
    ],
)
def test_what_a_syntax_can_be_turned_into(syntax: str, others: list[str]) -> None:
    assert alternatives(Pair(CR, syntax)) == [Pair(CR, other) for other in others]


def test_only_the_native_pairs_present_are_proposed_each_once() -> None:
    assert propose([CR_EXPLICIT, SC_EXPLICIT, CR_EXPLICIT], {}) == [CR_EXPLICIT, SC_EXPLICIT]


def test_a_compressed_pair_brings_the_native_ones_of_its_class() -> None:
    assert propose([CR_J2K, CR_RLE, SC_EXPLICIT], {}) == [
        CR_J2K,
        CR_RLE,
        SC_EXPLICIT,
        CR_EXPLICIT,
        CR_IMPLICIT,
    ]


def test_a_refused_native_pair_asks_for_the_other_one() -> None:
    assert propose([CR_EXPLICIT], {CR_EXPLICIT: False}) == [CR_IMPLICIT]


def test_nothing_is_left_to_propose_when_everything_was_refused() -> None:
    answers = {CR_J2K: False, CR_EXPLICIT: False, CR_IMPLICIT: False}
    assert propose([CR_J2K], answers) == []


def test_what_was_refused_is_not_proposed_again_for_another_pair() -> None:
    assert propose([CR_J2K], {CR_EXPLICIT: False}) == [CR_J2K, CR_IMPLICIT]


@pytest.mark.parametrize(
    ("n_pairs", "sizes"), [(128, [128]), (129, [128, 1]), (300, [128, 128, 44])]
)
def test_more_than_128_pairs_take_several_associations(n_pairs: int, sizes: list[int]) -> None:
    waiting, answers, seen = classes(n_pairs), dict[Pair, bool](), []
    while waiting:
        proposal = propose(waiting, answers)
        seen.append(len(proposal))
        answers |= dict.fromkeys(proposal, True)
        waiting = [pair for pair in waiting if pair not in proposal]
    assert seen == sizes


def test_native_alternatives_wait_when_they_do_not_fit() -> None:
    compressed = classes(60, JPEG2000Lossless)
    assert propose(compressed, {}) == compressed  # 60 + 2 * 60 > 128
    refused = dict.fromkeys(compressed, False)
    assert propose(compressed, refused) == [o for p in compressed for o in alternatives(p)]


@pytest.mark.parametrize(
    ("pair", "accepted", "answers", "chosen"),
    [
        (CR_J2K, [CR_J2K, CR_EXPLICIT], {CR_J2K: True, CR_EXPLICIT: True}, CR_J2K),
        (CR_J2K, [CR_EXPLICIT, CR_IMPLICIT], {CR_J2K: False}, CR_EXPLICIT),
        (CR_J2K, [CR_IMPLICIT], {CR_J2K: False, CR_EXPLICIT: False}, CR_IMPLICIT),
        (CR_J2K, [SC_EXPLICIT], {CR_J2K: False}, None),  # another class is no help
        (CR_J2K, [CR_EXPLICIT], {CR_EXPLICIT: True}, None),  # its own was not asked yet
        (CR_EXPLICIT, [CR_IMPLICIT], {CR_EXPLICIT: False}, CR_IMPLICIT),
    ],
)
def test_an_instance_goes_by_its_own_pair_or_the_best_alternative(
    pair: Pair, accepted: list[Pair], answers: dict[Pair, bool], chosen: Pair | None
) -> None:
    assert choose(pair, accepted, answers) == chosen

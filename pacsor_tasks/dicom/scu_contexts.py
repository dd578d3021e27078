"""Which presentation contexts to propose, and which accepted one an instance goes by. Pure.

Every (SOP class, transfer syntax) pair present is a context of its own: a context accepts one of
its transfer syntaxes only, so a shared one could not carry two. A compressed pair brings the native
syntaxes of its class along while they fit; a native pair asks for them when it was refused.

Source: DICOM PS3.8 §7.1.1.13, PS3.5 §10.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacsor_tasks.dicom.negotiation import MAX_CONTEXTS, Pair
from pacsor_tasks.dicom.transcode import can_transcode, is_native


def alternatives(pair: Pair) -> list[Pair]:
    """What instances of the pair can be re-encoded to, best first; empty when they cannot."""
    if not can_transcode(pair.transfer_syntax_uid):
        return []
    natives = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
    return [
        Pair(pair.sop_class_uid, syntax) for syntax in natives if syntax != pair.transfer_syntax_uid
    ]


def propose(waiting: Iterable[Pair], answers: Mapping[Pair, bool]) -> list[Pair]:
    """The contexts of the next association.

    Args:
        waiting: Pairs of the instances not yet sent.
        answers: What the PACS said to every pair proposed so far.

    Returns:
        At most 128 pairs; none when everything there is to ask was asked and refused.
    """
    pairs = list(dict.fromkeys(waiting))
    asked = [pair for pair in pairs if pair not in answers]
    refused = [pair for pair in pairs if answers.get(pair) is False]
    needed = _distinct(asked, _open(refused, answers))
    compressed = [pair for pair in asked if not is_native(pair.transfer_syntax_uid)]
    comfortable = _distinct(needed, _open(compressed, answers))
    return comfortable if len(comfortable) <= MAX_CONTEXTS else needed[:MAX_CONTEXTS]


def choose(pair: Pair, accepted: Collection[Pair], answers: Mapping[Pair, bool]) -> Pair | None:
    """The accepted pair by which instances of a pair go; None when none in this association.

    An instance is not re-encoded before the PACS refused its own pair.
    """
    if pair in accepted:
        return pair
    if pair not in answers:
        return None
    return next((other for other in alternatives(pair) if other in accepted), None)


def _open(pairs: Iterable[Pair], answers: Mapping[Pair, bool]) -> list[Pair]:
    """Their alternatives, without those that were refused."""
    return [
        other for pair in pairs for other in alternatives(pair) if answers.get(other) is not False
    ]


def _distinct(*groups: Iterable[Pair]) -> list[Pair]:
    return list(dict.fromkeys(pair for group in groups for pair in group))

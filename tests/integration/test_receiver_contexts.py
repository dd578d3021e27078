"""What the receiver accepts in the negotiation, by profile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from receiver import profiles
from tests.support.dcmtk import echoscu, start_storescu
from tests.support.instances import CR, CT, write_instance
from tests.support.net import free_port, wait_until
from tests.support.peers import require_program
from tests.support.receivers import Receiver, association, is_listening, receiver

FILTER_CFG = profiles.PROJECT / "conf" / "filter.cfg"
BASE = "1.2.840.10008.5.1.4.1.1."
VERIFICATION = "1.2.840.10008.1.1"
CR_DX = {VERIFICATION, f"{BASE}1", f"{BASE}1.1", f"{BASE}1.1.1"}
SC, XRF, ENHANCED_XRF = f"{BASE}7", f"{BASE}12.2", f"{BASE}12.2.1"
ALL = CR_DX | {SC, XRF, ENHANCED_XRF}
ACCEPTED = {
    "Default": CR_DX,
    "WithSC": CR_DX | {SC},
    "WithRF": CR_DX | {XRF, ENHANCED_XRF},
    "WithSCRF": ALL,
}
#: CT, MG, SR
NEVER = {CT, f"{BASE}1.2", f"{BASE}88.11"}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver with every context."""
    with receiver(tmp_path_factory.mktemp("full"), CONFIG_PROFILE="WithSCRF") as running:
        yield running


@pytest.mark.parametrize("profile", ACCEPTED)
def test_a_profile_accepts_its_sop_classes_and_refuses_the_others(
    profile: str, tmp_path: Path
) -> None:
    with receiver(tmp_path, CONFIG_PROFILE=profile) as running:
        proposed = [(uid, (ExplicitVRLittleEndian,)) for uid in sorted(ALL | NEVER)]
        with association(running.port, proposed) as opened:
            assert opened.is_established
            assert {str(c.abstract_syntax) for c in opened.accepted_contexts} == ACCEPTED[profile]
            refused = {str(c.abstract_syntax): c.result for c in opened.rejected_contexts}
    assert set(refused) == (ALL | NEVER) - ACCEPTED[profile]
    assert set(refused.values()) == {3}, "abstract syntax not supported"


def test_an_association_is_accepted_even_if_all_its_contexts_are_refused(full: Receiver) -> None:
    with association(full.port, [(CT, (ExplicitVRLittleEndian,))]) as opened:
        # pynetdicom ends an association without contexts itself, by A-ABORT.
        assert not opened.is_rejected
        assert not opened.accepted_contexts


@pytest.mark.parametrize("profile", ACCEPTED)
def test_dcmtk_reads_the_shipped_file_too(profile: str, tmp_path: Path) -> None:
    port = free_port()
    command = [str(require_program("storescp")), "-od", str(tmp_path)]
    scp = subprocess.Popen([*command, "-xf", str(FILTER_CFG), profile, str(port)])
    try:
        proposed = [(uid, (ExplicitVRLittleEndian,)) for uid in sorted(ALL | NEVER)]
        wait_until(lambda: scp.poll() is not None or is_listening(port))
        with association(port, proposed) as opened:
            assert {str(c.abstract_syntax) for c in opened.accepted_contexts} == ACCEPTED[profile]
    finally:
        scp.terminate()
        scp.wait(10)


def test_the_called_ae_title_does_not_matter(full: Receiver) -> None:
    assert "Received Echo Response (Success)" in echoscu(full.port)


def test_each_context_of_the_fullest_profile_takes_each_transfer_syntax(full: Receiver) -> None:
    contexts = profiles.load(FILTER_CFG, "WithSCRF")
    assert [len(context.transfer_syntax_uids) for context in contexts] == [21] * 7
    for context in contexts:
        proposed = [(context.sop_class_uid, (uid,)) for uid in context.transfer_syntax_uids]
        with association(full.port, proposed) as opened:
            taken = [c.transfer_syntax[0] for c in opened.accepted_contexts]
        assert taken == list(context.transfer_syntax_uids)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        # the file's order decides, whatever the sender prefers
        ((ImplicitVRLittleEndian, ExplicitVRLittleEndian), ExplicitVRLittleEndian),
        ((ExplicitVRLittleEndian, ImplicitVRLittleEndian), ExplicitVRLittleEndian),
        ((ImplicitVRLittleEndian, ExplicitVRBigEndian), ExplicitVRBigEndian),
        ((ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian), DeflatedExplicitVRLittleEndian),
        ((ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEG2000), JPEG2000),
    ],
)
def test_of_several_transfer_syntaxes_the_first_of_the_file_is_taken(
    full: Receiver, offered: tuple[str, ...], taken: str
) -> None:
    with association(full.port, [(CR, offered)]) as opened:
        assert [c.transfer_syntax for c in opened.accepted_contexts] == [[taken]]


def test_dcmtk_is_told_that_it_may_not_send_a_ct(full: Receiver, tmp_path: Path) -> None:
    path = write_instance(tmp_path, SOPClassUID=CT)
    sender = start_storescu(full.port, path)
    output, _ = sender.communicate(timeout=60)
    assert "No presentation context" in output or "No valid Presentation Context" in output

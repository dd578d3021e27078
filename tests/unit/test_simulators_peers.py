"""The RIS's acknowledgements and the PACS's contexts, before they go on a wire."""

from __future__ import annotations

from pathlib import Path

import hl7
import pytest
from pynetdicom.presentation import PresentationContext, build_context

from simulators.journal import Journal
from simulators.pacs.handlers import accepted_contexts
from simulators.pacs.switches import PacsSwitches
from simulators.part10 import file_name
from simulators.ris import RisSwitches, ack
from tests.support.instances import CR, CT

MESSAGE = "MSH|^~\\&|GW|MILVUE|RIS|SITE|20260619143015||ORU^R01|GW1|P|2.5.1\rPID|||Anaïs\r".encode()
IMPLICIT, EXPLICIT, J2K = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"


@pytest.mark.parametrize("code", ["AA", "CA", "AE", "CE", "AR", "CR"])
def test_an_ack_parses_and_answers_its_message(code: str) -> None:
    parsed = hl7.parse(ack(MESSAGE, code, "GW1", RisSwitches(text="why")).decode())
    assert str(parsed.segment("MSA")) == f"MSA|{code}|GW1|why"
    msh = parsed.segment("MSH")
    assert [str(msh[index]) for index in (3, 4, 5, 6)] == ["RIS", "SITE", "GW", "MILVUE"]
    assert ("\rERR|" in str(parsed)) == (code[1] != "A")


def test_the_last_segment_may_lack_its_end() -> None:
    assert ack(MESSAGE, "AA", "GW1", RisSwitches()).endswith(b"\r")
    assert not ack(MESSAGE, "AA", "GW1", RisSwitches(final_cr=False)).endswith(b"\r")


def proposal() -> list[PresentationContext]:
    contexts = [
        build_context(CR, [J2K]),
        build_context(CR, [EXPLICIT, IMPLICIT]),
        build_context(CT, [IMPLICIT]),
        build_context("1.2.840.10008.1.1", [IMPLICIT]),
        build_context("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT]),  # C-FIND: not for this server
    ]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    return contexts


@pytest.mark.parametrize(
    ("switches", "of_cr", "of_ct"),
    [
        ({}, [J2K, EXPLICIT, IMPLICIT], [IMPLICIT]),
        ({"uncompressed_only": True}, [EXPLICIT, IMPLICIT], [IMPLICIT]),
        ({"refuse_transfer_syntaxes": EXPLICIT}, [J2K, IMPLICIT], [IMPLICIT]),
        ({"refuse_sop_classes": CR}, None, [IMPLICIT]),
        ({"refuse_transfer_syntaxes": IMPLICIT}, [J2K, EXPLICIT], ["1.2.840.10008.1.2.999"]),
    ],
)
def test_contexts_are_accepted_but_what_is_refused(
    switches: dict[str, object], of_cr: list[str] | None, of_ct: list[str]
) -> None:
    accepted = {
        str(context.abstract_syntax): [str(uid) for uid in context.transfer_syntax]
        for context in accepted_contexts(proposal(), PacsSwitches.model_validate(switches))
    }
    assert accepted.get(CR) == of_cr
    assert accepted[CT] == of_ct
    assert "1.2.840.10008.5.1.4.1.2.2.1" not in accepted


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1..2", "", "1.2/3", "1" * 65])
def test_a_uid_that_is_none_does_not_become_a_path(uid: str) -> None:
    assert file_name(uid) != uid
    assert "/" not in file_name(uid)
    assert file_name("1.2.3") == "1.2.3"


def test_a_journal_is_in_its_file_as_it_happens(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.jsonl")
    journal.add("echo", calling_aet="A")
    journal.add("store", calling_aet="A", status=0)
    lines = (tmp_path / "deep" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert [event["status"] for event in journal.events("store", calling_aet="A")] == [0]
    journal.clear()
    assert journal.events() == []
    journal.close()
    journal.add("late")
    assert len(journal.events()) == 1

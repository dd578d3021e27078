"""The simulated PACS against DCMTK."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.pacs import PacsSimulator
from tests.support.dcmtk import echoscu, start_storescu, storescu
from tests.support.instances import CR
from tests.support.net import wait_until
from tests.support.radiographs import radiographs
from tests.support.simulators import no_threads_left, sop_uid
from tests.support.studies import make_study, study_uid_of


@pytest.fixture
def pacs() -> Iterator[PacsSimulator]:
    with no_threads_left(), PacsSimulator() as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 3)


def refused(pacs: PacsSimulator, *files: Path, options: tuple[str, ...] = ()) -> str:
    """Send files that shall not all be taken; what storescu said."""
    sender = start_storescu(pacs.port, *files, options=options)
    output, _ = sender.communicate(timeout=30)
    assert output.count("Received Store Response (Success)") < len(files), output
    return output


def test_it_takes_what_storescu_sends_and_keeps_it(pacs: PacsSimulator, files: list[Path]) -> None:
    echoscu(pacs.port)
    storescu(pacs.port, *files, options=("-aet", "GATEWAY"))
    assert {path.stem for path in pacs.files()} == {sop_uid(file) for file in files}
    assert pacs.journal.counts() == dict.fromkeys(map(sop_uid, files), 1)
    (_, association) = pacs.journal.events("association")
    assert (association["calling_aet"], association["called_aet"]) == ("GATEWAY", "MILVUE")
    assert association["contexts"]
    (store, *_) = pacs.journal.stores(calling_aet="GATEWAY")
    assert store["study_uid"] == study_uid_of(files)
    assert store["transfer_syntax_uid"] == "1.2.840.10008.1.2.1"
    assert len(pacs.journal.events("echo")) == 1


def test_what_it_keeps_is_what_was_sent(pacs: PacsSimulator) -> None:
    (file,) = radiographs("RG3_J2KR")
    storescu(pacs.port, file, options=("-xv",))
    (kept,) = pacs.files()
    sent, received = (
        subprocess.run(
            ["dcmdump", "--search", "0020,000d", "--search", "0002,0010", path],
            check=True,
            capture_output=True,
        ).stdout
        for path in (file, kept)
    )
    assert sent == received
    assert abs(kept.stat().st_size - file.stat().st_size) < 500


def test_it_need_not_keep_files(pacs: PacsSimulator, files: list[Path]) -> None:
    pacs.switches.set(keep_files=False)
    storescu(pacs.port, *files)
    assert pacs.files() == []
    assert len(pacs.journal.counts()) == 3


@pytest.mark.parametrize(
    ("reject", "reason"),
    [
        ("permanent", "Rejected Permanent"),
        ("calling_aet", "Calling AE Title Not Recognized"),
        ("called_aet", "Called AE Title Not Recognized"),
        ("transient", "Rejected Transient"),
        ("congestion", "Temporary Congestion"),
        ("local_limit", "Local Limit Exceeded"),
    ],
)
def test_it_refuses_associations(
    pacs: PacsSimulator, files: list[Path], reject: str, reason: str
) -> None:
    pacs.switches.set(reject=reject, times=1)
    assert reason in refused(pacs, *files)
    storescu(pacs.port, *files)


def test_it_refuses_a_sop_class_or_compression(pacs: PacsSimulator) -> None:
    plain, compressed = radiographs("RG3_UNCR", "RG3_J2KR")
    pacs.switches.set(refuse_sop_classes=CR, times=1)
    assert "No presentation context" in refused(pacs, plain)
    pacs.switches.set(uncompressed_only=True, times=1)
    refused(pacs, compressed, options=("-xv",))
    storescu(pacs.port, compressed, options=("-xv",))


def test_it_answers_any_status_in_general_or_for_one_instance(
    pacs: PacsSimulator, files: list[Path]
) -> None:
    pacs.switches.set(status="0xA700", times=1)
    assert "Refused: OutOfResources" in refused(pacs, files[0])
    assert pacs.files() == []
    pacs.switches.set(status=0x0122, sop_instance_uid=sop_uid(files[1]))
    refused(pacs, *files, options=("-nh",))
    statuses = {store["sop_instance_uid"]: store["status"] for store in pacs.journal.stores()}
    assert [statuses[sop_uid(file)] for file in files] == [0, 0x0122, 0]
    assert len(pacs.files()) == 2


def test_a_warning_is_kept(pacs: PacsSimulator, files: list[Path]) -> None:
    pacs.switches.set(status=0xB000)
    refused(pacs, files[0])
    assert len(pacs.files()) == 1


@pytest.mark.parametrize("switch", ["abort_after", "drop_after"])
def test_it_ends_an_association_in_the_middle(
    pacs: PacsSimulator, files: list[Path], switch: str
) -> None:
    pacs.switches.set(**{switch: 2})
    assert "Peer aborted Association" in refused(pacs, *files)
    assert len(pacs.files()) == 2


@pytest.mark.parametrize(
    ("silent", "options"), [("associate", ("-ta", "1")), ("store", ("-td", "1"))]
)
def test_it_accepts_and_stays_silent(
    pacs: PacsSimulator, files: list[Path], silent: str, options: tuple[str, ...]
) -> None:
    pacs.switches.set(silent=silent)
    output = refused(pacs, files[0], options=options)
    assert "timeout" in output
    assert pacs.files() == []


def test_it_stops_while_a_peer_waits_for_it(files: list[Path]) -> None:
    with no_threads_left(), PacsSimulator(silent="store") as pacs:
        sender = start_storescu(pacs.port, *files)
        wait_until(pacs.journal.stores)
    output, _ = sender.communicate(timeout=30)
    assert sender.returncode != 0, output


def test_it_can_be_slow(pacs: PacsSimulator, files: list[Path]) -> None:
    pacs.switches.set(delay_s=0.2, times=1)
    storescu(pacs.port, *files)
    first, second, *_ = (event["at"] for event in pacs.journal.events())
    assert second - first >= 0.2

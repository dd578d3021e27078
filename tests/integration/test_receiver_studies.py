"""Studies sent by DCMTK become revisions."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsor_tasks.dicom.headers import data_set_offset, read_header
from tests.support.dcmtk import dcmsend, storescu
from tests.support.instances import CR, encode, make_dataset, write_instance, write_study
from tests.support.net import wait_until
from tests.support.peers import require_program
from tests.support.receivers import Receiver, association, receiver, send


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver for the tests that need nothing special of it."""
    with receiver(tmp_path_factory.mktemp("shared")) as running:
        yield running


def data_set(path: Path) -> bytes:
    """A file without its file meta information."""
    return path.read_bytes()[data_set_offset(path)[1] :]


def test_a_study_of_two_associations_becomes_one_revision(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "a", 2)
    more = [write_instance(tmp_path / "b", study_uid) for _ in range(3)]
    with receiver(tmp_path, RECEIVER_PROCESSES=2) as running:
        storescu(running.port, *files)
        dcmsend(running.port, tmp_path / "b")
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        stored = running.instances(study_uid, manifest)
        assert set(stored) == {path.stem for path in files + more}
        for path in files + more:
            assert data_set(stored[path.stem]) == data_set(path)
        assert running.nothing_half_written()
        # Redis is down: the study waits in the outbox, and receiving went on.
        assert running.spool.outbox() == [(study_uid, manifest.token)]
        wait_until(lambda: running.log("ingest.not_enqueued"))
    assert manifest.reason == "quiet"
    assert manifest.n_instances == 5
    assert manifest.calling_aets == ("STORESCU", "DCMSEND")
    assert manifest.first_at <= manifest.last_at


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_an_instance_is_kept_as_it_was_sent(shared: Receiver, tmp_path: Path, syntax: str) -> None:
    path = write_instance(tmp_path / "in", syntax=syntax)
    sent = data_set(path)
    header = read_header(path)
    with association(shared.port, [(CR, (syntax,))]) as opened:
        status, _ = send(opened, sent, sop_instance_uid=header.sop_instance_uid)
        assert status == 0x0000
        opened.release()
    (manifest,) = shared.wait_for_revisions(header.study_uid, 1)
    (stored,) = shared.instances(header.study_uid, manifest).values()
    assert read_header(stored) == header
    assert data_set(stored) == sent
    dump = subprocess.run(
        [str(require_program("dcmdump")), str(stored)], check=True, capture_output=True, text=True
    )
    assert "W:" not in dump.stderr
    assert "E:" not in dump.stderr


def test_a_late_instance_makes_a_second_revision_of_itself_alone(
    shared: Receiver, tmp_path: Path
) -> None:
    study_uid, files = write_study(tmp_path / "in", 2)
    late = write_instance(tmp_path / "late", study_uid)
    storescu(shared.port, *files)
    shared.wait_for_revisions(study_uid, 1)
    # The modality sends the whole study again, with one instance more.
    storescu(shared.port, *files, late)
    first, second = shared.wait_for_revisions(study_uid, 2)
    assert set(shared.instances(study_uid, second)) == {late.stem}
    assert (first.n_instances, second.n_instances) == (2, 1)
    assert first.token < second.token
    assert [(e["kind"], e["count"]) for e in second.events] == [("duplicate.same", 2)]


def test_a_study_sent_again_adds_no_instance_but_is_recorded(
    shared: Receiver, tmp_path: Path
) -> None:
    study_uid, files = write_study(tmp_path / "in", 2)
    storescu(shared.port, *files, *files)
    (first,) = shared.wait_for_revisions(study_uid, 1)
    storescu(shared.port, *files)
    _, second = shared.wait_for_revisions(study_uid, 2)
    assert shared.instances(study_uid, second) == {}
    assert first.n_instances == 2
    assert [(e["kind"], e["count"]) for e in first.events] == [("duplicate.same", 2)]
    assert second.n_instances == 0
    assert set(second.events[0]["instance_uids"]) == {path.stem for path in files}


@pytest.mark.parametrize(
    ("policy", "kept", "kind"),
    [
        ("keep-first", "first", "duplicate.kept_first"),
        ("replace", "second", "duplicate.replaced"),
    ],
)
def test_other_bytes_under_the_same_uid_follow_the_policy(
    tmp_path: Path, policy: str, kept: str, kind: str
) -> None:
    study_uid, (first,) = write_study(tmp_path / "first", 1)
    second = write_instance(
        tmp_path / "second", study_uid, SOPInstanceUID=first.stem, n_pixel_bytes=1024
    )
    files = {"first": first, "second": second}
    with receiver(tmp_path, DUPLICATE_POLICY=policy) as running:
        storescu(running.port, first, second)
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        (stored,) = running.instances(study_uid, manifest).values()
        assert data_set(stored) == data_set(files[kept])
    assert [(e["kind"], e["count"]) for e in manifest.events] == [(kind, 1)]


@pytest.mark.parametrize(
    ("policy", "n_new", "kind"),
    [("keep-first", 0, "duplicate.kept_first"), ("replace", 1, "duplicate.replaced")],
)
def test_other_bytes_arriving_late_follow_the_policy(
    tmp_path: Path, policy: str, n_new: int, kind: str
) -> None:
    study_uid, (first,) = write_study(tmp_path / "first", 1)
    second = write_instance(
        tmp_path / "second", study_uid, SOPInstanceUID=first.stem, n_pixel_bytes=1024
    )
    with receiver(tmp_path, DUPLICATE_POLICY=policy) as running:
        storescu(running.port, first)
        running.wait_for_revisions(study_uid, 1)
        storescu(running.port, second)
        _, manifest = running.wait_for_revisions(study_uid, 2)
    assert manifest.n_instances == n_new
    assert [(e["kind"], e["count"]) for e in manifest.events] == [(kind, 1)]


def test_a_study_waits_for_the_association_that_contributed_to_it(tmp_path: Path) -> None:
    mine, other = make_dataset(), make_dataset()
    with receiver(tmp_path, STUDY_QUIET_SECONDS=0.2) as running:
        with association(running.port) as opened:
            send(opened, encode(mine), sop_instance_uid=mine.SOPInstanceUID)
            with association(running.port) as closed:
                send(closed, encode(other), sop_instance_uid=other.SOPInstanceUID)
                closed.release()
            # The other study was quiet for less time, and yet is closed: no association holds it.
            running.wait_for_revisions(other.StudyInstanceUID, 1)
            assert running.revisions(mine.StudyInstanceUID) == []
            opened.release()
        (manifest,) = running.wait_for_revisions(mine.StudyInstanceUID, 1)
    assert manifest.reason == "quiet"


@pytest.mark.parametrize("end", ["abort", "vanish"])
def test_an_association_that_ends_badly_holds_its_study_no_longer(tmp_path: Path, end: str) -> None:
    dataset = make_dataset()
    with receiver(tmp_path, STUDY_QUIET_SECONDS=0.2) as running:
        with association(running.port) as opened:
            send(opened, encode(dataset), sop_instance_uid=dataset.SOPInstanceUID)
            if end == "abort":
                opened.abort()
            else:
                assert opened.dul.socket is not None
                opened.dul.socket._shutdown_socket()
        running.wait_for_revisions(dataset.StudyInstanceUID, 1)


def test_the_longest_wait_closes_a_study_under_an_open_association(tmp_path: Path) -> None:
    first, second = make_dataset(), None
    with (
        receiver(tmp_path, STUDY_MAX_WAIT_SECONDS=1) as running,
        association(running.port) as opened,
    ):
        send(opened, encode(first), sop_instance_uid=first.SOPInstanceUID)
        (manifest,) = running.wait_for_revisions(first.StudyInstanceUID, 1)
        assert manifest.reason == "max_wait"
        # What the same association sends now is the next revision's.
        second = make_dataset(first.StudyInstanceUID)
        send(opened, encode(second), sop_instance_uid=second.SOPInstanceUID)
        opened.release()
        _, manifest = running.wait_for_revisions(first.StudyInstanceUID, 2)
        assert manifest.n_instances == 1


def test_an_operator_may_say_that_a_study_is_complete(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "in", 1)
    with receiver(tmp_path, STUDY_QUIET_SECONDS=3600) as running:
        assert not running.spool.request_stable(study_uid)
        storescu(running.port, *files)
        assert running.spool.request_stable(study_uid)
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        assert not any((running.spool.root / "requests").iterdir())
    assert manifest.reason == "requested"


def test_a_study_waiting_at_a_stop_is_closed_after_the_start(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "in", 1)
    with receiver(tmp_path, STUDY_QUIET_SECONDS=3600) as running:
        storescu(running.port, *files)
    with receiver(tmp_path) as running:
        (manifest,) = running.wait_for_revisions(study_uid, 1)
    assert manifest.n_instances == 1


def test_the_longest_wait_counts_from_the_first_instance_over_a_restart(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "in", 1)
    with receiver(tmp_path, STUDY_QUIET_SECONDS=3600) as running:
        storescu(running.port, *files)
        started = time.monotonic()
    wait_until(lambda: time.monotonic() - started > 2)
    # Were the wait counted from the start, an hour would have to pass.
    with receiver(tmp_path, STUDY_QUIET_SECONDS=3600, STUDY_MAX_WAIT_SECONDS=2) as running:
        (manifest,) = running.wait_for_revisions(study_uid, 1)
    assert manifest.reason == "max_wait"

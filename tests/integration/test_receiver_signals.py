"""What ends the wait early: a release, Storage Commitment, an operator."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Manifest, Spool
from receiver.associations import OpenAssociation
from receiver.closing import Closer
from receiver.incoming import Incoming
from receiver.processes import Process, alive
from receiver.stabilisation import Sweeper
from tests.support.dcmtk import storescu
from tests.support.instances import CR, encode, make_dataset, new_uid, write_study
from tests.support.net import wait_until
from tests.support.raw_dicom import RELEASE_RP, RawPeer, raw_peer
from tests.support.receivers import Receiver, receiver

#: Nothing in these tests is stable because it is quiet.
LONG: dict[str, Any] = {"STUDY_QUIET_SECONDS": 900, "STUDY_MAX_WAIT_SECONDS": 900}


@pytest.fixture(scope="module")
def on_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiver(
        tmp_path_factory.mktemp("release"),
        STABLE_ON_RELEASE="true",
        RECEIVER_PROCESSES=3,
        **LONG,
    ) as running:
        yield running


def store(peer: RawPeer, study_uid: str) -> str:
    """One new instance of the study; its UID."""
    dataset = make_dataset(study_uid)
    assert peer.store(dataset.SOPInstanceUID, encode(dataset)) == 0
    return str(dataset.SOPInstanceUID)


def marks(running: Receiver, study_uid: str) -> int:
    """Associations that contributed to the study and are open."""
    directory = running.spool.root / "associations" / study_uid
    return len(list(directory.iterdir())) if directory.is_dir() else 0


def wait_for_marks(running: Receiver, study_uid: str, n: int) -> None:
    """Until so many associations that contributed are open."""
    wait_until(lambda: marks(running, study_uid) == n)


def test_a_study_that_dcmtk_sent_and_released_waits_for_nothing(
    on_release: Receiver, tmp_path: Path
) -> None:
    study_uid, files = write_study(tmp_path, 5)
    storescu(on_release.port, *files)
    (manifest,) = on_release.wait_for_revisions(study_uid, 1)
    assert (manifest.reason, manifest.n_instances) == ("released", 5)


def test_only_the_last_release_counts_whichever_process_serves_it(on_release: Receiver) -> None:
    study_uid = new_uid()
    with ExitStack() as stack:
        peers = [stack.enter_context(raw_peer(on_release.port)) for _ in range(6)]
        uids = {store(peer, study_uid) for peer in peers}
        for n, peer in enumerate(peers[:-1]):
            assert peer.release() == RELEASE_RP
            wait_for_marks(on_release, study_uid, 5 - n)
        assert not on_release.revisions(study_uid)
        uids.add(store(peers[-1], study_uid))
        assert peers[-1].release() == RELEASE_RP
    (manifest,) = on_release.wait_for_revisions(study_uid, 1)
    assert manifest.reason == "released"
    assert set(on_release.instances(study_uid, manifest)) == uids


@pytest.mark.parametrize("end", [RawPeer.abort, RawPeer.close, RawPeer.reset])
def test_an_association_that_breaks_off_says_nothing(
    on_release: Receiver, end: Callable[[RawPeer], None]
) -> None:
    study_uid = new_uid()
    with raw_peer(on_release.port) as first, raw_peer(on_release.port) as last:
        store(first, study_uid)
        store(last, study_uid)
        assert first.release() == RELEASE_RP
        wait_until(lambda: marks(on_release, study_uid) == 1)
        end(last)
    wait_until(lambda: marks(on_release, study_uid) == 0)
    assert not (on_release.spool.root / "released" / study_uid).exists()
    # The sender comes back with the rest, and is done.
    with raw_peer(on_release.port) as again:
        store(again, study_uid)
        assert again.release() == RELEASE_RP
    (manifest,) = on_release.wait_for_revisions(study_uid, 1)
    assert manifest.n_instances == 3


def test_a_release_after_a_refused_instance_says_nothing(on_release: Receiver) -> None:
    study_uid = new_uid()
    with raw_peer(on_release.port) as peer:
        store(peer, study_uid)
        assert peer.store(new_uid(), b"rubbish") != 0
        assert peer.release() == RELEASE_RP
    wait_until(lambda: marks(on_release, study_uid) == 0)
    assert not (on_release.spool.root / "released" / study_uid).exists()


def test_without_the_setting_a_release_says_nothing(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "sent", 2)
    with receiver(tmp_path, STUDY_QUIET_SECONDS=1) as running:
        storescu(running.port, *files)
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        assert manifest.reason == "quiet"


def test_a_killed_process_released_nothing(tmp_path: Path) -> None:
    study_uid = new_uid()
    with receiver(
        tmp_path,
        STABLE_ON_RELEASE="true",
        **LONG,
    ) as running:
        with raw_peer(running.port) as peer:
            store(peer, study_uid)
            os.kill(running.scp_pids()[0], signal.SIGKILL)
            assert peer.ended()
        wait_until(lambda: marks(running, study_uid) == 0)
        assert running.revisions(study_uid) == []


def test_arrivals_at_the_moment_of_a_release_are_in_one_revision_each(tmp_path: Path) -> None:
    """Senders that come, send and are done, over and over, while the sweeper closes."""
    spool = Spool(tmp_path)
    spool.prepare()
    closed: list[Manifest] = []
    closer = Closer(spool, "keep-first")
    sweeper = Sweeper(closer, quiet_s=900, max_wait_s=900, on_closed=closed.append)
    study_uid, sent, stop = new_uid(), [], threading.Event()
    with alive(spool) as process:

        def send(n: int) -> None:
            for _ in range(25):
                association = OpenAssociation(process, f"CT{n}", "10.0.0.1:1")
                sent.append(put(process, study_uid, association))
                association.close_complete()

        def sweep() -> None:
            while not stop.is_set():
                sweeper.tick()

        sweeping = threading.Thread(target=sweep)
        senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in (sweeping, *senders):
            thread.start()
        for thread in senders:
            thread.join()
        wait_until(lambda: not spool.incoming_dir(study_uid).exists())
        stop.set()
        sweeping.join()
    held = [p.stem for m in closed for p in spool.revision_dir(study_uid, m.token).glob("*.dcm")]
    assert sorted(held) == sorted(sent), "each once"
    assert {manifest.reason for manifest in closed} == {"released"}
    assert not list((spool.root / "released").iterdir())


def put(process: Process, study_uid: str, association: OpenAssociation) -> str:
    """An instance into the spool, as a C-STORE does; its UID."""
    dataset = make_dataset(study_uid)
    header = InstanceHeader(
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=CR,
        study_uid=study_uid,
        series_uid="1.2",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    Incoming(process, "keep-first").store(header, encode(dataset), association)
    return header.sop_instance_uid


def test_an_operator_ends_the_wait_while_the_sender_goes_on(tmp_path: Path) -> None:
    study_uid = new_uid()
    with receiver(tmp_path, **LONG) as running, raw_peer(running.port) as peer:
        first = store(peer, study_uid)
        assert running.spool.request_stable(study_uid)
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        assert manifest.reason == "requested"
        late = store(peer, study_uid)
        assert running.spool.request_stable(study_uid)
        _, second = running.wait_for_revisions(study_uid, 2)
        assert set(running.instances(study_uid, manifest)) == {first}
        assert set(running.instances(study_uid, second)) == {late}
        assert not running.spool.request_stable(study_uid), "nothing is coming in"

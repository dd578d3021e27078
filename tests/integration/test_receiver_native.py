"""The receiver with its compiled inner loops and without them: the same to every sender."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.dicom.headers import data_set_offset
from receiver import journal
from tests.support import raw_dicom as raw
from tests.support.instances import encode, make_dataset
from tests.support.net import wait_until
from tests.support.receivers import Receiver, receiver

STUDY = "1.2.3"


@pytest.fixture(params=["", "1"], ids=["compiled", "python"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that keeps its studies open."""
    with receiver(tmp_path, WITHOUT_NATIVE=request.param, STUDY_QUIET_SECONDS=600) as up:
        yield up


def instance(n_bytes: int, uid: str) -> bytes:
    pixels = random.Random(uid).randbytes(n_bytes)
    return encode(make_dataset(STUDY, SOPInstanceUID=uid, PixelData=pixels))


def stored(running: Receiver, uid: str) -> str | None:
    path = running.spool.incoming_dir(STUDY) / f"{uid}.dcm"
    if not path.exists():
        return None
    _, start = data_set_offset(path)
    return hashlib.sha256(path.read_bytes()[start:]).hexdigest()


def test_every_size_and_every_fragment_is_stored_as_it_came(running: Receiver) -> None:
    sent = {}
    with raw.raw_peer(running.port) as peer:
        for n, n_bytes in enumerate((10, 131_000, 262_144, 700_001, 5_000_000)):
            for fragment_bytes in (131_066, 16_378, 1_001):
                uid = f"1.2.3.{n}.{fragment_bytes}"
                data_set = instance(n_bytes, uid)
                sent[uid] = hashlib.sha256(data_set).hexdigest()
                peer.send(raw.store_message(uid, data_set, fragment_bytes=fragment_bytes))
                assert peer.status() == 0x0000
        peer.release()
    assert {uid: stored(running, uid) for uid in sent} == sent
    assert running.nothing_half_written()


def test_what_was_cut_off_is_not_there(running: Receiver) -> None:
    whole = raw.store_message("1.2.3.4", instance(3_000_000, "1.2.3.4"), fragment_bytes=100_000)
    for n_bytes in (len(whole) // 2, len(whole) - 1):
        with raw.raw_peer(running.port) as peer:
            peer.send(whole[:n_bytes])
    wait_until(running.nothing_half_written)
    assert stored(running, "1.2.3.4") is None


def test_an_instance_that_lacks_its_end_is_refused(running: Receiver) -> None:
    data_set = instance(3_000_000, "1.2.3.4")
    with raw.raw_peer(running.port) as peer:
        peer.send(raw.store_message("1.2.3.4", data_set[:-2], fragment_bytes=100_000))
        assert peer.status() & 0xF000 == 0xC000
        peer.send(raw.store_message("1.2.3.4", data_set, fragment_bytes=100_000))
        assert peer.status() == 0x0000
        peer.release()
    assert stored(running, "1.2.3.4") == hashlib.sha256(data_set).hexdigest()


def test_a_second_copy_is_known_as_one(running: Receiver) -> None:
    for n_bytes in (100, 3_000_000):
        uid = f"1.2.3.{n_bytes}"
        data_set = instance(n_bytes, uid)
        with raw.raw_peer(running.port) as peer:
            for _ in range(2):
                peer.send(raw.store_message(uid, data_set, fragment_bytes=100_000))
                assert peer.status() == 0x0000
            peer.release()
    directory = running.spool.incoming_dir(STUDY)
    assert sorted(path.stem for path in directory.glob("*.dcm")) == ["1.2.3.100", "1.2.3.3000000"]
    assert len([e for e in journal.read(directory) if e["kind"] == "duplicate.same"]) == 2
    assert running.nothing_half_written()


@pytest.mark.parametrize("is_trickling", [False, True])
def test_after_a_while_half_an_instance_behind_others_is_given_up(
    tmp_path: Path, is_trickling: bool
) -> None:
    # What comes slowly is no silence: only a stop ends that.
    limit = 60 if is_trickling else 2
    with (
        receiver(tmp_path, RECEIVER_IDLE_TIMEOUT=limit, STUDY_QUIET_SECONDS=600) as up,
        raw.raw_peer(up.port) as peer,
    ):
        for uid in ("1.2.3.1", "1.2.3.2", "1.2.3.3"):
            assert peer.store(uid, instance(1000, uid)) == 0x0000
        message = raw.store_message("1.2.3.4", instance(100_000, "1.2.3.4"))
        peer.send(message[:50_000])
        if is_trickling:
            up.process.send_signal(signal.SIGTERM)
            for byte in message[50_000:50_400]:
                try:
                    peer.send(bytes((byte,)))
                except OSError:
                    break
                time.sleep(0.05)
            assert up.process.wait(5) == 0
        assert peer.ended(15)
        wait_until(up.nothing_half_written)
        assert stored(up, "1.2.3.4") is None
        assert stored(up, "1.2.3.3") is not None

"""Peers that come in numbers, take their time or never end: everybody else is served as before."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.dcmtk import storescu
from tests.support.instances import encode, make_dataset, new_uid, write_instance
from tests.support.net import wait_until
from tests.support.raw_dicom import (
    COMMAND,
    LAST,
    RawPeer,
    associate_rq,
    dial,
    element,
    p_data,
    raw_peer,
    store_message,
    store_rq,
)  # fmt: skip
from tests.support.receivers import receiver
from tests.support.victims import MARGIN_MB, Victim, unharmed, victim

__all__ = ["unharmed", "victim"]

ENDLESS_BYTES = 400_000_000

pytestmark = pytest.mark.xdist_group("hostile_load")


def test_associations_opened_and_dropped_by_the_thousand_leave_nothing(victim: Victim) -> None:
    request = associate_rq()

    def drop(share: int) -> None:
        for n in range(share, 1200, 3):
            with suppress(OSError, EOFError):
                peer = dial(victim.port)
                if n % 4 == 1:
                    peer.send(request[: n % len(request)])
                elif n % 4 > 1:
                    peer.associate()
                (peer.reset if n % 3 else peer.close)()

    droppers = [threading.Thread(target=drop, args=(share,)) for share in range(3)]
    for dropper in droppers:
        dropper.start()
    most = 0
    while any(dropper.is_alive() for dropper in droppers):
        most = max(most, victim.threads())
        time.sleep(0.05)
    # Two for each association, at most 64 of them, and those that just end.
    assert most < 300
    seats = victim.running.spool.root / "seats"
    wait_until(lambda: not seats.exists() or len(list(seats.iterdir())) <= 1, 15)


def test_senders_of_a_byte_now_and_then_hold_up_nobody(victim: Victim, tmp_path: Path) -> None:
    dataset = make_dataset()
    message = store_message(str(dataset.SOPInstanceUID), encode(dataset))
    request = associate_rq()
    with ExitStack() as stack:
        slow_requests = [stack.enter_context(dial(victim.port).sock) for _ in range(15)]
        slow_data = [stack.enter_context(raw_peer(victim.port)).sock for _ in range(15)]
        threads = victim.threads()
        file = write_instance(tmp_path)
        for at in range(30):
            for sock in slow_requests:
                with suppress(OSError):  # it is told to go
                    sock.sendall(request[at : at + 1])
            for sock in slow_data:
                sock.sendall(message[at : at + 1])
            time.sleep(0.1)
            if at == 10:
                storescu(victim.port, file)
        assert victim.threads() <= threads + 4
        # Who takes so long to ask for an association is sent away.
        assert all(RawPeer(sock).ended(10) for sock in slow_requests)
        for sock in slow_data:
            assert not RawPeer(sock).ended(0.01)
    assert not victim.knows(dataset.SOPInstanceUID)


def test_a_peer_that_reads_no_answers_is_ended(victim: Victim) -> None:
    # The answer repeats what the request calls the instance, so it is as long.
    long_name = element(0x1000, b"1" * 60_000)
    command = store_rq("", leave_out=[0x1000], add=[long_name])
    request = p_data(COMMAND | LAST, command) + p_data(LAST, b"no data set at all")
    with raw_peer(victim.port) as peer, pytest.raises(ConnectionError):
        peer.send(request * 2000)


def test_a_data_set_that_never_ends_stops_at_the_watermark(tmp_path: Path) -> None:
    room = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    data = room / f"pacsor-{new_uid()}"
    data.mkdir()
    free = shutil.disk_usage(room).free
    try:
        with receiver(
            tmp_path,
            DATA_DIR=data,
            DISK_HIGH_WATERMARK=f"{(free - ENDLESS_BYTES // 4) // 1_000_000}MB",
            DISK_LOW_WATERMARK=f"{(free - ENDLESS_BYTES // 8) // 1_000_000}MB",
        ) as running:
            running.spool.root = data / "spool"
            victim = Victim(running, running.scp_pids()[0])
            before = victim.resident_mb()
            dataset = make_dataset()
            uid = str(dataset.SOPInstanceUID)
            piece = p_data(0, bytes(131_066))
            with raw_peer(running.port) as peer:
                peer.send(p_data(COMMAND | LAST, store_rq(uid)) + p_data(0, encode(dataset)))
                for _ in range(ENDLESS_BYTES // len(piece)):
                    peer.send(piece)
                # It still goes on, and what came of it is gone already.
                wait_until(running.nothing_half_written)
                assert victim.resident_mb() < before + MARGIN_MB
                peer.send(p_data(LAST, b"\0\0"))
                assert peer.status() == 0xA700
            assert not victim.knows(uid)
    finally:
        shutil.rmtree(data)

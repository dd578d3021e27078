"""Who is let in: rejections as peers see them, limits over processes, a full disk."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import healthcheck
from pacsor_tasks.disk import is_marked_full, usage_of
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.refusals import Counted, Refused, read
from tests.support.dcmtk import start_storescu, storescu
from tests.support.instances import encode, make_dataset, write_instance, write_study
from tests.support.net import wait_until
from tests.support.raw_dicom import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    RELEASE_RP,
    RawPeer,
    associate_rq,
    dial,
    raw_peer,
)
from tests.support.receivers import Receiver, association, receiver, send

CALLING, CALLED = (1, 1, 3), (1, 1, 7)
CONGESTION, LOCAL_LIMIT = (2, 3, 1), (2, 3, 2)


def rejection(peer: RawPeer, **titles: Any) -> tuple[int, int, int] | None:
    """Result, source and reason of the answer; None if the association was accepted."""
    peer.send(associate_rq(**titles))
    kind, body = peer.read_pdu()
    if kind == ASSOCIATE_AC:
        return None
    assert kind == ASSOCIATE_RJ
    return body[1], body[2], body[3]


def refused(running: Receiver, reason: str, n: int = 1) -> Refused:
    """What the operator sees, once the reason was counted n times."""
    wait_until(lambda: read(running.spool.root).totals.get(reason, 0) >= n)
    return read(running.spool.root)


def kind(found: Refused, reason: str) -> Counted:
    return next(k for k in found.kinds if k.refusal.reason == reason)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver with an allow list and a name of its own."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "allow.cfg").write_text("CT1 127.0.0.1\nDX* 10.0.0.0/8\nSTORESCU * MILVUE\n")
    with receiver(
        directory,
        RECEIVER_ALLOW=directory / "allow.cfg",
        RECEIVER_CHECK_CALLED_AET="true",
        RECEIVER_PROCESSES=2,
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("titles", "numbers"),
    [
        ({"calling_aet": "CT1"}, None),
        ({"calling_aet": "CT2"}, CALLING),
        ({"calling_aet": "DX7"}, CALLING),  # known, but not from here
        ({"calling_aet": "CT1", "called_aet": "PACS"}, CALLED),
        ({"calling_aet": "STORESCU", "called_aet": "OTHER"}, CALLED),
    ],
)
def test_a_rejection_says_why(
    guarded: Receiver, titles: dict[str, str], numbers: tuple[int, int, int] | None
) -> None:
    with raw_peer(guarded.port, associated=False) as peer:
        assert rejection(peer, **titles) == numbers
        if numbers is None:
            assert peer.release() == RELEASE_RP
        else:
            assert peer.ended()


def test_a_rejected_sender_is_shown_to_the_operator(guarded: Receiver, tmp_path: Path) -> None:
    def intruders() -> list[Counted]:
        kinds = read(guarded.spool.root).kinds
        return [k for k in kinds if k.refusal.calling_aet == "INTRUDER"]

    for _ in range(3):
        sender = start_storescu(
            guarded.port, write_instance(tmp_path), options=("-aet", "INTRUDER", "-aec", "MILVUE")
        )
        output, _ = sender.communicate(timeout=60)
        assert sender.returncode != 0
        assert "Calling AE Title Not Recognized" in output
    wait_until(lambda: [shown.count for shown in intruders()] == [3])
    assert intruders()[0].refusal.address == "127.0.0.1"
    lines = [x for x in guarded.log("association.refused") if x["calling_aet"] == "INTRUDER"]
    assert len(lines) <= 2, "one line a minute and process"


def test_dcmtk_is_let_in_by_name(guarded: Receiver, tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "sent", 2)
    storescu(guarded.port, *files)
    guarded.wait_for_revisions(study_uid, 1)


def test_the_health_check_is_answered_and_not_reported(guarded: Receiver) -> None:
    assert healthcheck.main(["dicom", f"127.0.0.1:{guarded.port}"]) == 0
    time.sleep(1.2)  # the writes come once a second
    shown = {k.refusal.calling_aet for k in read(guarded.spool.root).kinds}
    assert "HEALTHCHECK" not in shown


def test_a_changed_allow_list_counts_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "allow.cfg"
    path.write_text("CT1 *\n")

    def replace(text: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.rename(path)

    with receiver(tmp_path, RECEIVER_ALLOW=path) as running:

        def is_let_in(calling_aet: str) -> bool:
            with raw_peer(running.port, associated=False) as peer:
                return rejection(peer, calling_aet=calling_aet) is None

        assert (is_let_in("CT1"), is_let_in("CT2")) == (True, False)
        replace("CT2 *\n")
        assert (is_let_in("CT1"), is_let_in("CT2")) == (False, True)
        replace("CT1 *\nCT2 * MILVUE a lot more\n")
        assert (is_let_in("CT1"), is_let_in("CT2")) == (False, True)
        (line,) = running.log("allow_list.broken")
        assert "allow.cfg, line 2" in line["error"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"RECEIVER_ALLOW": "nowhere.cfg"}, "RECEIVER_ALLOW: nowhere.cfg cannot be read"),
        ({"RECEIVER_ALLOW": "broken.cfg"}, "RECEIVER_ALLOW: broken.cfg, line 2: "),
        ({"DISK_HIGH_WATERMARK": "5GB", "DISK_LOW_WATERMARK": "1GB"}, "DISK_HIGH_WATERMARK"),
    ],
)
def test_a_start_with_a_mistake_is_refused(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "broken.cfg").write_text("CT1 *\nCT2\n")
    with pytest.raises((AssertionError, ConfigError)) as caught, receiver(tmp_path, **settings):
        pass
    assert complaint in str(caught.value)


def test_the_limit_counts_over_all_processes(tmp_path: Path) -> None:
    with (
        receiver(tmp_path, RECEIVER_PROCESSES=3, RECEIVER_MAX_ASSOCIATIONS=4) as running,
        ExitStack() as stack,
    ):
        open_peers = []
        while True:
            peer = stack.enter_context(raw_peer(running.port, associated=False))
            answer = rejection(peer)
            if answer is not None:
                break
            open_peers.append(peer)
        assert answer == LOCAL_LIMIT
        assert len(open_peers) == 4
        assert kind(refused(running, "too_many"), "too_many").refusal.calling_aet == "RAW"
        # One way or another, an end makes room.
        assert open_peers[0].release() == RELEASE_RP
        open_peers[1].abort()
        open_peers[2].reset()
        for _ in range(3):
            fresh = dial(running.port)
            stack.enter_context(closing(fresh.sock))
            assert rejection(fresh) is None


def test_a_limit_per_peer_and_a_sender_that_comes_right_back(tmp_path: Path) -> None:
    with receiver(tmp_path, RECEIVER_PROCESSES=2, RECEIVER_MAX_ASSOCIATIONS_PER_PEER=1) as running:
        with raw_peer(running.port), raw_peer(running.port, associated=False) as second:
            assert rejection(second) == LOCAL_LIMIT
        for _ in range(30):
            # No pause: the seat of the one before may not be free for a moment.
            with raw_peer(running.port) as peer:
                assert peer.release() == RELEASE_RP
        found = refused(running, "too_many_from_peer")
        assert found.totals == {"too_many_from_peer": 1}


def test_a_process_that_was_killed_holds_no_seat(tmp_path: Path) -> None:
    with receiver(tmp_path, RECEIVER_PROCESSES=1, RECEIVER_MAX_ASSOCIATIONS=1) as running:
        with raw_peer(running.port) as peer:
            os.kill(running.scp_pids()[0], 9)
            assert peer.ended()
        wait_until(lambda: healthcheck.main(["dicom", f"127.0.0.1:{running.port}"]) == 0)
        with raw_peer(running.port):
            pass


def test_who_asks_for_nothing_is_hung_up_on(tmp_path: Path) -> None:
    with receiver(tmp_path, RECEIVER_ASSOCIATE_TIMEOUT=1) as running:
        silent, dripping = dial(running.port), dial(running.port)
        with closing(silent.sock), closing(dripping.sock):
            request = iter(associate_rq())

            def is_hung_up_on() -> bool:
                try:
                    dripping.send(bytes([next(request)]))
                except OSError:
                    return True
                return False

            wait_until(is_hung_up_on, timeout_s=15, interval_s=0.1)
            assert silent.ended(15)
        assert kind(refused(running, "no_request", 2), "no_request").count >= 2
        with raw_peer(running.port) as good:
            assert good.release() == RELEASE_RP


def test_silent_connections_make_room_for_senders(tmp_path: Path) -> None:
    with receiver(tmp_path, RECEIVER_MAX_ASSOCIATIONS=4) as running, ExitStack() as stack:
        loiterers = [stack.enter_context(closing(dial(running.port).sock)) for _ in range(60)]
        with raw_peer(running.port) as good:
            dataset = make_dataset()
            assert good.store(dataset.SOPInstanceUID, encode(dataset)) == 0
            assert good.release() == RELEASE_RP
        assert sum(is_ended(sock) for sock in loiterers) >= 25
        assert refused(running, "no_request").totals["no_request"] >= 25


def is_ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_full_disk_is_told_in_the_protocol_and_passes_by_itself(tmp_path: Path) -> None:
    room = usage_of(tmp_path).free
    if room < 6 * 10**9:
        pytest.skip("not enough room on this disk to seem to fill it")
    high, low = room // 10**6 - 2000, room // 10**6 - 1000
    ballast = tmp_path / "ballast"
    dataset, other, third = make_dataset(), make_dataset(), make_dataset()
    with (
        receiver(
            tmp_path,
            RECEIVER_PROCESSES=2,
            DISK_HIGH_WATERMARK=f"{high}MB",
            DISK_LOW_WATERMARK=f"{low}MB",
        ) as running,
        association(running.port) as opened,
    ):
        assert send(opened, encode(dataset), sop_instance_uid=dataset.SOPInstanceUID)[0] == 0
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 3 * 10**9)
        status, words = send(opened, encode(other), sop_instance_uid=other.SOPInstanceUID)
        assert (status, words) == (0xA700, "Refused: out of resources, try again later")
        with raw_peer(running.port, associated=False) as peer:
            assert rejection(peer) == CONGESTION
        assert is_marked_full(running.spool.root)
        assert kind(refused(running, "disk_full"), "disk_full").refusal.address == "127.0.0.1"
        assert list((running.spool.root).rglob(f"{dataset.SOPInstanceUID}.dcm")), "nothing deleted"
        ballast.unlink()
        # Nobody needs to ask: the processes look by themselves.
        wait_until(lambda: not is_marked_full(running.spool.root))
        status, _ = send(opened, encode(third), sop_instance_uid=third.SOPInstanceUID)
        assert status == 0
        opened.release()
        with raw_peer(running.port) as peer:
            assert peer.release() == RELEASE_RP
        assert len(running.log("disk.full")) == len(running.log("disk.room_again")) == 1

"""What a crash of the machine would lose: nothing that was answered, by the order of the calls.

SIGKILL does not lose what the kernel holds, so here the system calls themselves are looked at:
between the last byte of an instance and its answer there is a sync, of what it has to be of.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tests.support.raw_dicom import InstanceMaker, raw_peer
from tests.support.receivers import receiver
from tests.support.traced import Call, Trace, traced

N_SENDERS, N_INSTANCES = 4, 8
SIZES = (0, 500, 20_000, 300_000)


@pytest.mark.parametrize("durability", ["instance", "group"])
def test_every_instance_is_synced_before_it_is_answered(tmp_path: Path, durability: str) -> None:
    maker = InstanceMaker(3, SIZES)
    with receiver(tmp_path, DURABILITY=durability) as running:
        (pid,) = running.scp_pids()
        with traced(pid, tmp_path / "calls") as trace:
            senders = [
                threading.Thread(target=send_study, args=(running.port, maker, study))
                for study in range(1, N_SENDERS + 1)
            ]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(60)
    for study in range(1, N_SENDERS + 1):
        for instance in range(N_INSTANCES):
            check(trace, *maker.uids(study, instance), has_name_synced=durability == "instance")


def send_study(port: int, maker: InstanceMaker, study: int) -> None:
    with raw_peer(port) as peer:
        for instance in range(N_INSTANCES):
            study_uid, uid = maker.uids(study, instance)
            assert peer.store(uid, maker.data_set(study_uid, uid)) == 0x0000
        peer.release()


def check(trace: Trace, study_uid: str, uid: str, *, has_name_synced: bool) -> None:
    """The order of what was done for one instance."""
    (link,) = trace.of("link linkat renameat2", f"{uid}.dcm")
    partial = re.search(r'"[^"]*/tmp/([^"/]+/[^"/]+)"', link.text)
    assert partial is not None, link.text
    file = f"/tmp/{partial.group(1)}>"
    written = trace.of("write writev pwrite64 pwritev", file)[-1]
    assert written.ended < link.began, "written after it had its name"
    (answer,) = trace.of("sendto sendmsg", "<socket:", uid)
    assert link.ended < answer.began, "answered before it had its name"
    assert between(trace, file, written, link), "its name came before its data was on disk"
    if has_name_synced:
        directory = f"/incoming/{study_uid}>"
        assert between(trace, directory, link, answer), "answered before its name was on disk"


def between(trace: Trace, file: str, first: Call, last: Call) -> list[Call]:
    """The syncs of a file that began after one call and ended before another."""
    return [
        sync
        for sync in trace.of("fdatasync fsync", file)
        if first.ended < sync.began and sync.ended < last.began
    ]

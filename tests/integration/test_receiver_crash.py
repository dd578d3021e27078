"""Processes that die, restarts, and stops."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pacsor_tasks.dicom.headers import data_set_offset
from tests.support.dcmtk import echoscu, start_storescu, storescu
from tests.support.instances import encode, make_dataset, write_study
from tests.support.net import wait_until
from tests.support.receivers import association, is_listening, receiver, send, settings_for


def test_a_process_killed_under_load_loses_nothing_it_answered_for(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "in", 60, n_pixel_bytes=200_000)
    sizes = {path.stem: path.stat().st_size - data_set_offset(path)[1] for path in files}
    chance = random.Random(7)
    answered: set[str] = set()
    with receiver(tmp_path) as running:
        for round_ in range(3):
            (pid,) = wait_until(running.scp_pids)
            current, stop_at = "", chance.randrange(5, 40)
            with start_storescu(running.port, *files) as sender:
                assert sender.stdout is not None
                for line in sender.stdout:
                    if line.startswith("I: Sending file: "):
                        current = Path(line.split(": ", 2)[2].strip()).stem
                    if "Received Store Response (Success)" in line:
                        answered.add(current)
                        stop_at -= 1
                    if stop_at == 0:
                        os.kill(pid, signal.SIGKILL)
                        stop_at = -1
            wait_until(lambda n=round_ + 1: len(running.log("process.ended")) == n)  # type: ignore[misc]
            wait_until(lambda: is_listening(running.port))
        manifests = running.wait_for_revisions(study_uid, 1)
        wait_until(lambda: not any((running.spool.root / "incoming").iterdir()))
        wait_until(running.nothing_half_written)
        manifests = running.revisions(study_uid)
        held = {u: p for m in manifests for u, p in running.instances(study_uid, m).items()}
    assert len(answered) > 10
    assert answered <= set(held)
    for uid, path in held.items():
        assert path.stat().st_size - data_set_offset(path)[1] == sizes[uid], "not whole"


def test_a_dead_process_no_longer_holds_its_studies(tmp_path: Path) -> None:
    dataset = make_dataset()
    with receiver(tmp_path) as running, association(running.port) as opened:
        send(opened, encode(dataset), sop_instance_uid=dataset.SOPInstanceUID)
        os.kill(running.scp_pids()[0], signal.SIGKILL)
        (manifest,) = running.wait_for_revisions(dataset.StudyInstanceUID, 1)
        assert manifest.reason == "quiet"
        # … and its marks and lock are swept away.
        wait_until(lambda: not any((running.spool.root / "associations").iterdir()), 30)
        wait_until(lambda: len(list((running.spool.root / "processes").iterdir())) == 1, 30)


def test_a_start_removes_what_a_crash_left_half_written(tmp_path: Path) -> None:
    spool = tmp_path / "data" / "spool"
    with receiver(tmp_path):
        pass
    (spool / "tmp" / "4711-deadbeef.1.part").write_bytes(b"half")
    (spool / "tmp" / "4711-deadbeef.2.dir").mkdir()
    (spool / "tmp" / "20260101T000000Z-aa.removed").mkdir()
    (spool / "processes" / "4711-deadbeef.lock").touch()
    (spool / "associations" / "1.2.3").mkdir()
    (spool / "associations" / "1.2.3" / "4711-deadbeef.3").touch()
    with receiver(tmp_path) as running:
        wait_until(running.nothing_half_written)
        wait_until(lambda: not any((spool / "associations").iterdir()))
        assert running.log("spool.partials_removed")[0]["n_partial"] == 1


def test_the_parents_death_is_the_processes_death(tmp_path: Path) -> None:
    with receiver(tmp_path, is_clean=False) as running:
        children = [psutil.Process(pid) for pid in running.scp_pids()]
        running.process.kill()
        running.process.wait(10)
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)
    # The port is free again, and so is the spool.
    with receiver(tmp_path) as running:
        echoscu(running.port)


def test_a_stop_lets_a_transfer_finish(tmp_path: Path) -> None:
    dataset = make_dataset()
    encoded = encode(dataset)
    with receiver(tmp_path) as running, association(running.port) as opened:
        assert send(opened, encoded, sop_instance_uid=dataset.SOPInstanceUID)[0] == 0
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_listening(running.port))
        more = make_dataset(dataset.StudyInstanceUID)
        assert send(opened, encode(more), sop_instance_uid=more.SOPInstanceUID)[0] == 0
        opened.release()
        assert running.process.wait(12) == 0
        held = {path.stem for path in running.files("*.dcm")}
        assert held == {dataset.SOPInstanceUID, more.SOPInstanceUID}


def test_a_stop_does_not_wait_for_ever_for_a_silent_sender(tmp_path: Path) -> None:
    with receiver(tmp_path) as running, association(running.port) as opened:
        assert opened.dul.socket is not None
        assert opened.dul.socket.socket is not None
        opened.dul.socket.socket.sendall(b"\x04\x00" + struct.pack(">I", 1000) + b"\x00" * 10)
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CONFIG_PROFILE": "Everything"}, "CONFIG_PROFILE: "),
        ({"FILTER_CFG": "nowhere.cfg"}, "FILTER_CFG: nowhere.cfg cannot be read: No such file"),
        ({"FILTER_CFG": "bad.cfg"}, "FILTER_CFG: bad.cfg, line 4: TransferSyntax1 is there twice"),
        ({"STUDY_QUIET_SECONDS": "soon"}, "STUDY_QUIET_SECONDS: "),
        ({"RECEIVER_HOST": "192.0.2.1"}, "PORT: cannot listen on 192.0.2.1:"),
        ({"DATA_DIR": "/proc/nowhere"}, "DATA_DIR: /proc/nowhere/spool cannot be made"),
    ],
)
def test_wrong_settings_end_the_start_and_say_what_is_wrong(
    tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    (tmp_path / "bad.cfg").write_text(
        "[[TransferSyntaxes]]\n[A]\nTransferSyntax1 = 1.2\nTransferSyntax1 = 1.3\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "receiver", "--port", "0"],
        check=False,
        env=settings_for(tmp_path, **changes),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_another_receiver_serves_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with receiver(tmp_path / "one") as running:
        done = subprocess.run(
            [sys.executable, "-m", "receiver", "--port", str(running.port)],
            check=False,
            env=settings_for(tmp_path / "two"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert "Address already in use" in done.stderr


def test_many_processes_share_the_port(tmp_path: Path) -> None:
    study_uid, files = write_study(tmp_path / "in", 8)
    with receiver(tmp_path, RECEIVER_PROCESSES=3, STUDY_QUIET_SECONDS=1) as running:
        for path in files:
            storescu(running.port, path)
        (manifest,) = running.wait_for_revisions(study_uid, 1)
        assert manifest.n_instances == 8
        served = {line["pid"] for line in running.log("association.ended")}
        assert served <= set(running.scp_pids())
        assert len(served) > 1

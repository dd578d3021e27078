"""A receiver that meets bad peers, and a good sender beside them that must not notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacsor_tasks.dicom.headers import data_set_offset
from tests.support.instances import encode, make_dataset
from tests.support.net import wait_until
from tests.support.raw_dicom import InstanceMaker, raw_peer
from tests.support.receivers import Receiver, receiver

IDLE_S = 2
#: What a process may grow by beside a hundred bad peers; it has 95 MB to begin with.
MARGIN_MB = 40


@dataclass
class Victim:
    """The receiver that meets them all."""

    running: Receiver
    pid: int
    n_threads: int = 0
    n_files: int = 0
    resident: float = 0.0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.running.port

    def threads(self) -> int:
        """How many it has."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def files(self) -> int:
        """How many it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def resident_mb(self) -> float:
        """Memory, MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000

    def is_unharmed(self) -> bool:
        """Whether it is as it was before."""
        return (
            self.running.nothing_half_written()
            and self.threads() <= self.n_threads
            and self.files() <= self.n_files
        )

    def holds(self, uid: str, data_set: bytes) -> bool:
        """Whether the instance was kept, byte for byte."""
        found = self.running.files(f"{uid}.dcm")
        return [p.read_bytes()[data_set_offset(p)[1] :] for p in found] == [data_set]

    def knows(self, uid: str) -> bool:
        """Whether there is a file of that name, whole or not."""
        return bool(self.running.files(f"{uid}*"))


class GoodSender(threading.Thread):
    """Sends all the time, and wants success each time."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.stopped = threading.Event()
        self.n_sent = 0
        self.failure: str | None = None

    def run(self) -> None:
        """Send."""
        maker = InstanceMaker(99, (100, 20_000))
        study = 0
        try:
            while not self.stopped.is_set():
                study += 1
                with raw_peer(self.port) as peer:
                    for instance in range(10):
                        study_uid, uid = maker.uids(study, instance)
                        status = peer.store(uid, maker.data_set(study_uid, uid))
                        assert status == 0, f"status {status:04X}"
                        self.n_sent += 1
                        self.stopped.wait(0.05)
                    peer.release()
        except (OSError, EOFError, AssertionError) as exc:
            self.failure = f"{type(exc).__name__} {exc}"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One receiver, one process, and a good sender beside whatever the tests do."""
    with receiver(
        tmp_path_factory.mktemp("bad"),
        RECEIVER_IDLE_TIMEOUT=IDLE_S,
        RECEIVER_ASSOCIATE_TIMEOUT=2,
        RECEIVER_MAX_ASSOCIATIONS=64,
    ) as running:
        (pid,) = running.scp_pids()
        victim = Victim(running, pid)
        good = GoodSender(running.port)
        good.start()
        try:
            wait_until(lambda: good.n_sent > 20 or good.failure)
            yield victim
        finally:
            good.stopped.set()
            good.join(30)
        assert good.failure is None
        assert running.scp_pids() == [pid], "the process died of its input"
        assert running.log("store.failed") == []
        assert "Traceback" not in running.log_path.read_text()


@pytest.fixture(autouse=True)
def unharmed(victim: Victim) -> Iterator[None]:
    """What every test here ends with."""
    if not victim.n_threads:
        # With the good sender's association, and some room for the next one to begin.
        victim.n_threads, victim.n_files = victim.threads() + 2, victim.files() + 8
        victim.resident = victim.resident_mb()
    yield
    wait_until(victim.is_unharmed, 15)
    assert victim.resident_mb() < victim.resident + MARGIN_MB
    with raw_peer(victim.port) as peer:
        dataset = make_dataset()
        assert peer.store(dataset.SOPInstanceUID, encode(dataset)) == 0x0000
        peer.release()

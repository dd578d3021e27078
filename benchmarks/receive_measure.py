"""One measurement: a server started, a set sent to it, its time and memory taken, and killed."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from benchmarks.receive_servers import MAX_PDU, Launch, Server
from tests.support.net import wait_until

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_S = 0.05
START_S = 30.0
#: A run that takes longer is given up.
SEND_S = 180.0


class Failed(Exception):
    """A run that cannot be counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run took."""

    n_instances: int
    n_bytes: int
    seconds: float
    cpu_s: float
    #: of all processes together, and of the largest one
    peak_bytes: int
    largest_bytes: int

    @property
    def rate(self) -> float:
        """Instances a second."""
        return self.n_instances / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The server's CPU time per instance."""
        return 1000 * self.cpu_s / self.n_instances


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender says of its work."""

    seconds: float
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends files over a number of associations: the C program, or DCMTK's storescu."""

    program: Path
    is_storescu: bool = False

    def send(self, port: int, n_associations: int, files: Sequence[Path]) -> Sent:
        """Send them all.

        Raises:
            Failed: Not everything was answered with success.
        """
        if self.is_storescu:
            return self._storescu(port, n_associations, files)
        command = [self.program, "127.0.0.1", port, n_associations, MAX_PDU, *files]
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, timeout=SEND_S
        )
        if done.returncode:
            raise Failed(f"sender: {(done.stderr or done.stdout).strip()}")
        said = json.loads(done.stdout)
        return Sent(said["seconds"], said["bytes"])

    def _storescu(self, port: int, n_associations: int, files: Sequence[Path]) -> Sent:
        options = ["--max-pdu", MAX_PDU, "--max-send-pdu", MAX_PDU, "127.0.0.1", port]
        shares = [files[n::n_associations] for n in range(n_associations)]
        started = time.monotonic()
        senders = [
            subprocess.Popen(
                [*map(str, [self.program, *options, *share])],
                env={**os.environ, "TCP_NODELAY": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for share in shares
        ]
        statuses = [sender.wait(SEND_S) for sender in senders]
        if any(statuses):
            raise Failed(f"storescu ended with {statuses}")
        return Sent(time.monotonic() - started, sum(f.stat().st_size for f in files))


def measure(
    server: Server, sender: Sender, files: Sequence[Path], n_associations: int, root: Path
) -> Run:
    """Start the server in a new directory, send the files to it, and kill it.

    Raises:
        Failed: It did not start, refused something, or did not keep every instance.
    """
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=root))
    before = _children_s()
    try:
        launch = server.launch(directory)
        with _started(launch, directory) as (process, port):
            idle_s, senders_before = _tree_cpu_s(process), _children_s()
            with Memory(process) as memory:
                sent = sender.send(port, n_associations, files)
            # Those that were waited for: the senders, and children of the server that ended
            # before the server itself did and so became ours. There are none of the latter yet.
            sender_s = _children_s() - senders_before
            _settled(launch, len(files))
        cpu_s = _children_s() - before - sender_s - idle_s
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.sync()  # or the next run would pay for this one's files
    return Run(
        n_instances=len(files),
        n_bytes=sent.n_bytes,
        seconds=sent.seconds,
        cpu_s=max(0.0, cpu_s),
        peak_bytes=memory.peak,
        largest_bytes=memory.largest,
    )


def adopt_orphans() -> None:
    """Make processes whose parent ended this one's children, so that their time is counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@contextmanager
def _started(launch: Launch, directory: Path) -> Iterator[tuple[psutil.Process, int]]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            launch.command,
            env=dict(launch.env),
            cwd=launch.cwd or directory,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    tree = psutil.Process(process.pid)
    try:
        wait_until(lambda: process.poll() is not None or _port(launch), START_S)
        if process.poll() is not None:
            raise Failed((directory / "log").read_text(errors="replace")[-400:])
        yield tree, _port(launch)
    finally:
        _kill(tree)


def _port(launch: Launch) -> int:
    """Where it listens; 0 while it does not."""
    port = launch.port
    if launch.port_file is not None and launch.port_file.exists():
        port = int(launch.port_file.read_text() or 0)
    if not port:
        return 0
    # Looked up, not tried: a connection would be an association to some.
    with Path("/proc/net/tcp").open() as lines:
        return port if any(_listens(line, port) for line in lines) else 0


def _listens(line: str, port: int) -> bool:
    fields = line.split()
    return len(fields) > 3 and fields[1].endswith(f":{port:04X}") and fields[3] == "0A"


def _settled(launch: Launch, n_expected: int) -> None:
    """Wait until every instance is there; some programs go on after their answer."""
    deadline = time.monotonic() + 10
    while (n := launch.files()) != n_expected:
        if time.monotonic() > deadline:
            raise Failed(f"{n} files of {n_expected} instances")
        time.sleep(0.05)


def _kill(tree: psutil.Process) -> None:
    """SIGKILL everything, so that no shutdown is counted, and wait for all of it."""
    with suppress(psutil.NoSuchProcess):
        doomed = [tree, *tree.children(recursive=True)]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.005)
    raise Failed("a process of the server does not end")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree_cpu_s(process: psutil.Process) -> float:
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Memory:
    """The most resident memory of a server, sampled while it runs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        #: bytes of all processes together, and of the largest
        self.peak = self.largest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self._look()
            if self._stop.wait(SAMPLE_S):
                return

    def _look(self) -> None:
        sizes = [_resident_bytes(pid) for pid in _tree(self._process.pid)]
        self.peak = max(self.peak, sum(sizes))
        self.largest = max(self.largest, *sizes)


def _tree(pid: int) -> list[int]:
    """A process and all below it. As psutil's, which looks at every process of the machine."""
    found = [pid]
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _tree(int(child))
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0

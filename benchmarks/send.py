"""How fast instances are sent: this SCU beside DCMTK's storescu and dcmsend, and pynetdicom's.

    python -m benchmarks.send [--quick] [--rounds 5] [--only NAME…] [--write-docs]

To two sinks: DCMTK's storescp with TCP_NODELAY and PDUs of 128 kB, which writes nothing; and a C
program that throws the data away in the kernel, so that the sender alone is the limit (needs a C
compiler). Interleaved, medians over the rounds. A run in which not every instance was answered with
success is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from benchmarks import docs
from benchmarks.receive_report import machine
from benchmarks.receive_servers import program
from benchmarks.receive_sets import SETS, InstanceSet
from tests.support.net import free_port, wait_until

QUICK_SETS = (
    InstanceSet("small", 500, 70, 64),
    InstanceSet("CT", 100, 512, 512),
    InstanceSet("DX", 8, 3000, 2500),
)
MAX_PDU = 131_072
#: A run that takes longer is given up, seconds.
SEND_S = 300.0
#: A set is sent so many times over, or the start of a program would weigh too much.
TIMES = {"small": 3, "CT": 5, "DX": 5}
#: Runs with one instance whose median is a program's start.
N_STARTS = 3
#: At least so many times as fast as STORESCU, on every set.
TARGET = 1.5


class Failed(Exception):
    """A run that cannot be counted."""


class Run(NamedTuple):
    """What one run took."""

    n_instances: int
    n_bytes: int
    seconds: float
    cpu_s: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Instances a second."""
        return self.n_instances / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The sender's CPU time per instance."""
        return 1000 * self.cpu_s / self.n_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """One that is compared."""

    name: str
    #: before the files; {port} is put in
    command: tuple[str, ...]
    environment: Mapping[str, str]
    #: Says itself what it took; of a plain program the whole run counts, less that of a run with
    #: one instance: its start.
    reports: bool
    #: share of a set's instances that it is given: the slow ones get less
    shares: Mapping[str, float]

    def run(self, port: int, files: Sequence[Path]) -> Run:
        """Send a share of the files.

        Raises:
            Failed: Not everything was stored.
        """
        size = sum(file.stat().st_size for file in files)
        if self.reports:
            said = json.loads(self._output(port, files).printed.splitlines()[-1])
            return Run(len(files), size, said["seconds"], said["cpu_s"], said["peak_bytes"])
        starts = [self._output(port, files[:1]) for _ in range(N_STARTS)]
        start_s = statistics.median(start.seconds for start in starts)
        start_cpu_s = statistics.median(start.cpu_s for start in starts)
        whole = self._output(port, files)
        return Run(
            len(files) - 1,
            size - files[0].stat().st_size,
            max(0.001, whole.seconds - start_s),
            max(0.0, whole.cpu_s - start_cpu_s),
            whole.peak_bytes,
        )

    def share(self, one: InstanceSet) -> int:
        """How many of a set's instances it gets."""
        n_all = one.n_instances * TIMES[one.name]
        return max(2, round(n_all * self.shares.get(one.name, 1.0)))

    def _output(self, port: int, files: Sequence[Path]) -> Ended:
        command = [part.format(port=port) for part in self.command] + [str(f) for f in files]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with Peak(process.pid) as peak:
            assert process.stdout is not None
            printed = process.stdout.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            raise Failed(f"{self.name} ended with {process.returncode}: {printed.strip()[-300:]}")
        return Ended(printed, seconds, used.ru_utime + used.ru_stime, peak.peak_bytes)


class Ended(NamedTuple):
    """A program's run."""

    printed: str
    seconds: float
    cpu_s: float
    peak_bytes: int


class Peak:
    """The most resident memory of a process, looked up while it runs."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            with suppress(OSError):
                for line in self._status.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)


OURS, STORESCU = "pacsor-tasks", "DCMTK storescu, TCP_NODELAY"
STORESCP, FLOOR = "storescp", "a C sink"


def senders() -> list[Sender]:
    """All that are installed, ours first."""

    def python(name: str, kind: str, associations: int = 1, **shares: float) -> Sender:
        driver = (sys.executable, "-m", "benchmarks.send_driver", kind, "{port}", str(associations))
        return Sender(name=name, command=driver, environment={}, reports=True, shares=shares)

    def dcmtk(name: str, tool: str, no_delay: str, **shares: float) -> Iterator[Sender]:
        if found := program(tool):
            command = (found, "--max-pdu", str(MAX_PDU), "--max-send-pdu", str(MAX_PDU))
            yield Sender(
                name=name,
                command=(*command, "127.0.0.1", "{port}"),
                environment={"TCP_NODELAY": no_delay},
                reports=False,
                shares=shares,
            )

    return [
        python(OURS, "ours"),
        *dcmtk(STORESCU, "storescu", "1"),
        *dcmtk("DCMTK dcmsend, TCP_NODELAY", "dcmsend", "1"),
        *dcmtk("DCMTK storescu as shipped", "storescu", "0", small=0.015, CT=0.06, DX=0.2),
        python("pynetdicom", "pynetdicom", small=0.015, CT=0.06, DX=0.1),
    ]


class Cell(NamedTuple):
    """What is measured several times."""

    sink: str
    set_name: str
    sender: str


Found = dict[Cell, list[Run]]


def main() -> None:
    """Measure, print the tables and whether the target is met."""
    options = _options()
    sets = [s for s in (QUICK_SETS if options.quick else SETS) if s.name in options.sets]
    compared = [s for s in senders() if not options.only or any(o in s.name for o in options.only)]
    found: Found = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="send-") as root:
        sinks = {n: c for n, c in _sinks(Path(root)).items() if n in options.sinks}
        files = {one.name: one.files(Path(root)) * TIMES[one.name] for one in sets}
        for _ in range(2 if options.quick else options.rounds):
            for name, one, sender in product(sinks, sets, compared):
                if name == STORESCP or not sender.shares:
                    share = files[one.name][: sender.share(one)]
                    _measure(sinks[name], sender, Cell(name, one.name, sender.name), share, found)
    text = markdown(found, options.dir)
    print(text)
    print(checked(found))
    if options.write_docs:
        docs.write("send", text)


def _sinks(directory: Path) -> dict[str, tuple[str, ...]]:
    """The commands of those that can be had; the port is still to be put in."""
    found: dict[str, tuple[str, ...]] = {}
    if storescp := program("storescp"):
        command = (storescp, "--ignore", "--fork", "--max-pdu", str(MAX_PDU), "{port}")
        found[STORESCP] = command
    if compiler := next((path for c in ("cc", "gcc", "clang") if (path := shutil.which(c))), None):
        made, source = directory / "send_sink", Path(__file__).parent / "send_sink.c"
        subprocess.run([compiler, "-O2", "-o", made, source], check=True)
        found[FLOOR] = (str(made), "{port}", str(MAX_PDU))
    return found


def _measure(
    sink_command: Sequence[str], sender: Sender, cell: Cell, files: Sequence[Path], found: Found
) -> None:
    try:
        with sink(sink_command) as port:
            run = sender.run(port, files)
    except Failed as exc:
        print(f"{cell}: {exc}", file=sys.stderr)
        return
    found[cell].append(run)
    print(
        f"{cell.sink:8} {cell.set_name:6} {sender.name:30} {run.rate:8.0f}/s  {run.cpu_ms:7.3f} ms"
        f"  {run.peak_bytes / 1e6:4.0f} MB",
        file=sys.stderr,
    )


@contextmanager
def sink(command: Sequence[str]) -> Iterator[int]:
    """A running sink; its port."""
    port = free_port()
    process = subprocess.Popen(
        [part.format(port=port) for part in command],
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with Path("/proc/net/tcp").open() as lines:
        fields = (line.split() for line in lines)
        return any(f[1].endswith(f":{port:04X}") and f[3] == "0A" for f in fields)


def markdown(found: Found, directory: Path) -> str:
    """One table for each set and sink."""
    n_rounds = max((len(runs) for runs in found.values()), default=0)
    parts = [
        f"{machine(directory)} Medians of {n_rounds} rounds, one association; CPU is the sender's,"
        " user and system; memory is its peak. The ratio is this SCU to the row."
    ]
    for set_name, name in sorted({(c.set_name, c.sink) for c in found}, key=_order):
        rows = {c.sender: found[c] for c in found if (c.set_name, c.sink) == (set_name, name)}
        ours = _rate(found, Cell(name, set_name, OURS))
        first = next(iter(rows.values()))[0]
        parts.append(
            f"**{set_name}, instances of {first.n_bytes / first.n_instances / 1000:,.0f} kB, to"
            f" {name}**\n\n"
            "| sender | instances/s | MB/s | CPU ms/instance | peak MB | ratio |\n"
            "|---|---|---|---|---|---|\n"
            + "\n".join(_row(sender, runs, ours) for sender, runs in rows.items())
        )
    return "\n\n".join(parts)


def _order(key: tuple[str, str]) -> tuple[int, str]:
    return [one.name for one in SETS].index(key[0]), key[1]


def _row(sender: str, runs: Sequence[Run], ours: float | None) -> str:
    rate = statistics.median(run.rate for run in runs)
    megabytes = rate * runs[0].n_bytes / runs[0].n_instances / 1e6
    cpu = statistics.median(run.cpu_ms for run in runs)
    peak = max(run.peak_bytes for run in runs) / 1e6
    ratio = "" if ours is None else f"{ours / rate:.2f}"
    return f"| {sender} | {rate:,.0f} | {megabytes:,.0f} | {cpu:.2f} | {peak:.0f} | {ratio} |"


def checked(found: Found) -> str:
    """One line for each set and sink: the target met or missed."""
    lines = []
    for set_name, name in sorted({(c.set_name, c.sink) for c in found}, key=_order):
        ours, theirs = (_rate(found, Cell(name, set_name, who)) for who in (OURS, STORESCU))
        if ours and theirs:
            word = "PASS" if ours >= TARGET * theirs else "MISS"
            lines.append(
                f"{word}  {set_name} to {name}: {ours / theirs:.2f} of storescu (at least {TARGET})"
            )
    return "\n".join(lines)


def _rate(found: Found, cell: Cell) -> float | None:
    runs = found.get(cell)
    return statistics.median(run.rate for run in runs) if runs else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds, less of each set")
    parser.add_argument("--only", nargs="+", help="senders whose name contains one of these")
    parser.add_argument("--sinks", nargs="+", default=[STORESCP, FLOOR])
    parser.add_argument("--sets", nargs="+", default=[s.name for s in SETS])
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where the files are made")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""A large study through the whole gateway: time, and the most memory each process held.

    python -m benchmarks.large_study [--instances 1000] [--megabytes 500]

A gateway (`pacsor up`) with signed uploads to the simulated AI, dcmtk on both sides. Memory is
resident, sampled each 100 ms from /proc; a process's peak is also what the kernel says (VmHWM).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil

from simulators.milvue import MilvueSimulator
from tests.support.dcmtk import dcmsend
from tests.support.gateway import Gateway, gateway
from tests.support.pacs_peers import storescp
from tests.support.studies import make_study, study_uid_of


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--direct", action="store_true", help="SIGNED_URL=false")
    options = parser.parse_args()
    side = int((options.megabytes * 1e6 / options.instances / 2) ** 0.5)
    with tempfile.TemporaryDirectory() as root:
        tmp = Path(root)
        (tmp / "pacs").mkdir()
        with (
            MilvueSimulator(token="key", running_times=0, keep_files=False) as api,
            storescp(tmp / "pacs", "+xa") as pacs,
            gateway(
                tmp,
                {
                    "API_URL": api.url, "TOKEN": "key", "DESTINATIONS": "storescu",
                    "SIGNED_URL": str(not options.direct), "PACS_IP": "127.0.0.1",
                    "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
                },
            ) as running,
        ):  # fmt: skip
            _run(running, tmp, options.instances, side)


def _run(running: Gateway, tmp: Path, n: int, side: int) -> None:
    files = make_study(tmp / "study", n, side=side)
    size = sum(f.stat().st_size for f in files)
    print(f"{n} instances, {size / 1e6:.0f} MB")
    peaks = Peaks(running)
    started = time.monotonic()
    dcmsend(running.port, tmp / "study")
    received_s = time.monotonic() - started
    study = running.ended(study_uid_of(files), timeout_s=1200)
    total_s = time.monotonic() - started
    run = study["runs"][0]
    print(f"received in {received_s:.1f} s, run {run['state']} after {total_s:.1f} s in all")
    for event in study["events"]:
        print(f"  {event['at']}  {event['kind']:20} {event['message']}")
    print("\n| process | peak MB |\n|---|---|")
    for name, peak in sorted(peaks.stop().items(), key=lambda item: -item[1]):
        print(f"| {name} | {peak / 1e6:.0f} |")


class Peaks:
    """The highest resident memory by process, while it runs."""

    def __init__(self, running: Gateway) -> None:
        self._running = running
        self._peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        """End the sampling; peaks in bytes."""
        self._stop.set()
        self._thread.join()
        return self._peaks

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            for process in self._running.processes():
                try:
                    name = f"{process.pid} {_short(process.cmdline())}"
                    peak = max(process.memory_info().rss, _high_water(process.pid))
                except (psutil.Error, OSError):
                    continue
                self._peaks[name] = max(peak, self._peaks.get(name, 0))


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _short(command: list[str]) -> str:
    words = [w for w in command if not w.startswith("-")][:4]
    return " ".join(Path(w).name for w in words)


if __name__ == "__main__":
    main()

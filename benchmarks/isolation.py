"""Whether a dead PACS costs the others anything: every way to be dead, every place in the list.

    python -m benchmarks.isolation [--studies 6] [--per-hour 200] [--write-docs]

A gateway (`pacsor up`, 4 worker slots) with three PACSs and an AI that is done at once, for each
place in DESTINATIONS; the three gateways run side by side. Studies of 2 instances of 1 MB come at
an even pace: first with all PACSs well, then for each way with the PACS in that place dead, between
the ways with all well until nothing waits. A delay is from the last C-STORE answer to the modality
to the study's last result at a PACS. What a way costs is the worst delay of any study at the two
others minus the median with all well.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import docs
from benchmarks.pipeline_load import Load
from benchmarks.pipeline_stage import simulator
from tests.support.gateway import Gateway, gateway
from tests.support.net import free_port, wait_until

NAMES = ("storescu", "storescu-2", "storescu-3")
#: The most that a dead PACS may cost the others, seconds.
TARGET_S = 1.0
#: What happens → what the simulator is told; None: something is done to its port.
WAYS: Mapping[str, Mapping[str, Any] | None] = {
    "refuses the connection": None,
    "blackholed: no answer to SYN": None,
    "accepts and is silent": {"silent": "associate"},
    "aborts amid the transfer": {"abort_after": 1},
    "answers 0xA700": {"status": 0xA700},
    "answers 0xC000": {"status": 0xC000},
    "answers 0xB000 (kept, a warning)": {"status": 0xB000},
    "answers 0x0111 (has it already)": {"status": 0x0111},
}
REFUSED, BLACKHOLED = list(WAYS)[:2]
#: A way, or with all well: delays at the PACSs that are well, seconds.
Delays = dict[str, list[float]]
WELL = "all well"


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=6, help="for each way")
    parser.add_argument("--per-hour", type=float, default=200)
    parser.add_argument("--slots", type=int, default=4, help="WORKER_CONCURRENCY")
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    found: dict[int, Delays] = {}
    failed: list[BaseException] = []

    def measure(place: int, directory: Path) -> None:
        try:
            found[place] = _of_place(place, directory, options)
        except BaseException as exc:
            failed.append(exc)
            raise

    with tempfile.TemporaryDirectory(dir=options.dir, prefix="isolation-") as root:
        threads = [
            threading.Thread(target=measure, args=(place, _made(Path(root) / str(place))))
            for place in range(len(NAMES))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise SystemExit(f"{len(failed)} of the gateways failed")
    text, checks = _report(found, options)
    print(text)
    print("\n".join(checks))
    if options.write_docs:
        docs.write("isolation", text)


@dataclass
class Peer:
    """A simulated PACS on a port that stays its own.

    Args:
        directory: For its journal and switches.
        name: In DESTINATIONS.
    """

    directory: Path
    name: str
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None
    _hole: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        """Listen, and be well."""
        self._switches.write_text("{}")
        options = {
            "--port": self.port, "--journal": self._journal, "--switches": self._switches,
            "--port-file": self._is_up, "--set": "keep_files=false",
        }  # fmt: skip
        self._is_up.unlink(missing_ok=True)
        command = [str(word) for option in options.items() for word in option]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulators", "pacs", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._is_up.exists, 30)

    def stop(self) -> None:
        """Listen no longer. Safe to repeat."""
        self._hole.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def die(self, way: str) -> None:
        """Be dead that way."""
        switches = WAYS[way]
        if switches is not None:
            self._switches.write_text(json.dumps(switches))
            return
        self.stop()
        if way == BLACKHOLED:
            self._hole.enter_context(blackhole(self.port))

    def heal(self) -> None:
        """Be well again."""
        # A file of switches that says nothing changes nothing: so it starts anew.
        self.stop()
        self.start()

    def arrivals(self) -> dict[str, float]:
        """When the last result of each study was here, epoch seconds."""
        found: dict[str, float] = {}
        for line in self._journal.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "store" and event.get("status") == 0:
                found[event["study_uid"]] = max(found.get(event["study_uid"], 0), event["at"])
        return found

    @property
    def _journal(self) -> Path:
        return self.directory / f"{self.name}.jsonl"

    @property
    def _switches(self) -> Path:
        return self.directory / f"{self.name}.switches"

    @property
    def _is_up(self) -> Path:
        return self.directory / f"{self.name}.port"


@contextmanager
def blackhole(port: int) -> Iterator[None]:
    """A port whose SYNs are dropped: its queue of connections is full and nobody takes one."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.settimeout(0.2)
            if waiting.connect_ex(("127.0.0.1", port)):
                break
        else:
            raise RuntimeError("the port still answers")
        yield


def _of_place(place: int, directory: Path, options: argparse.Namespace) -> Delays:
    """The delays with the PACS in that place of the list dead in every way."""
    with ExitStack() as stack:
        pacs = [Peer(directory, name) for name in NAMES]
        for peer in pacs:
            peer.start()
            stack.callback(peer.stop)
        api, _ = stack.enter_context(
            simulator(directory, "milvue", "--running-times", "0", "--token", "key")
        )
        settings = {
            "API_URL": f"http://127.0.0.1:{api}", "TOKEN": "key",
            "WORKER_CONCURRENCY": str(options.slots), "DESTINATIONS": ",".join(NAMES),
        }  # fmt: skip
        for suffix, peer in zip(("", "_2", "_3"), pacs, strict=True):
            settings |= {
                f"PACS_IP{suffix}": "127.0.0.1", f"PACS_PORT{suffix}": str(peer.port),
                f"PACS_AET{suffix}": "PACS",
            }  # fmt: skip
        running = stack.enter_context(gateway(directory, settings))
        load = Load(running.port, directory)
        doomed, others = pacs[place], [p for n, p in enumerate(pacs) if n != place]
        _delays(load, others, 1, options.per_hour)  # whatever is loaded with the first study
        found = {WELL: _delays(load, others, options.studies, options.per_hour)}
        for way in WAYS:
            doomed.die(way)
            found[way] = _delays(load, others, options.studies, options.per_hour)
            doomed.heal()
            waited_s = _drained(running)
            worst = max(found[way])
            print(f"{doomed.name} {way}: {worst:.2f} s; drained in {waited_s:.0f} s", flush=True)
        return found


def _delays(load: Load, others: list[Peer], n: int, per_hour: float) -> list[float]:
    """Send `n` studies; how long each took to each of the PACSs that are well."""
    before = set(load.answered)
    load.start(n, per_hour, lambda: n).join()
    sent = [uid for uid in load.answered if uid not in before]
    wait_until(lambda: all(peer.arrivals().keys() >= set(sent) for peer in others), 120, 0.3)
    return [peer.arrivals()[uid] - load.answered[uid] for peer in others for uid in sent]


def _drained(running: Gateway) -> float:
    """Wait until nothing waits for any of the PACSs, or three minutes; seconds."""
    began = time.monotonic()
    while time.monotonic() < began + 180:
        if not any(p.get("waiting") for p in running.get("/api/peers")):
            break
        time.sleep(0.5)
    return time.monotonic() - began


def _report(found: dict[int, Delays], options: argparse.Namespace) -> tuple[str, list[str]]:
    places = sorted(found)
    usual = {place: statistics.median(found[place][WELL]) for place in places}
    rows, checks = [], []
    for way in (WELL, *WAYS):
        cells = []
        for place in places:
            delays = found[place][way]
            cost = max(delays) - usual[place]
            cells.append(f"{statistics.median(delays):.2f}, {max(delays):.2f} ({cost:+.2f})")
            verdict = "PASS" if cost <= TARGET_S else "MISS"
            if way != WELL:
                checks.append(f"{verdict}  {NAMES[place]} {way}: {cost:+.2f} s")
        rows.append(f"| {way} | " + " | ".join(cells) + " |")
    places_said = " | ".join(f"{('first', 'second', 'third')[p]} of three dead" for p in places)
    text = (
        f"{options.studies} studies for each cell, {options.per_hour:g} an hour, {options.slots}"
        " worker slots; seconds until a study's results were at the two PACSs that were well:"
        f" median, worst (worst minus the median with all well).\n\n| the PACS | {places_said} |\n"
        f"|---|{'---|' * len(places)}\n" + "\n".join(rows)
    )
    return text, checks


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


if __name__ == "__main__":
    main()

"""How fast instances are received: this receiver beside DCMTK, Orthanc, pynetdicom and plain C.

    python -m benchmarks.receive [--quick] [--sender storescu] [--write-docs]

Everything interleaved, each run with a freshly started server and an empty directory, medians over
the rounds. A run whose server did not keep every instance is not counted. Needs a C compiler (the
sender is a C program, so that it is not the limit); peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import receive_report as report
from benchmarks.receive_measure import Failed, Run, Sender, adopt_orphans, measure
from benchmarks.receive_report import Cell
from benchmarks.receive_servers import DCMTK, OURS, OURS_UNSAFE, Server, program, servers
from benchmarks.receive_sets import HUGE, SETS, InstanceSet
from pacsor_tasks.native import native

SOURCES = Path(__file__).parent
DOCS = SOURCES.parent / "docs" / "benchmarks.md"
#: --quick: less of each.
QUICK_SETS = (InstanceSet("small", 400, 70, 64), InstanceSet("CT", 60, 512, 512))
STORESCU_SERVERS = (OURS, OURS_UNSAFE, DCMTK)


def main() -> None:
    """Measure, print the tables and what the targets say of them."""
    options = _options()
    if native is None and not os.environ.get("WITHOUT_NATIVE"):
        sys.exit("the receiver's inner loops are not compiled: make install")
    adopt_orphans()
    sets = QUICK_SETS if options.quick else SETS
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="receive-") as root:
        directory = Path(root)
        sender = Sender(_compiled("receive_sender", directory))
        compared = servers(_compiled("receive_floor", directory))
        if options.sender == "storescu":
            sender = Sender(Path(program("storescu") or sys.exit("no storescu")), is_storescu=True)
            compared = [s for s in compared if s.name in STORESCU_SERVERS]
        if options.only:
            compared = [s for s in compared if any(o in s.name for o in options.only)]
        cells = [
            Cell(one.name, n, server.name)
            for one in sets
            for n in options.associations
            for server in compared
        ]
        bench = Bench(directory, sender, sets, {server.name: server for server in compared})
        found = bench.rounds(cells, 1 if options.quick else options.rounds)
        huge = None if options.quick or options.sender else bench.huge()
    text = report.markdown(found, sender.program.name, options.dir, huge)
    print(text)
    print(report.checked(found, huge))
    if options.write_docs:
        report.write(DOCS, options.name or options.sender or "blast", text)


class Bench:
    """Runs what is asked for.

    Args:
        root: For the files that are sent and that arrive, on the disk that is measured.
        sender: Sends them.
        sets: What may be sent.
        compared: The servers by name.
    """

    def __init__(
        self,
        root: Path,
        sender: Sender,
        sets: tuple[InstanceSet, ...],
        compared: dict[str, Server],
    ) -> None:
        self.root = root
        self.sender = sender
        self.compared = compared
        self.files = {one.name: one.files(root / "sets") for one in sets}

    def rounds(self, cells: list[Cell], n: int) -> dict[Cell, list[Run]]:
        """Measure every cell, n times over, so that what the machine does beside hits them all."""
        found: dict[Cell, list[Run]] = defaultdict(list)
        for round_ in range(1, n + 1):
            started = time.monotonic()
            for cell in cells:
                if (run := self._run(cell)) is not None:
                    found[cell].append(run)
            print(f"round {round_} of {n}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        return found

    def huge(self) -> Run | None:
        """One instance of 2 GB to this receiver."""
        if OURS not in self.compared:
            return None
        files = HUGE.files(self.root / "sets")
        return measure(self.compared[OURS], self.sender, files, 1, self.root)

    def _run(self, cell: Cell) -> Run | None:
        server, files = self.compared[cell.server], self.files[cell.set_name]
        n = server.share(cell.set_name, len(files), cell.n_associations)
        try:
            run = measure(server, self.sender, files[:n], cell.n_associations, self.root)
        except (Failed, subprocess.TimeoutExpired) as exc:
            print(f"{cell}: not counted: {exc}", file=sys.stderr)
            return None
        print(
            f"{cell.set_name:6} x{cell.n_associations}  {cell.server:40} {run.rate:8.0f}/s"
            f"  {run.cpu_ms:7.2f} ms  {run.peak_bytes / 1e6:5.0f} MB",
            file=sys.stderr,
        )
        return run


def _compiled(name: str, directory: Path) -> Path:
    compiler = next((path for c in ("cc", "gcc", "clang") if (path := shutil.which(c))), None)
    if compiler is None:
        sys.exit("A C compiler is needed for the sender and the floor: apt install gcc")
    made = directory / name
    source = SOURCES / f"{name}.c"
    subprocess.run([compiler, "-O2", "-pthread", "-o", made, source], check=True)
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--quick", action="store_true", help="one round, less of each set")
    parser.add_argument("--only", nargs="+", help="servers whose name contains one of these")
    parser.add_argument("--sender", choices=["storescu"], help="in place of the C sender")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/")
    parser.add_argument("--name", help="of the tables there: receive-NAME")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The tables of `benchmarks.receive`, and its targets."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.receive_measure import Run
from benchmarks.receive_servers import DCMTK, FLOOR_SYNC, ORTHANC, OURS, OURS_UNSAFE, STOCK

#: (whose, at least so many times, whose, on these sets)
TARGETS: Sequence[tuple[str, float, str, tuple[str, ...]]] = (
    (OURS_UNSAFE, 1.0, DCMTK, ("CT", "DX")),
    (OURS_UNSAFE, 0.8, DCMTK, ("small",)),
    (OURS, 0.8, FLOOR_SYNC, ("small", "CT", "DX")),
    (OURS, 2.0, ORTHANC, ("small", "CT", "DX")),
    (OURS, 5.0, STOCK, ("small", "CT", "DX")),
)
MOST_MB = 120


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured several times."""

    set_name: str
    n_associations: int
    server: str


Found = Mapping[Cell, Sequence[Run]]


def markdown(found: Found, sender: str, directory: Path, huge: Run | None) -> str:
    """One table for each set and number of associations."""
    n_rounds = max((len(runs) for runs in found.values()), default=0)
    parts = [
        f"{machine(directory)} Sender: `{sender}`; medians of {n_rounds} rounds. CPU is the"
        " server's, user and system; memory is resident, of all its processes together (what they"
        " share is counted for each). The ratio is this receiver, as shipped, to the row."
    ]
    for set_name, n in dict.fromkeys((c.set_name, c.n_associations) for c in found):
        cells = [c for c in found if (c.set_name, c.n_associations) == (set_name, n)]
        ours = _rate(found, Cell(set_name, n, OURS))
        size = found[cells[0]][0]
        kilobytes = size.n_bytes / size.n_instances / 1000
        rows = [_row(c.server, found[c], ours) for c in cells if found[c]]
        parts.append(
            f"**{set_name}, instances of {kilobytes:,.0f} kB, associations: {n}**\n\n"
            "| receiver | instances/s | MB/s | CPU ms/instance | peak MB | ratio |\n"
            "|---|---|---|---|---|---|\n" + "\n".join(rows)
        )
    if huge is not None:
        parts.append(
            f"One instance of {huge.n_bytes / 1e9:.1f} GB: {huge.n_bytes / 1e6 / huge.seconds:.0f}"
            f" MB/s; the largest process at {huge.largest_bytes / 1e6:.0f} MB."
        )
    return "\n\n".join(parts)


def checked(found: Found, huge: Run | None) -> str:
    """One line per target and cell: met or missed."""
    lines = [line for target in TARGETS for line in _ratios(found, *target)]
    runs = [run for cell, runs in found.items() if cell.server == OURS for run in runs]
    for name, some in (("every run", runs), ("2 GB", [huge] if huge else [])):
        if some:
            most = max(run.largest_bytes for run in some) / 1e6
            lines.append(f"{_word(most < MOST_MB)}  memory, {name}: {most:.0f} MB < {MOST_MB} MB")
    return "\n".join(lines)


def write(docs: Path, name: str, text: str) -> None:
    """Put a text between its markers, which are added at the end if they are not there."""
    begin, end = f"<!-- receive-{name}: begin -->", f"<!-- receive-{name}: end -->"
    before, _, rest = docs.read_text().partition(begin)
    _, _, after = rest.partition(end)
    docs.write_text(f"{before.rstrip()}\n\n{begin}\n{text}\n{end}\n{after}")


def machine(directory: Path) -> str:
    """What it was measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory_gb:.0f} GB, Linux {platform.release()}, Python"
        f" {platform.python_version()}; files on {_file_system(directory)}; everything on the one"
        " machine."
    )


def _file_system(directory: Path) -> str:
    path = str(directory.resolve())
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [m for m in mounts if path == m[1] or path.startswith(m[1].rstrip("/") + "/")]
    device, _, kind = max(inside, key=lambda m: len(m[1]), default=("?", "", "?"))
    return f"{kind} ({device})"


def _row(server: str, runs: Sequence[Run], ours: float | None) -> str:
    rate = statistics.median(run.rate for run in runs)
    megabytes = rate * runs[0].n_bytes / runs[0].n_instances / 1e6
    cpu = statistics.median(run.cpu_ms for run in runs)
    peak = max(run.peak_bytes for run in runs) / 1e6
    ratio = "" if ours is None else f"{ours / rate:.2f}"
    return f"| {server} | {rate:,.0f} | {megabytes:,.0f} | {cpu:.2f} | {peak:.0f} | {ratio} |"


def _rate(found: Found, cell: Cell) -> float | None:
    runs = found.get(cell)
    return statistics.median(run.rate for run in runs) if runs else None


def _ratios(
    found: Found, ours: str, least: float, theirs: str, sets: tuple[str, ...]
) -> Iterator[str]:
    for set_name, n in dict.fromkeys((c.set_name, c.n_associations) for c in found):
        mine = _rate(found, Cell(set_name, n, ours))
        peers = _rate(found, Cell(set_name, n, theirs))
        if set_name in sets and mine and peers:
            yield (
                f"{_word(mine >= least * peers)}  {set_name} x{n}: {ours}"
                f" {mine / peers:.2f} of {theirs} (at least {least})"
            )


def _word(is_met: bool) -> str:
    return "PASS" if is_met else "MISS"

"""Whether all workers together keep to UPLOAD_RATE, and whether a 429 stops all of them.

    python -m benchmarks.limits [--rate 20] [--workers 4] [--write-docs]

A whole gateway with so many worker slots; as many studies, uploaded at once. What counts is what
the simulated API saw: how many instances arrived in any five seconds. Half way it answers one
upload with 429 and Retry-After.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import requests

from benchmarks import docs
from benchmarks.pipeline_load import Load
from benchmarks.pipeline_stage import Stage, require_peers, stage

WINDOW_S = 5.0
RETRY_AFTER_S = 3
TOLERANCE = 0.1


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15, help="before the 429, and after it")
    parser.add_argument("--dir", type=Path, default=Path.cwd())
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    require_peers()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="limits-") as root:
        settings = {
            "STUDY_QUIET_SECONDS": "1", "UPLOAD_RATE": str(options.rate),
            "WORKER_CONCURRENCY": str(options.workers),
        }  # fmt: skip
        with stage(Path(root), settings) as running:
            arrivals, refused_at = _uploads(running, Path(root), options)
    before = [at for at in arrivals if at < refused_at]
    after = [at for at in arrivals if at > refused_at + RETRY_AFTER_S]
    during = [at for at in arrivals if refused_at < at < refused_at + RETRY_AFTER_S - 0.2]
    text, checks = _report(options, before, after, during, refused_at)
    print(text)
    print("\n".join(checks))
    if options.write_docs:
        docs.write("limits", text)


def _uploads(
    running: Stage, directory: Path, options: argparse.Namespace
) -> tuple[list[float], float]:
    """When each instance arrived, and when one was refused."""
    n_each = int(options.rate * options.seconds * 2 / options.workers)
    loads = [
        Load(running.gateway.port, directory, n_each, kilobytes=10) for _ in range(options.workers)
    ]
    for sender in [load.start(1, 0, lambda: 1) for load in loads]:
        sender.join()
    api = running.gateway.environment["API_URL"]
    _until(lambda: len(_events(api, "put")) > options.rate * options.seconds)
    rule = {"operation": "put", "times": 1, "fault": 429, "retry_after": str(RETRY_AFTER_S)}
    requests.put(f"{api}/_simulator/switches", json=rule, timeout=10).raise_for_status()
    _until(lambda: len(_events(api, "put")) > n_each * options.workers)
    puts = _events(api, "put")
    refused = [e["at"] for e in puts if e.get("status") == 429]
    return sorted(e["at"] for e in puts if e.get("status") != 429), refused[0]


def _report(
    options: argparse.Namespace,
    before: list[float],
    after: list[float],
    during: list[float],
    refused_at: float,
) -> tuple[str, list[str]]:
    rows, checks = [], []
    for name, arrivals in (("before the 429", before), ("after it", after)):
        rates = [n / WINDOW_S for n in _windows(arrivals)]
        rows.append(f"| {name} | {min(rates):.1f} | {max(rates):.1f} |")
        is_met = all(abs(r - options.rate) <= TOLERANCE * options.rate for r in rates)
        checks.append(
            f"{'PASS' if is_met else 'MISS'}  {name}: {min(rates):.1f} to {max(rates):.1f} a second"
            f" over any {WINDOW_S:g} s (wanted {options.rate:g} ± {TOLERANCE:.0%})"
        )
    pause = min(at for at in after if at > refused_at) - refused_at if after else float("nan")
    gap = max((b - a for a, b in pairwise(sorted(before + during + after))), default=0.0)
    # Those that were on their way already cannot be called back.
    checks.append(
        f"{'PASS' if len(during) <= options.workers else 'MISS'}  {len(during)} instances during"
        f" the pause (at most {options.workers})"
    )
    text = (
        f"{options.workers} workers, UPLOAD_RATE={options.rate:g}, as the simulated API saw it:\n\n"
        f"| instances a second over any {WINDOW_S:g} s | least | most |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nOne upload was answered 429 with Retry-After {RETRY_AFTER_S}: {len(during)}"
        f" instances of any worker arrived in those {RETRY_AFTER_S} s, the next one {pause:.1f} s"
        f" after it (the longest gap is {gap:.1f} s)."
    )
    return text, checks


def _windows(arrivals: list[float]) -> list[int]:
    """How many arrived in every five seconds that begin with one, but for the ends."""
    whole = [start for start in arrivals[5:] if start + WINDOW_S <= arrivals[-5]]
    return [sum(start <= at < start + WINDOW_S for at in arrivals) for start in whole]


def _events(api: str, kind: str) -> list[dict[str, float]]:
    answer = requests.get(f"{api}/_simulator/journal", params={"kind": kind}, timeout=30)
    found: list[dict[str, float]] = answer.json()["events"]
    return found


def _until(is_over: Callable[[], bool], timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_over():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.5)


if __name__ == "__main__":
    main()

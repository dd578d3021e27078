"""What a gateway carries: studies an hour, what one costs, and what it adds to their way.

    python -m benchmarks.pipeline [--studies 1000] [--per-hour 2000 --paced 100] [--write-docs]

A whole gateway (`pacsor up`, as shipped, an embedded Redis, SQLite), a simulated AI that is done at
once, two PACSs (DCMTK's storescp, which keeps nothing) and a RIS, all on this machine; the sender
too. First studies at a pace, for the time the gateway adds to them; then as many as it takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import docs
from benchmarks.pipeline_load import Load
from benchmarks.pipeline_stage import Stage, asked_of_the_ledger, require_peers, stage
from benchmarks.receive_report import machine

#: Studies an hour at the least, and seconds added at the most by 95 % of the paced ones.
TARGET_PER_HOUR, TARGET_ADDED_S = 20_000, 1.0
#: The last tenth but one of the studies costs at the most so many times what the first ones did.
TARGET_GROWTH = 1.2
QUIET_S = 1.0
#: Studies under way at once when they are sent as fast as they are taken.
AHEAD = 100


@dataclass(slots=True)
class Mark:
    """What had been used when so many studies were done."""

    n_done: int
    at: float
    cpu_s: dict[str, float]
    redis_commands: int
    redis_bytes: int
    redis_keys: int
    ledger_bytes: int
    resident: dict[str, int] = field(default_factory=dict)

    @property
    def gateway_s(self) -> float:
        """CPU seconds of the gateway's own processes."""
        return sum(s for role, s in self.cpu_s.items() if role not in PEERS)


PEERS = ("PACS 1", "PACS 2", "AI", "RIS", "sender")


def main() -> None:
    """Run and print the tables."""
    options = _options()
    require_peers()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="pipeline-") as root:
        directory = Path(root)
        with stage(directory, {"STUDY_QUIET_SECONDS": str(QUIET_S)}) as running:
            load = Load(running.gateway.port, directory, 2, options.kilobytes)
            bench = Bench(running, load)
            bench.all_done(3)  # everything is imported and every connection was made once
            parts, checks = [_preface(options)], []
            if options.paced:
                text, check = paced(bench, options.paced, options.per_hour)
                parts.append(text)
                checks.append(check)
            if options.studies:
                text, more = flood(bench, options.studies)
                parts.append(text)
                checks += more
            asked = asked_of_the_ledger(directory, running.gateway.environment, 20)
            parts.append(_of_the_ledger(asked))
    report = "\n\n".join(parts)
    print(report)
    print("\n".join(checks))
    if options.write_docs:
        docs.write("pipeline", report)


class Bench:
    """Sends, and watches the ledger."""

    def __init__(self, running: Stage, load: Load) -> None:
        self.running = running
        self.load = load

    def all_done(self, n: int, per_hour: float = 0.0, marks: int = 10) -> list[Mark]:
        """Send `n` studies and wait until they are through; what was used as they went.

        Args:
            n: Studies.
            per_hour: Pace; 0: as fast as they are taken, but never more than AHEAD under way.
            marks: Into so many parts.

        Raises:
            RuntimeError: A run failed, or nothing moves for two minutes.
        """
        before = self._n_done()
        found = [self.mark(0)]
        sender = self.load.start(n, per_hour, lambda: self._n_done() - before + AHEAD)
        last, last_at = 0, time.monotonic()
        while last < n:
            time.sleep(0.25)
            done = self._n_done() - before
            if done >= min(n, found[-1].n_done + n / marks):
                found.append(self.mark(done))
                print(f"{done} of {n} done", file=sys.stderr)
            if done > last:
                last, last_at = done, time.monotonic()
            if time.monotonic() - last_at > 120:
                raise RuntimeError(f"{done} of {n} done, and nothing moves")
        sender.join()
        return found

    def mark(self, n_done: int) -> Mark:
        """What has been used."""
        with self.running.redis() as client:
            stats, memory = client.info("stats"), client.info("memory")
            n_keys = int(client.dbsize())
        return Mark(
            n_done=n_done,
            at=time.monotonic(),
            cpu_s=self.running.cpu_s(),
            redis_commands=int(stats["total_commands_processed"]),
            redis_bytes=int(memory["used_memory"]),
            redis_keys=n_keys,
            ledger_bytes=self.running.ledger_bytes(),
            resident=self.running.resident_bytes(),
        )

    def added_s(self, since: float) -> list[float]:
        """Seconds from a study's last answer to the end of its last delivery, less the quiet."""
        query = (
            "SELECT run.study_uid, max(delivery.finished_at) FROM run"
            " JOIN delivery ON delivery.run_id = run.id"
            " WHERE run.created_at > ? GROUP BY run.id"
        )
        with self.running.ledger() as ledger:
            ended = dict(ledger.execute(query, (since,)).fetchall())
        return sorted(
            ended[uid] - at - QUIET_S for uid, at in self.load.answered.items() if uid in ended
        )

    def _n_done(self) -> int:
        with self.running.ledger() as ledger:
            states = dict(
                ledger.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall()
            )
        if wrong := {s: n for s, n in states.items() if s in {"failed", "cancelled", "filtered"}}:
            raise RuntimeError(f"runs ended otherwise: {wrong}")
        return int(states.get("done", 0))


def paced(bench: Bench, n: int, per_hour: float) -> tuple[str, str]:
    """Studies at a pace: what the gateway adds to each."""
    since = time.time()
    bench.all_done(n, per_hour)
    added = bench.added_s(since)
    p50, p95, p99 = (added[min(len(added) - 1, int(len(added) * q))] for q in (0.5, 0.95, 0.99))
    text = (
        f"**{n} studies at {per_hour:,.0f} an hour: what the gateway adds**\n\nFrom the last"
        f" C-STORE answer to the end of the last of three deliveries, less the quiet period of"
        f" {QUIET_S:g} s.\n\n"
        "| p50 s | p95 s | p99 s | longest s |\n|---|---|---|---|\n"
        f"| {p50:.2f} | {p95:.2f} | {p99:.2f} | {added[-1]:.2f} |"
    )
    word = "PASS" if p95 < TARGET_ADDED_S else "MISS"
    return text, f"{word}  added at {per_hour:,.0f}/hour: p95 {p95:.2f} s (below {TARGET_ADDED_S})"


def flood(bench: Bench, n: int) -> tuple[str, list[str]]:
    """Studies as fast as they are taken: how many, and what each costs."""
    marks = bench.all_done(n)
    first, last = marks[0], marks[-1]
    done = last.n_done - first.n_done
    per_hour = done / (last.at - first.at) * 3600
    rows = [
        f"| {role} | {1000 * (last.cpu_s[role] - first.cpu_s.get(role, 0.0)) / done:.1f}"
        f" | {last.resident.get(role, 0) / 1e6:.0f} |"
        for role in sorted(last.cpu_s, key=lambda r: first.cpu_s.get(r, 0) - last.cpu_s[r])
    ]
    whole = sum(last.cpu_s.values()) - sum(first.cpu_s.values())
    commands = (last.redis_commands - first.redis_commands) / done
    tenths = [_tenth(a, b) for a, b in pairwise(marks)]
    text = (
        f"**{n} studies at once: {per_hour:,.0f} studies an hour**\n\n"
        f"From the first association to the last study through. {1000 * whole / done:.0f} ms of CPU"
        f" a study in all, {commands:.0f} Redis commands.\n\n"
        "| process | CPU ms a study | memory MB at the end |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n\n| studies done | gateway's CPU ms a study | Redis MB | Redis keys | ledger MB"
        " | workers MB |\n|---|---|---|---|---|---|\n" + "\n".join(row for row, _ in tenths)
    )
    costs = [cost for _, cost in tenths]
    # Not the last part: nothing is received in it any more.
    growth = costs[-2] / statistics.median(costs[1:4]) if len(costs) > 5 else 1.0
    return text, [
        f"{'PASS' if per_hour >= TARGET_PER_HOUR else 'MISS'}  {per_hour:,.0f} studies an hour"
        f" (at least {TARGET_PER_HOUR:,})",
        f"{'PASS' if growth <= TARGET_GROWTH else 'MISS'}  the ninth tenth costs {growth:.2f}"
        f" of the second to fourth (at most {TARGET_GROWTH})",
    ]


def _of_the_ledger(asked: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{n:g} {kind}" for kind, n in list(asked["by_kind"].items())[:6])
    return (
        f"One study in one process, without Celery: {asked['statements']:.0f} statements in"
        f" {asked['writes']:.0f} writing and {asked['reads']:.0f} reading transactions"
        f" ({kinds}, …); {1000 * asked['cpu_s']:.0f} ms of CPU."
    )


def _tenth(a: Mark, b: Mark) -> tuple[str, float]:
    cost = 1000 * (b.gateway_s - a.gateway_s) / (b.n_done - a.n_done)
    return (
        f"| {b.n_done:,} | {cost:.0f} | {b.redis_bytes / 1e6:.1f} | {b.redis_keys}"
        f" | {b.ledger_bytes / 1e6:.1f} | {_workers(b) / 1e6:.0f} |",
        cost,
    )


def _workers(mark: Mark) -> int:
    return sum(size for role, size in mark.resident.items() if role.startswith("worker"))


def _preface(options: argparse.Namespace) -> str:
    return (
        f"{machine(options.dir)} Studies of 2 instances of {options.kilobytes:,} kB; two inference"
        " commands; results to two PACSs and a RIS."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="as fast as they go; 0: none")
    parser.add_argument("--paced", type=int, default=100, help="at a pace; 0: none")
    parser.add_argument("--per-hour", type=float, default=2000, help="the pace")
    parser.add_argument("--kilobytes", type=int, default=1000, help="of each instance")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to use")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/")
    return parser.parse_args()


if __name__ == "__main__":
    main()

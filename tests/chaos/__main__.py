"""`python -m tests.chaos --seed N --minutes M`: a chaos run by hand; exit status 1: a violation."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import tempfile
from pathlib import Path

from click import echo

from tests.chaos.checks import DELIVERED, FILTERED, LOST, PENDING, QUARANTINED
from tests.chaos.harness import Plan, Report, run

OUTCOMES = (DELIVERED, FILTERED, QUARANTINED, PENDING, LOST)


def main() -> int:
    """Run, print the counts, keep the directory when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--ledger", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--per-minute", type=float, default=30, help="new studies")
    parser.add_argument("--pause", type=float, default=4, help="seconds between two faults")
    parser.add_argument("--only", default="", help="faults that begin so, comma-separated")
    parser.add_argument("--directory", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--json", type=Path, help="gets the report")
    args = parser.parse_args()
    plan = Plan(
        seed=secrets.randbelow(1_000_000) if args.seed is None else args.seed,
        minutes=args.minutes,
        ledger=args.ledger,
        per_minute=args.per_minute,
        pause_s=args.pause,
        only=tuple(name for name in args.only.split(",") if name),
    )
    directory = args.directory or Path(tempfile.mkdtemp(prefix="pacsor-chaos-"))
    echo(f"seed {plan.seed}, {plan.minutes} minutes, ledger {plan.ledger}, in {directory}")
    report = run(plan, directory)
    echo(table(report))
    if args.json:
        args.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    if report.violations:
        echo(f"\nagain with: python -m tests.chaos --seed {plan.seed} --minutes {plan.minutes}"
              f" --ledger {plan.ledger}; logs in {directory}")  # fmt: skip
    elif not args.directory:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if report.violations else 0


def table(report: Report) -> str:
    """The counts, for a person."""
    lines = [f"\n{name:32} {n:8}" for name, n in report.counts.items()]
    lines.append(f"\n{'drained in, s':32} {report.drained_s:8.0f}\n")
    lines.append(f"\n{'':24}" + "".join(f"{name:>13}" for name in (*OUTCOMES, "repeats")))
    for kind, counts in (("instances", report.instances), ("studies", report.studies)):
        for name, outcomes in counts.items():
            repeats = report.repeats.get({"core": "api", "core1": "api1"}.get(name, name), 0)
            cells = "".join(f"{outcomes.get(o, 0):13}" for o in OUTCOMES)
            lines.append(f"\n{kind + ' at ' + name:24}{cells}{repeats:13}")
    lines += [f"\nquarantined {n} x: {why}" for why, n in report.quarantined.items()]
    lines += [f"\n{name} ended by itself {n} x" for name, n in report.own_ends.items()]
    lines += [f"\nVIOLATION {violation}" for violation in report.violations]
    lines.append("\n" + ("FAILED" if report.violations else "no invariant was violated"))
    return "".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())

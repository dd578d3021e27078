"""One chaos run: send, break things by a schedule, be quiet, compare."""

from __future__ import annotations

import heapq
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pacsor_tasks.ledger import schema as t
from tests.chaos import checks, facts, faults
from tests.chaos.senders import PATIENT, Senders
from tests.chaos.site import Site, site

#: After the faults everything has so long to come to its end, seconds: a breaker is open for up to
#: a minute, and a backlog has to be worked off.
QUIET_S = 180.0
SAMPLE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do.

    Args:
        seed: Of studies and faults.
        minutes: Of faults.
        ledger: sqlite or postgresql.
        per_minute: New studies.
        pause_s: Between two faults, on average.
        only: Faults whose name begins with one of these; none: all.
    """

    seed: int
    minutes: float
    ledger: str = "sqlite"
    per_minute: float = 30
    pause_s: float = 4
    only: tuple[str, ...] = ()


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    instances: dict[str, dict[str, int]] = field(default_factory=dict)
    studies: dict[str, dict[str, int]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    #: programs that ended although nobody killed them
    own_ends: dict[str, int] = field(default_factory=dict)
    drained_s: float = 0
    violations: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def run(plan: Plan, directory: Path) -> Report:
    """Run a plan in an empty directory; everything is ended when it returns."""
    rng = random.Random(plan.seed)
    planned = _schedule(plan, rng)
    report = Report(plan)
    with site(directory, ledger=plan.ledger) as running:
        senders = Senders(running, random.Random(rng.getrandbits(32)), plan.per_minute)
        watch = _Watch(running, report)
        with senders:
            _break_things(running, planned, plan.minutes * 60, watch)
        report.drained_s = _drain(running, senders, watch)
        known = facts.gather(running, senders.studies)
        verdict = checks.judge(known, senders.studies)
        _fill_in(report, senders, verdict, known, running)
        if report.violations:
            # The small disk goes with the site.
            shutil.copytree(running.data_dir, directory / "kept")
    return report


def _schedule(plan: Plan, rng: random.Random) -> list[faults.Planned]:
    def chosen(kinds: list[faults.Fault]) -> list[faults.Fault]:
        return [f for f in kinds if not plan.only or f.name.startswith(plan.only)]

    first, later = chosen(faults.all_faults(plan.ledger)), chosen(faults.later_faults())
    planned = faults.schedule(first, rng, plan.minutes * 60, plan.pause_s)
    if later:
        share = faults.weight(later) / faults.weight(first or later)
        own = random.Random(f"{plan.seed}, later")
        planned += faults.schedule(later, own, plan.minutes * 60, plan.pause_s / share)
    return sorted(planned, key=lambda fault: fault.at_s)


def _break_things(
    running: Site, planned: list[faults.Planned], duration_s: float, watch: _Watch
) -> None:
    """Begin and end the faults at their times."""
    began = time.monotonic()
    ends: list[tuple[float, int, str, faults.Undo]] = []
    ahead = list(reversed(planned))
    n = 0
    while True:
        now = time.monotonic() - began
        while ends and ends[0][0] <= now:
            _, _, name, undo = heapq.heappop(ends)
            say(f"{now:7.1f} s  end of {name}")
            undo()
        if ahead and ahead[-1].at_s <= now:
            plan = ahead.pop()
            lasts_s = plan.until_s - plan.at_s
            say(f"{now:7.1f} s  {plan.fault.name}" + (f" for {lasts_s:.1f} s" if lasts_s else ""))
            undo = plan.fault.begin(running, random.Random(plan.seed))
            counts = watch.report.faults
            counts[plan.fault.name] = counts.get(plan.fault.name, 0) + 1
            n += 1
            heapq.heappush(ends, (plan.until_s, n, plan.fault.name, undo))
        elif now >= duration_s and not ends:
            return
        watch.look()
        time.sleep(0.05)


def _drain(running: Site, senders: Senders, watch: _Watch) -> float:
    """Wait until nothing is open any more, or for too long; how long it took, seconds."""
    say("quiet")
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < QUIET_S:
        time.sleep(1)
        watch.look()
        known = facts.Facts()
        try:
            facts.read_ledger(running, known)
        except SQLAlchemyError:
            continue
        facts.read_spool(running, known)
        in_ledger = {uid for _, uid in known.outcomes}
        if not checks.unfinished(known) and in_ledger >= senders.acknowledged.keys():
            break
    say(f"quiet for {waited_s:.0f} s")
    return waited_s


class _Watch:
    """Looks at what must hold at every moment, now and then."""

    def __init__(self, running: Site, report: Report) -> None:
        self.report = report
        self._site = running
        self._next = time.monotonic() + SAMPLE_S
        self._engine = create_engine(running.ledger_url, poolclass=NullPool)

    def look(self) -> None:
        """Every run and delivery that is not over and not being worked at has a next action."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SAMPLE_S
        known = facts.Facts()
        try:
            if self._is_locked():
                return
            facts.read_ledger(self._site, known)
        except SQLAlchemyError:
            return
        new = [v for v in checks.stuck(known) if v not in self.report.violations]
        for violation in new:
            say(f"           VIOLATION {violation}")
        self.report.violations += new

    def _is_locked(self) -> bool:
        """Whether a fault has PostgreSQL's tables locked: for readers, too."""
        if not self._site.ledger_url.startswith("postgresql"):
            return False
        with self._engine.connect() as c:
            locks = c.exec_driver_sql(
                "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
                " AND relation = 'run'::regclass"
            ).scalar_one()
        return bool(locks)


def _fill_in(
    report: Report,
    senders: Senders,
    verdict: checks.Verdict,
    known: facts.Facts,
    running: Site,
) -> None:
    sent = [s for s in senders.studies if s.acknowledged]
    report.counts = {
        "faults": sum(report.faults.values()),
        "studies sent": len(senders.studies),
        "studies acknowledged": len(sent),
        "instances acknowledged": len(senders.acknowledged),
        "answers of success": sum(s.n_success for s in senders.studies),
        "C-STORE refused": senders.n_refused,
        "associations broken or refused": senders.n_broken,
        "runs": len(known.runs),
        "deliveries": len(known.deliveries),
        "messages at the RIS": len(known.messages["hl7"]),
        "events at the webhook": len(known.messages["webhook"]),
        "events": _count_events(running),
    }
    report.instances = {k: dict(v) for k, v in verdict.instances.items()}
    report.studies = {k: dict(v) for k, v in verdict.studies.items()}
    report.repeats = dict(verdict.repeats)
    report.quarantined = dict(verdict.reasons)
    report.own_ends = {p.name: p.own_ends for p in running.keeper.programs if p.own_ends}
    report.violations += [v for v in verdict.violations if v not in report.violations]
    report.violations += _sums(report)
    report.violations += _told_patients(running)


def _sums(report: Report) -> list[str]:
    """Acknowledged = delivered + filtered + quarantined + pending, wherever one looks."""
    expected = {
        **dict.fromkeys(report.instances, report.counts["instances acknowledged"]),
        **dict.fromkeys(report.studies, report.counts["studies acknowledged"]),
    }
    found = {
        name: sum(n for outcome, n in table.items() if outcome != checks.LOST)
        for name, table in (report.instances | report.studies).items()
    }
    return [
        f"{name}: {found[name]} accounted for, {n} acknowledged"
        for name, n in expected.items()
        if found[name] != n
    ]


def _told_patients(running: Site) -> list[str]:
    """No patient data in logs or in Redis."""
    ours = (*running.workers, *running.deliverers, "control", "beat", "receiver")
    files = [running.programs[name].log for name in ours]
    files += [p for p in (running.directory / "redis").rglob("*") if p.is_file()]
    name = PATIENT.partition("^")[0].encode()
    return [f"{path.name} holds a patient's name" for path in files if name in path.read_bytes()]


def _count_events(running: Site) -> int:
    engine = create_engine(running.ledger_url)
    with engine.connect() as c:
        n = int(c.execute(select(func.count()).select_from(t.event)).scalar_one())
    engine.dispose()
    return n


def say(line: str) -> None:
    """To whoever watches."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

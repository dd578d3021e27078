"""Filter: which instances of the revision go to the AI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pacsor_tasks.dicom.filters import decide
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.errors import Permanent
from pacsor_tasks.ledger import Decided
from pacsor_tasks.models import Instance, InstanceOutcome, Run, RunState
from pacsor_tasks.outcomes import Advance, End
from pacsor_tasks.ports import Ports
from pacsor_tasks.steps.common import core_of
from pacsor_tasks.words import counted


def filter_instances(run: Run, ports: Ports) -> Advance | End:
    """Apply the core's DICOM_FILTERS to each instance. Source: contract §2.4.

    All instances filtered ends the run: no API call, no delivery. An instance that the rules cannot
    be applied to is not uploaded, and does not hold back the others.
    """
    core = core_of(run, ports)
    pending = ports.ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    decided = [d for d in (_decide(i, ports, core.filters) for i in pending) if d is not None]
    ports.ledger.runs.set_outcomes(run.id, decided)
    if ports.ledger.runs.instances(run.id, [InstanceOutcome.PENDING, InstanceOutcome.UPLOADED]):
        message = f"{len(pending) - len(decided)} of {counted(len(pending), 'instance')} kept"
        return Advance(("filter.done", message + _why(decided)))
    if ports.ledger.runs.instances(run.id, [InstanceOutcome.UNREADABLE]):
        return End(RunState.FAILED, f"no instance is left to upload{_why(decided)}")
    return End(RunState.FILTERED, f"all instances skipped by DICOM_FILTERS{_why(decided)}")


def _decide(instance: Instance, ports: Ports, rules: Sequence[FilterRule]) -> Decided | None:
    if instance.error is not None:
        return Decided(instance.id, InstanceOutcome.UNREADABLE, instance.error)
    if not rules:
        return None
    try:
        decision = decide(rules, ports.file(instance.path))
    except Permanent as exc:
        return Decided(instance.id, InstanceOutcome.UNREADABLE, str(exc))
    if decision.by is None:
        return None
    by = decision.by
    return Decided(instance.id, InstanceOutcome.FILTERED, by.reason, by.number, by.tag)


def _why(decided: list[Decided]) -> str:
    reasons = Counter(d.reason for d in decided if d.reason)
    return "".join(f"; {n} by {reason}" for reason, n in reasons.most_common(5))

"""Fan out: every destination's delivery becomes due."""

from __future__ import annotations

from pacsor_tasks.models import Run
from pacsor_tasks.outcomes import Moved
from pacsor_tasks.ports import Ports
from pacsor_tasks.words import counted


def fan_out(run: Run, ports: Ports) -> Moved:
    """Hand the results to all destinations at once; the chain's group delivers them."""
    deliveries = ports.ledger.deliveries.of_run(run.id)
    by_class = ports.ledger.deliveries.count_by_class(run.id)
    totals = {
        d.destination: sum(n for of, n in by_class.items() if d.selection.takes(*of))
        if d.kind.takes_instances
        else 1
        for d in deliveries
        if not d.state.is_terminal  # an operator may have skipped one already
    }
    names = ", ".join(sorted(totals)) or "no destination"
    message = f"{counted(sum(by_class.values()), 'result instance')} to {names}"
    return Moved(ports.ledger.deliveries.fan_out(run, totals, ("fan_out.done", message)))

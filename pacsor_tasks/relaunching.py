"""Relaunches as every door asks for them: of one study, or of all that are chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import structlog

from pacsor_tasks import carrying, pipeline
from pacsor_tasks.errors import Conflict, NotFound, PeerUnavailable
from pacsor_tasks.ledger import Choice, Chosen, Relaunch, Target
from pacsor_tasks.ledger.inventory import NOT_HELD
from pacsor_tasks.ledger.relaunches import (
    Carried,
    Made,
    Stale,
    delivering_of,
    partial_targets,
    require_any,
)
from pacsor_tasks.ledger.starts import STARTS, Holdings, start_of, why_not
from pacsor_tasks.models import Step
from pacsor_tasks.operations import name_of
from pacsor_tasks.ports import Ports

log = structlog.get_logger(__name__)

#: Studies in one relaunch, unless more are asked for.
LIMIT, MAX_LIMIT = 100, 1000
#: How often results are looked for while others relaunch the same study.
TRIES = 5
WHOLE = Relaunch()
#: Names; None: all of them.
Cores = Collection[str] | None
Publish = Callable[[Sequence[str], Ports], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a relaunch of a study would do on one core."""

    core: str
    #: where it begins
    start: Step
    destinations: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"core": self.core, "from": self.start, "destinations": list(self.destinations)}


class Plan(NamedTuple):
    """What a relaunch of a study would do."""

    planned: list[Planned]
    #: by core, why it cannot be there
    refused_on: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fared:
    """What became, or would become, of one of the studies chosen."""

    chosen: Chosen
    planned: Sequence[Planned] = ()
    run_ids: Sequence[str] = ()
    #: by core, why it is not relaunched there, though on another one it is
    refused_on: Mapping[str, str] = field(default_factory=dict)
    #: why it is not relaunched
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **self.chosen.to_json(),
            "runs": [planned.to_json() for planned in self.planned],
            "run_ids": list(self.run_ids),
            "refused_on": dict(self.refused_on),
            "refused": self.refused,
        }


def start_named(name: str | None) -> Step | None:
    """The step that an operator named; None for no name.

    Raises:
        Conflict: A relaunch cannot begin there, whatever is held.
    """
    if not name:
        return None
    if name not in STARTS:
        raise Conflict(f"{name!r} is no step to begin at: there is {', '.join(STARTS)}")
    return Step(name)


def relaunch(
    study_uid: str,
    ports: Ports,
    wish: Relaunch = WHOLE,
    core: str | None = None,
    publish: Publish | None = None,
) -> Made:
    """Send a study through its cores again, or through one, from a step on.

    With the broker away the runs stand in the ledger all the same, and the sweep launches them.

    Args:
        study_uid: StudyInstanceUID.
        ports: The process's ports.
        wish: From where, to whom, by whom.
        core: Only on this one; None: on all that can.
        publish: Instead of the broker.

    Returns:
        The new runs, or those that were asked for by the same key before; and why it cannot be on
        a core, while on others it can.

    Raises:
        NotFound: The study was never received or is no longer held, or there is no such core or
            destination.
        Conflict: On no core it can be: the inputs of that step are gone, says which step would do;
            or the one destination gets the results anyway.
    """
    return _relaunched(study_uid, ports, wish, _only(core), publish)


def plan(study_uid: str, ports: Ports, wish: Relaunch = WHOLE, core: str | None = None) -> Plan:
    """What `relaunch` would do, of which nothing is done.

    Raises:
        NotFound, Conflict: As `relaunch`.
    """
    return _plan(study_uid, ports, wish, _only(core))


def starts(study_uid: str, ports: Ports) -> dict[str, dict[Step, str | None]]:
    """By core and step, why a relaunch to every destination cannot begin there; None: it can.

    Raises:
        NotFound: The study was never received, or is no longer held.
    """
    there = _holdings(study_uid, ports.targets, ports)
    found: dict[str, dict[Step, str | None]] = {}
    for target, holdings in zip(ports.targets, there, strict=True):
        delivering = delivering_of(target, results_held=carrying.are_held(holdings, ports))
        found[target.core] = {step: why_not(step, holdings, delivering) for step in STARTS}
    return found


def choose(choice: Choice, limit: int, ports: Ports) -> list[Chosen]:
    """The studies that a relaunch of many is about, the earliest received first.

    Raises:
        Conflict: Nothing was chosen by, or more were found than `limit`.
    """
    if not choice:
        raise Conflict("choose studies by UID, date, state, destination or core")
    found = ports.ledger.choosing.find(choice, limit + 1)
    if len(found) > limit:
        raise Conflict(f"more than {limit} studies are meant: choose fewer, or raise the limit")
    return found


def not_found(choice: Choice, chosen: Sequence[Chosen]) -> list[Fared]:
    """The studies that were named and are not among those chosen, each with that reason."""
    found = {study.study_uid for study in chosen}
    return [
        Fared(
            chosen=Chosen(study_uid=study_uid, received_at=None, is_held=False),
            refused=f"study {study_uid}: never received, or not meant",
        )
        for study_uid in dict.fromkeys(choice.study_uids)
        if study_uid not in found
    ]


def plan_many(
    chosen: Sequence[Chosen], ports: Ports, wish: Relaunch = WHOLE, core: str | None = None
) -> list[Fared]:
    """What `relaunch_many` would do, of which nothing is done.

    Args:
        chosen: As `choose` found them.
        ports: The process's ports.
        wish: From where, to whom, by whom.
        core: Only on this one; None: on those by which each study was chosen.
    """
    _targets(wish, _only(core), ports)  # no such core or destination: of none of them
    return [_planned(study, ports, wish, core) for study in chosen]


def relaunch_many(
    chosen: Sequence[Chosen],
    ports: Ports,
    wish: Relaunch = WHOLE,
    core: str | None = None,
    publish: Publish | None = None,
) -> list[Fared]:
    """Relaunch each study; what cannot be is told, and stops none of the others.

    Raises:
        NotFound: There is no such core or destination.
        LedgerUnavailable: Those before are relaunched; by the same key they are not twice.
    """
    _targets(wish, _only(core), ports)
    fared = []
    for study in chosen:
        done = _planned(study, ports, wish, core)
        if done.refused is None:
            try:
                cores = _cores(study, core)
                made = _relaunched(study.study_uid, ports, wish, cores, publish)
                done = replace(done, run_ids=made.run_ids, refused_on=made.refused_on)
            except (Conflict, NotFound) as exc:
                done = replace(done, refused=str(exc))
        fared.append(done)
    return fared


def _planned(study: Chosen, ports: Ports, wish: Relaunch, core: str | None) -> Fared:
    known = ports.ledger.intake.asked_before(study.study_uid, wish.key)
    if known:
        return Fared(chosen=study, run_ids=known)
    if not study.is_held:
        return Fared(chosen=study, refused=NOT_HELD)
    try:
        found = _plan(study.study_uid, ports, wish, _cores(study, core))
    except (Conflict, NotFound) as exc:
        return Fared(chosen=study, refused=str(exc))
    return Fared(chosen=study, planned=found.planned, refused_on=found.refused_on)


def _plan(study_uid: str, ports: Ports, wish: Relaunch, cores: Cores) -> Plan:
    targets = _targets(wish, cores, ports)
    found = Plan([], {})
    for target, there in zip(targets, _holdings(study_uid, targets, ports), strict=True):
        try:
            found.planned.append(_planned_on(target, there, study_uid, wish, ports))
        except Conflict as exc:
            found.refused_on[target.core] = str(exc)
    require_any(found.planned, found.refused_on)
    return found


def _planned_on(
    target: Target, there: Holdings, study_uid: str, wish: Relaunch, ports: Ports
) -> Planned:
    delivering = delivering_of(target, results_held=carrying.are_held(there, ports))
    start = start_of(wish.from_step, there, delivering, is_partial=wish.only is not None)
    if wish.only is not None:
        ports.ledger.intake.require_not_under_way(study_uid, target.core, wish.only)
    return Planned(
        core=target.core, start=start, destinations=tuple(name for name, _ in target.destinations)
    )


def _relaunched(
    study_uid: str, ports: Ports, wish: Relaunch, cores: Cores, publish: Publish | None
) -> Made:
    # By the key before anything else: what it needed then may be gone by now.
    known = ports.ledger.intake.asked_before(study_uid, wish.key)
    if known:
        made = Made(known, {})
    else:
        wish = replace(wish, by=name_of(wish.by or ""))
        made = _made(study_uid, _targets(wish, cores, ports), wish, ports)
    (publish or launch)(made.run_ids, ports)
    log.info(
        "study.relaunched", study_uid=study_uid, run_ids=made.run_ids, only=wish.only,
        refused_on=made.refused_on,
    )  # fmt: skip
    return made


def _cores(study: Chosen, core: str | None) -> Cores:
    """Where a study is meant: what it was chosen by on one core is no reason for the others."""
    return study.cores if core is None else {core}


def _only(core: str | None) -> Cores:
    return None if core is None else {core}


def _targets(wish: Relaunch, cores: Cores, ports: Ports) -> list[Target]:
    targets = [target for target in ports.targets if cores is None or target.core in cores]
    if not targets:
        names = ", ".join(target.core for target in ports.targets)
        asked = ", ".join(repr(core) for core in sorted(cores or ()))
        raise NotFound(f"{asked} is no configured core: there is {names}")
    return partial_targets(targets, wish.only)


def _holdings(study_uid: str, targets: Sequence[Target], ports: Ports) -> list[Holdings]:
    return ports.ledger.intake.holdings(study_uid, [target.core for target in targets])


def _made(study_uid: str, targets: Sequence[Target], wish: Relaunch, ports: Ports) -> Made:
    """The new runs. Results are looked for again when others changed the study meanwhile."""
    tries_left = TRIES
    while True:
        carried = _carry(study_uid, targets, wish, ports)
        tries_left -= 1
        try:
            made = ports.ledger.intake.relaunch_where_possible(study_uid, targets, wish, carried)
        except (Conflict, NotFound) as exc:
            # Not when the ledger went away: it may have them. Retention removes what is nobody's.
            carrying.drop(carried.values(), (), ports)
            if not isinstance(exc, Stale) or not tries_left:
                raise
        else:
            carrying.drop(carried.values(), made.run_ids, ports)
            return made


def _carry(
    study_uid: str, targets: Sequence[Target], wish: Relaunch, ports: Ports
) -> Mapping[str, Carried]:
    """Results linked into the directories of runs to come, for those that may begin at delivering.

    Whether they do is decided in the ledger's transaction only: what is read here may be changing.
    """
    if wish.from_step not in {None, Step.DELIVER} or (wish.from_step is None and not wish.only):
        return {}
    return {
        holdings.core: carrying.linked(holdings, ports)
        for holdings in _holdings(study_uid, targets, ports)
    }


def launch(run_ids: Sequence[str], ports: Ports) -> None:
    """Publish the rest of the runs' chains; what cannot be published is left to the sweep."""
    for run_id in run_ids:
        run = ports.ledger.runs.get(run_id)
        if run is None or run.state.is_terminal or run.step not in pipeline.STEPS:
            continue
        try:
            pipeline.launch(run_id, run.step, ports.ledger.deliveries.of_run(run_id))
        except PeerUnavailable as exc:
            log.warning("launch.deferred", run_id=run_id, error=str(exc))

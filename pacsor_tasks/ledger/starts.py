"""Where a relaunch can begin: at every step whose inputs are still there. Pure decisions.

filter    the received instances are held
upload    … and an earlier run of the core has filtered every one of them
poll      … and the core has every one that was kept
download  … and its prediction was ready
deliver   … and its results are held, where a destination takes them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pacsor_tasks.errors import Conflict
from pacsor_tasks.models import InstanceOutcome, Step

#: As operators name them, in order.
STARTS = (Step.FILTER, Step.UPLOAD, Step.POLL, Step.DOWNLOAD, Step.DELIVER)
#: The step a run is at when it begins there.
FIRST_STEP = {**{start: start for start in STARTS}, Step.DELIVER: Step.FAN_OUT}
#: Not for the AI, by the filters' or the file's fault.
LEFT_OUT = frozenset({InstanceOutcome.FILTERED, InstanceOutcome.UNREADABLE})
#: The core has it.
AT_CORE = frozenset({InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What an earlier run of the core made of an instance."""

    outcome: InstanceOutcome
    reason: str | None = None
    rule: int | None = None
    tag: str | None = None


#: Nothing was decided yet.
PENDING = Fate(outcome=InstanceOutcome.PENDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An earlier run of the core, as far as a relaunch can use it."""

    id: str
    step: Step
    #: it uploaded instances: what older runs got is not of that upload
    is_afresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What is there of a study for one core."""

    core: str
    revision_id: int
    #: by instance id, of those held; None: no run of the core got so far with it
    fates: Mapping[int, Fate | None]
    #: the core's runs, the newest first
    runs: Sequence[Earlier] = field(default=())

    @property
    def kept(self) -> list[int]:
        """The instances that go to the AI, as far as that is decided."""
        return [i for i, fate in self.fates.items() if fate and fate.outcome not in LEFT_OUT]

    @property
    def is_predicted(self) -> bool:
        """The prediction over the newest upload was ready."""
        return bool(self._got_beyond(Step.POLL))

    @property
    def downloaded(self) -> list[str]:
        """The runs that have, or had, the results of the newest upload, the newest first.

        More than one: a relaunch that began at delivering took them over, and may be over and
        cleaned up while the run that it took them from still holds them.
        """
        return self._got_beyond(Step.DOWNLOAD)

    def _got_beyond(self, step: Step) -> list[str]:
        found = []
        for run in self.runs:
            if run.step.position > step.position:
                found.append(run.id)
            if run.is_afresh:
                break  # what older ones got is not of this upload
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivering:
    """What would have to be delivered."""

    #: a destination takes the instances themselves, not only a message about them
    needs_results: bool
    #: they are on disk
    results_held: bool


def why_not(step: Step, there: Holdings, delivering: Delivering) -> str | None:
    """Why a relaunch cannot begin at a step; None when it can."""
    position = step.position
    kept = [there.fates[i] for i in there.kept]
    reasons = (
        (Step.UPLOAD, any(f is None for f in there.fates.values()),
         "the filters have not decided on every instance"),
        (Step.UPLOAD, not kept, "no instance was kept for the AI"),
        (Step.POLL, any(f and f.outcome not in AT_CORE for f in kept),
         "not every instance was uploaded"),
        (Step.DOWNLOAD, not there.is_predicted, "the prediction was never ready"),
        (Step.DELIVER, not there.downloaded, "the results were never downloaded"),
        (Step.DELIVER, delivering.needs_results and not delivering.results_held,
         "its results are no longer held"),
    )  # fmt: skip
    return next((why for of, is_so, why in reasons if is_so and position >= of.position), None)


def start_of(
    wish: Step | None, there: Holdings, delivering: Delivering, *, is_partial: bool = False
) -> Step:
    """The step a relaunch begins at.

    Args:
        wish: The operator's; None: at the filters, or, for one destination only, as late as can be.
        there: What is there.
        delivering: What is to be delivered.
        is_partial: For one destination only.

    Raises:
        Conflict: The inputs of that step are gone, or were never there; says which one would do.
    """
    latest = next(s for s in reversed(STARTS) if why_not(s, there, delivering) is None)
    if wish is None:
        return latest if is_partial else Step.FILTER
    why = why_not(wish, there, delivering)
    if why is not None:
        raise Conflict(
            f"a relaunch on {there.core} cannot begin at {wish}: {why}; from {latest} would do"
        )
    return wish


def fate_at(start: Step, fate: Fate | None) -> Fate:
    """What a run that begins there takes an instance for."""
    if start is Step.FILTER or fate is None:
        return PENDING
    if fate.outcome in LEFT_OUT:
        return fate
    return PENDING if start is Step.UPLOAD else Fate(outcome=InstanceOutcome.UPLOADED)

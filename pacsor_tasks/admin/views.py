"""What the pages show of the ledger's JSON: pure functions, used as filters in the templates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pacsor_tasks.admin.probes import human_bytes
from pacsor_tasks.arrivals import ArrivalState
from pacsor_tasks.ledger import studies
from pacsor_tasks.models import DeliveryState, RunState, Step

Json = Mapping[str, Any]

#: The steps a person follows. Fan-out and clean-up belong to the deliveries.
SHOWN_STEPS: tuple[tuple[Step, str], ...] = (
    (Step.FILTER, "Filter"),
    (Step.UPLOAD, "Upload"),
    (Step.POLL, "Predict"),
    (Step.DOWNLOAD, "Download"),
    (Step.DELIVER, "Deliver"),
)
#: How the step a run ended at is marked, where that is not "done".
ENDING = {RunState.FAILED: "failed", RunState.CANCELLED: "stopped"}
#: Colour and icon of a state; text always stands beside them.
TONES = {
    RunState.QUEUED: "idle",
    RunState.FILTERING: "busy",
    RunState.UPLOADING: "busy",
    RunState.PREDICTING: "busy",
    RunState.DOWNLOADING: "busy",
    RunState.DELIVERING: "busy",
    RunState.DONE: "good",
    RunState.FILTERED: "quiet",
    RunState.FAILED: "bad",
    RunState.CANCELLED: "quiet",
    DeliveryState.PENDING: "idle",
    DeliveryState.RETRYING: "warn",
    DeliveryState.DELIVERED: "good",
    DeliveryState.QUARANTINED: "bad",
    DeliveryState.SKIPPED: "quiet",
    ArrivalState.RECEIVING: "busy",
    ArrivalState.SETTLING: "idle",
    ArrivalState.CLOSING: "busy",
    ArrivalState.OVERDUE: "bad",
    ArrivalState.STABLE: "idle",
}
EVENT_TONES = (
    ("failed", "bad"),
    ("quarantined", "bad"),
    ("retry", "warn"),
    ("run.done", "good"),
    ("delivered", "good"),
)
UID_TAIL = 14
#: How the ledger says that a lease is held.
HELD = "the worker that holds"


class Mark(NamedTuple):
    """One step in the step indicator."""

    label: str
    #: done, current, failed, stopped, todo
    status: str


class Wait(NamedTuple):
    """Why something waits, and until when."""

    #: the destination; None: the run itself
    who: str | None
    reason: str
    due_at: str | None
    error: str | None
    is_retry: bool
    #: a worker holds it: it does not wait, so no time is due
    in_work: bool


class Problem(NamedTuple):
    """What an operator has to look at."""

    who: str | None
    text: str


def tone(state: str) -> str:
    """The tone of the state of a run, a delivery or an arrival."""
    return TONES.get(state, "idle")  # type: ignore[call-overload, no-any-return] # str enums


def event_tone(kind: str) -> str:
    """The tone of an event in the timeline."""
    return next((found for part, found in EVENT_TONES if part in kind), "idle")


def steps(run: Json) -> list[Mark]:
    """The step indicator of a run."""
    at = Step(run["step"]).position
    state = RunState(run["state"])
    return [Mark(label, _status(at, state, step)) for step, label in SHOWN_STEPS]


def _status(at: int, state: RunState, shown: Step) -> str:
    is_last = shown is Step.DELIVER
    here = Step.FAN_OUT.position <= at < Step.END.position if is_last else at == shown.position
    if state is RunState.DONE or (at > shown.position and not here):
        return "done"
    if state is RunState.FILTERED:
        return "done" if shown is Step.FILTER else "todo"
    if not here:
        return "todo"
    return ENDING.get(state, "todo" if state is RunState.QUEUED else "current")


def latest_runs(study: Json) -> list[Json]:
    """The runs that no later one stands in for, by core; for one destination only behind it."""
    return sorted(studies.latest_runs(study["runs"]), key=lambda r: (r["core"], r["only"] or ""))


def relaunched(run: Json) -> str:
    """How a run was relaunched: `relaunched from download for storescu-2 only`; "" if not."""
    if not run["relaunched"]:
        return ""
    begun = f" from {run['from']}" if run["from"] not in {None, Step.FILTER} else ""
    return f"relaunched{begun}" + (f" for {run['only']} only" if run["only"] else "")


def waits(run: Json) -> list[Wait]:
    """Why a run does not move, in the words of what it really waits for.

    A run that delivers waits for its deliveries: theirs are the reasons worth reading.
    """
    if RunState(run["state"]).is_terminal:
        return []
    open_ones = [d for d in run["deliveries"] if not DeliveryState(d["state"]).is_terminal]
    if Step(run["step"]) is Step.DELIVER and open_ones:
        return [_wait(d, d["destination"]) for d in open_ones]
    return [_wait(run, None)]


def _wait(item: Json, who: str | None) -> Wait:
    reason, error = item["waiting_for"] or "its turn", item["error"]
    if reason.startswith(HELD):
        return Wait(who, "a worker is at it", None, None, is_retry=False, in_work=True)
    return Wait(
        who=who,
        reason=_without(who, reason),
        due_at=item["due_at"],
        error=None if error == reason else error,
        is_retry=bool(error),
        in_work=False,
    )


def _without(who: str | None, text: str) -> str:
    """The text without the destination's name in front: it stands there already."""
    return text.removeprefix(f"{who}: ").removeprefix(f"destination {who} ")


def problems(run: Json) -> list[Problem]:
    """Why a run ended other than well: by destination where deliveries were quarantined."""
    if not run["finished_at"]:
        return []
    quarantined = [d for d in run["deliveries"] if d["state"] == DeliveryState.QUARANTINED]
    if quarantined:
        return [
            Problem(d["destination"], _without(d["destination"], d["error"] or "quarantined"))
            for d in quarantined
        ]
    return [Problem(None, run["error"])] if run["error"] else []


def is_open(study: Json) -> bool:
    """Whether something of a study still moves."""
    return any(not RunState(run["state"]).is_terminal for run in study["runs"])


def uid_head(uid: str) -> str:
    """The part of a UID that may be cut on a narrow page; the tail tells studies apart."""
    return uid[:-UID_TAIL]


def uid_tail(uid: str) -> str:
    """The part of a UID that is always shown."""
    return uid[-UID_TAIL:]


def moment(iso: str) -> str:
    """A time for readers without JavaScript: `2025-08-01 12:00:03 UTC`."""
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S UTC")


def lasted(run: Json) -> str | None:
    """How long a finished run took: `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if not run["finished_at"]:
        return None
    began, ended = (datetime.fromisoformat(run[k]) for k in ("created_at", "finished_at"))
    seconds = (ended - began).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


FILTERS = {
    f.__name__: f
    for f in (
        event_tone, human_bytes, is_open, lasted, latest_runs, moment, problems, relaunched, steps,
        tone, uid_head, uid_tail, waits,
    )
}  # fmt: skip

"""The invariants of architecture §3, compared from outside: what is violated, and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pacsor_tasks.models import DeliveryState, RunState, Step
from tests.chaos.facts import Facts, Message, possible_results
from tests.chaos.senders import Study
from tests.chaos.site import CORES, FOLDER, CoreFacts

DELIVERED, FILTERED, QUARANTINED, PENDING, LOST = (
    "delivered", "filtered", "quarantined", "pending", "LOST",
)  # fmt: skip
#: What a kind of study may be quarantined at, by its own doing: a core, or a destination.
MAY_FAIL = {"error": {"core"}, "stranger": {"core"}, "refused": {"storescu-2"}}
OVER = {RunState.DONE, RunState.FILTERED, RunState.FAILED, RunState.CANCELLED}


@dataclass
class Verdict:
    """What the comparison gave."""

    violations: list[str] = field(default_factory=list)
    #: core → outcome → acknowledged instances
    instances: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    #: destination → outcome → acknowledged studies
    studies: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    #: peer → effects beyond the first
    repeats: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def judge(facts: Facts, studies: list[Study]) -> Verdict:
    """Compare what was acknowledged with what became of it."""
    verdict = Verdict()
    sent = [study for study in studies if study.acknowledged]
    known = _Known(facts)
    for study in sent:
        for core in CORES:
            _judge_instances(study, core, known, verdict)
            for destination in (*core.archives, *core.told):
                _judge_study(study, core, destination, known, verdict)
        _judge_runs(study, known, verdict)
    _judge_places(facts, studies, verdict)
    for name, messages in facts.messages.items():
        _judge_messages(name, messages, known, verdict)
    verdict.violations += stuck(facts)
    for core in CORES:
        verdict.repeats[core.api] = sum(n - 1 for n in facts.uploads[core.name].values())
        for name in core.archives:
            verdict.repeats[name] = _repeats(name, core, known)
    return verdict


def _repeats(pacs: str, core: CoreFacts, known: _Known) -> int:
    """How often an instance came to a PACS more than once for a run.

    A later revision of a study brings the study's results again: that is no repetition.
    """
    held = known.facts.held[pacs]
    return sum(
        max(0, n - max(1, len(known.runs[held.of[uid][0], core.name])))
        for uid, n in held.times.items()
        if uid in held.of
    )


def stuck(facts: Facts) -> list[str]:
    """What is not over and has no next action: no due time, or nothing it waits for."""
    found = []
    steps = {run["id"]: run["step"] for run in facts.runs}
    for run in facts.runs:
        if run["state"] not in OVER and _is_idle(run) and not _has_next_action(run):
            found.append(f"run {run['id']} ({run['state']}) has no next action")
    for delivery in facts.deliveries:
        if (
            delivery["state"] in {DeliveryState.PENDING, DeliveryState.RETRYING}
            and steps[delivery["run_id"]] == Step.DELIVER
            and _is_idle(delivery)
            and not _has_next_action(delivery)
        ):
            found.append(f"delivery {delivery['id']} ({delivery['state']}) has no next action")
    return found


def unfinished(facts: Facts) -> int:
    """How much is not over, what the ledger does not know yet included."""
    runs = sum(run["state"] not in OVER for run in facts.runs)
    return runs + len(facts.waiting_in_spool)


def _is_idle(work: dict[str, Any]) -> bool:
    return work["owner"] is None


def _has_next_action(work: dict[str, Any]) -> bool:
    return work["due_at"] is not None and bool(work["waiting_for"])


class _Known:
    """The facts, and the ledger's rows of them by study."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.deliveries: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for run in facts.runs:
            self.runs[run["study_uid"], run["core"]].append(run)
        for delivery in facts.deliveries:
            self.deliveries[delivery["study_uid"], delivery["destination"]].append(delivery)


def _judge_instances(study: Study, core: CoreFacts, known: _Known, verdict: Verdict) -> None:
    facts = known.facts
    uploads = facts.uploads[core.name]
    runs = known.runs[study.uid, core.name]
    for uid in study.acknowledged:
        outcomes = facts.outcomes.get((study.uid, uid), {}).get(core.name, [])
        if study.kind == "skipped":
            outcome = FILTERED if "filtered" in outcomes else _open(uid, runs, facts)
            if uid in uploads:
                verdict.violations.append(f"{core.name} got {uid}, which is to be filtered")
        elif uploads.get(uid):
            outcome = DELIVERED
        else:
            outcome = _open(uid, runs, facts)
        verdict.instances[core.name][outcome] += 1
        if outcome == LOST:
            verdict.violations.append(
                f"instance {uid} of study {study.number} ({study.kind}) is lost for {core.name}:"
                f" ledger says {outcomes or 'nothing'}"
            )


def _open(uid: str, runs: list[dict[str, Any]], facts: Facts) -> str:
    if uid in facts.waiting_in_spool or any(run["state"] not in OVER for run in runs):
        return PENDING
    if any(run["state"] == RunState.FAILED and run["error"] for run in runs):
        return QUARANTINED
    return LOST


def _judge_study(
    study: Study,
    core: CoreFacts,
    destination: str,
    known: _Known,
    verdict: Verdict,
) -> None:
    outcome, why = _outcome(study, core, destination, known)
    verdict.studies[destination][outcome] += 1
    where = f"study {study.number} ({study.kind}, {study.uid}) at {destination}"
    if outcome == LOST:
        verdict.violations.append(f"{where} is lost: {why}")
    elif outcome == QUARANTINED:
        verdict.reasons[why] += 1
        if not MAY_FAIL.get(study.kind, set()) & {core.name, destination}:
            verdict.violations.append(f"{where} is quarantined by what should pass: {why}")
    elif outcome == PENDING:
        verdict.violations.append(f"{where} is still not over: {why}")


def _outcome(study: Study, core: CoreFacts, destination: str, known: _Known) -> tuple[str, str]:
    facts = known.facts
    runs = known.runs[study.uid, core.name]
    open_runs = [run for run in runs if run["state"] not in OVER]
    if open_runs or facts.waiting_in_spool & study.acknowledged.keys():
        waits = {run["waiting_for"] or f"holder {run['owner']}" for run in open_runs}
        return PENDING, "; ".join(sorted(waits)) or "in the spool"
    if study.kind == "skipped" and runs:
        return FILTERED, ""
    lacks = _lacks(study, core, destination, facts)
    if not lacks:
        return DELIVERED, ""
    rows = known.deliveries[study.uid, destination]
    bad = [d for d in rows if d["state"] == DeliveryState.QUARANTINED and d["error"]]
    failed = [run for run in runs if run["state"] == RunState.FAILED and run["error"]]
    failed_before = [r for r in failed if not r["error"].startswith("quarantined: ")]
    if bad or failed_before:
        return QUARANTINED, str((bad or failed_before)[0]["error"]).replace(study.uid, "…")
    states = [f"run {run['state']}" for run in runs] + [f"delivery {d['state']}" for d in rows]
    return LOST, f"{lacks} is missing; the ledger says {', '.join(states) or 'nothing'}"


def _lacks(study: Study, core: CoreFacts, destination: str, facts: Facts) -> str:
    """What a destination lacks of a study; nothing: empty."""
    if destination in core.told:
        messages = facts.messages[destination]
        has = any(m.study_uid == study.uid and m.is_acknowledged for m in messages)
        return "" if has else "the message"
    expected = facts.results.get((core.name, study.uid), set())
    if not expected:
        return "every result"
    missing = expected - facts.held[destination].of.keys()
    return f"{len(missing)} of {len(expected)} results" if missing else ""


def _judge_runs(study: Study, known: _Known, verdict: Verdict) -> None:
    """Faults that pass end no run, even if all of the study came where it belongs."""
    if study.kind in MAY_FAIL:
        return
    for core in CORES:
        verdict.violations += [
            f"study {study.number} ({study.kind}): run {run['id']} of {core.name} failed: "
            f"{run['error']}"
            for run in known.runs[study.uid, core.name]
            if run["state"] == RunState.FAILED
        ]


def _judge_places(facts: Facts, studies: list[Study], verdict: Verdict) -> None:
    """Nothing is anywhere it does not belong, and nobody has another patient's results."""
    of = {study.uid: study for study in studies}
    sent = {uid for study in studies for uid in study.files}
    for core in CORES:
        strangers = facts.uploads[core.name].keys() - sent
        verdict.violations += [f"{core.name} got {uid}, which nobody sent" for uid in strangers]
        for name in core.archives:
            verdict.violations += _misplaced(name, core, facts, of)
    for message in (m for messages in facts.messages.values() for m in messages):
        study = of.get(message.study_uid)
        if study is None or message.patient_id != study.patient_id:
            verdict.violations.append(f"message {message.control_id} is of another patient")


def _misplaced(
    pacs: str, core: CoreFacts, facts: Facts, studies: dict[str, Study]
) -> Iterator[str]:
    if pacs == FOLDER and facts.held[pacs].n_unreadable:
        yield f"{pacs} holds {facts.held[pacs].n_unreadable} files that are not whole"
    for uid, (study_uid, patient_id) in facts.held[pacs].of.items():
        study = studies.get(study_uid)
        if study is None or uid not in possible_results(core, study):
            yield f"{pacs} holds {uid}, which is not for it"
        elif patient_id != study.patient_id:
            yield f"{pacs} holds {uid} of another patient"


def _judge_messages(name: str, messages: list[Message], known: _Known, verdict: Verdict) -> None:
    """One message per run: a repetition has the same MSH-10 (or id) and the same bytes."""
    raw: dict[str, bytes] = {}
    by_study: dict[str, set[str]] = defaultdict(set)
    for message in messages:
        by_study[message.study_uid].add(message.control_id)
        if message.control_id in raw:
            verdict.repeats[name] += 1
            if raw[message.control_id] != message.raw:
                verdict.violations.append(f"message {message.control_id} came in two versions")
        raw[message.control_id] = message.raw
    for study_uid, control_ids in by_study.items():
        n_runs = sum(d["state"] != DeliveryState.SKIPPED for d in known.deliveries[study_uid, name])
        if len(control_ids) > n_runs:
            verdict.violations.append(
                f"study {study_uid}: {len(control_ids)} messages at {name} for {n_runs} runs"
            )

"""Studies in every state, made through the ledger's own interface."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from pacsor_tasks.ledger import Answer, Ledger, NewInstance, NewResult, NewRevision, Target, migrate
from pacsor_tasks.models import (
    Delivery,
    DeliveryState,
    DestinationKind,
    InstanceOutcome,
    Run,
    RunState,
    Step,
)
from pacsor_tasks.words import counted

PACS = ("storescu", DestinationKind.STORESCU)
PACS_2 = ("storescu-2", DestinationKind.STORESCU)
RIS = ("hl7", DestinationKind.HL7)
OWNER = "seed"
LEASE_S = 60.0


class Clock:
    """Epoch seconds that a test moves."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 0.001  # nothing happens twice at the same instant
        return self.now


def new_ledger(directory: Path, clock: Callable[[], float]) -> Ledger:
    """A migrated SQLite ledger below `directory`."""
    path = directory / "ledger.sqlite3"
    path.write_bytes(_blank())
    return Ledger(f"sqlite:///{path}", clock)


@cache
def _blank() -> bytes:
    """A migrated SQLite file; migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.sqlite3"
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


class Seed:
    """Brings studies to a state, step by step as the pipeline would."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def receive(
        self,
        study_uid: str,
        *,
        cores: Sequence[str] = ("core",),
        destinations: Sequence[tuple[str, DestinationKind]] = (PACS, RIS),
        n_instances: int = 2,
        reason: str = "quiet",
    ) -> list[str]:
        """A new revision; the ids of its runs, queued."""
        token = f"{study_uid}-{self.ledger.clock()}"
        instances = [
            NewInstance(
                sop_instance_uid=f"{study_uid}.{n}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                series_uid=f"{study_uid}.0",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=f"ready/{study_uid}/{token}/{n}.dcm",
                size_bytes=9_400_000,
            )
            for n in range(1, n_instances + 1)
        ]
        targets = [Target(core=core, destinations=destinations) for core in cores]
        new = NewRevision(study_uid=study_uid, token=token, reason=reason, instances=instances)
        return self.ledger.intake.add_revision(new, targets)

    def claim(self, run_id: str, step: Step) -> Run:
        """Hold the run at this step."""
        run = self.ledger.runs.claim(run_id, step, OWNER, LEASE_S)
        assert run is not None
        return run

    def bring_to(self, run_id: str, step: Step, n_results: int = 3) -> None:
        """Finish the steps before this one."""
        said = {
            Step.FILTER: "2 of 2 instances pass the filters",
            Step.UPLOAD: "2 instances uploaded to core",
            Step.POLL: "prediction ready after 11.2 s",
            Step.DOWNLOAD: f"{counted(n_results, 'result instance')}"
            " (smarturgences: done, smartxpert: empty)",
        }
        for at in (Step.FILTER, Step.UPLOAD, Step.POLL, Step.DOWNLOAD):
            if at.position >= step.position:
                return
            run = self.claim(run_id, at)
            if at is Step.FILTER:
                self._outcomes(run, InstanceOutcome.UPLOADED)
            if at is Step.DOWNLOAD:
                self._results(run, n_results)
            self.ledger.runs.advance(run, at.following, (f"{at}.done", said[at]))
        if step.position > Step.FAN_OUT.position:
            run = self.claim(run_id, Step.FAN_OUT)
            totals = {
                d.destination: 1 if d.kind is DestinationKind.HL7 else n_results
                for d in self.ledger.deliveries.of_run(run_id)
            }
            self.ledger.deliveries.fan_out(run, totals, ("fan_out.done", f"to {len(totals)}"))

    def park(self, run_id: str, step: Step, wait_s: float, why: str, *, failed: bool) -> None:
        """Let the run wait at this step."""
        run = self.claim(run_id, step)
        error = why if failed else None
        self.ledger.runs.park(run, self.ledger.clock() + wait_s, why, error)

    def fail(self, run_id: str, step: Step, why: str) -> None:
        """End the run at this step."""
        self.ledger.runs.finish(self.claim(run_id, step), RunState.FAILED, why)

    def filter_out(self, run_id: str) -> None:
        """End the run because nothing passed the filters."""
        run = self.claim(run_id, Step.FILTER)
        self._outcomes(run, InstanceOutcome.FILTERED)
        why = "no instance passes the filters: BodyPartExamined is not HAND"
        self.ledger.runs.finish(run, RunState.FILTERED, why)

    def deliver(self, run_id: str, destination: str, sent: int) -> Delivery:
        """Send so many instances; the delivery stays held."""
        delivery = self.ledger.deliveries.claim(f"{run_id}:{destination}", OWNER, LEASE_S)
        assert delivery is not None
        if delivery.kind is DestinationKind.HL7:
            self.ledger.deliveries.keep_control_id(delivery.id, "20250801120003000001")
        for result in self.ledger.deliveries.unsent(delivery)[:sent]:
            self.ledger.deliveries.record_answers(delivery, [Answer(result.id, 0, "Success", True)])
        return delivery

    def delivered(self, run_id: str, destination: str, sent: int = 3) -> None:
        """Finish a delivery."""
        noun = "message" if destination.startswith("hl7") else "instance"
        self.end(run_id, destination, DeliveryState.DELIVERED, counted(sent, noun), sent)

    def end(
        self, run_id: str, destination: str, state: DeliveryState, why: str, sent: int = 0
    ) -> None:
        """End a delivery and settle its run."""
        self.ledger.deliveries.finish(self.deliver(run_id, destination, sent), state, why)
        if self.ledger.runs.settle(run_id):
            run = self.claim(run_id, Step.CLEANUP)
            self.ledger.runs.advance(run, Step.END, ("run.done", "done in 14.9 s"))

    def retry(self, run_id: str, destination: str, wait_s: float, why: str, sent: int = 0) -> None:
        """Let a delivery wait after a failure."""
        delivery = self.deliver(run_id, destination, sent)
        self.ledger.deliveries.park(delivery, self.ledger.clock() + wait_s, why, why)

    def done(self, study_uid: str) -> str:
        """A study that is through."""
        (run_id,) = self.receive(study_uid)
        self.bring_to(run_id, Step.DELIVER)
        self.delivered(run_id, "storescu")
        self.delivered(run_id, "hl7", 1)
        return run_id

    def _outcomes(self, run: Run, outcome: InstanceOutcome) -> None:
        found = self.ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
        self.ledger.runs.set_outcomes(run.id, [(i.id, outcome, None) for i in found])

    def _results(self, run: Run, n: int) -> None:
        results = [
            NewResult(
                sop_instance_uid=f"{run.study_uid}.9.{i}.{run.created_at:.0f}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=f"results/{run.id}/smarturgences/{i}.dcm",
                size_bytes=1_200_000,
            )
            for i in range(n)
        ]
        record = self.ledger.deliveries.record_command
        record(run.id, "smarturgences", ("done", None), results)
        record(run.id, "smartxpert", ("empty", "no result for this study"), ())

"""Short ways to put work into a ledger."""

from __future__ import annotations

from pacsor_tasks.ledger import Ledger, NewInstance, NewResult, NewRevision, Target
from pacsor_tasks.models import DestinationKind, Run, Step

STUDY = "1.2.826.0.1.3680043.8.498.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
TARGET = Target(
    core="core",
    destinations=[
        ("storescu", DestinationKind.STORESCU),
        ("storescu-2", DestinationKind.STORESCU),
        ("hl7", DestinationKind.HL7),
    ],
)


def new_revision(
    token: str = "t1", n: int = 2, study_uid: str = STUDY, notes: tuple[str, ...] = ()
) -> NewRevision:
    """A revision of `n` instances."""
    instances = [
        NewInstance(
            sop_instance_uid=f"{study_uid}.{token[1:]}.{i}",
            sop_class_uid=DX,
            series_uid=f"{study_uid}.9",
            transfer_syntax_uid=EXPLICIT_LE,
            path=f"ready/{study_uid}/{token}/{study_uid}.{token[1:]}.{i}.dcm",
            size_bytes=100,
        )
        for i in range(1, n + 1)
    ]
    return NewRevision(
        study_uid=study_uid, token=token, reason="quiet", instances=instances, notes=notes
    )


def add_run(ledger: Ledger, token: str = "t1", n: int = 2, study_uid: str = STUDY) -> Run:
    """A revision with one run on `core` to two PACS and a RIS."""
    (run_id,) = ledger.intake.add_revision(new_revision(token, n, study_uid), [TARGET])
    return existing(ledger, run_id)


def existing(ledger: Ledger, run_id: str) -> Run:
    """The run; AssertionError when there is none."""
    run = ledger.runs.get(run_id)
    assert run is not None
    return run


def bring_to(ledger: Ledger, run: Run, step: Step) -> Run:
    """Advance a run, step by step, as workers would."""
    while existing(ledger, run.id).step is not step:
        now = existing(ledger, run.id)
        claimed = ledger.runs.claim(run.id, now.step, "setup", 10)
        assert claimed is not None
        if now.step is Step.FAN_OUT:
            totals = {d.destination: 2 for d in ledger.deliveries.of_run(run.id)}
            assert ledger.deliveries.fan_out(claimed, totals, ("fan_out.done", "test"))
        else:
            assert ledger.runs.advance(claimed, now.step.following)
    return existing(ledger, run.id)


def add_results(ledger: Ledger, run: Run, n: int = 2) -> None:
    """`n` results of one command."""
    ledger.deliveries.record_command(
        run.id,
        "smarturgences",
        ("done", None),
        [
            NewResult(
                sop_instance_uid=f"1.2.3.{i}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                transfer_syntax_uid=EXPLICIT_LE,
                path=f"results/{run.id}/smarturgences/{i}.dcm",
                size_bytes=10,
            )
            for i in range(n)
        ],
    )

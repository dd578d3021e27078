"""The steps' work bench: a real ledger and spool, and an AI that does as it is told."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydicom import dcmread

from pacsor_tasks import guard
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.hl7.message import MessageOptions
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.limits import Limiter, Unlimited
from pacsor_tasks.milvue.outcomes import (
    Outcome,
    Results,
    StudyState,
    StudyStatus,
    UploadItem,
)
from pacsor_tasks.models import DestinationKind, InstanceOutcome, Run, Selection, Step
from pacsor_tasks.outcomes import Advance, End, Moved, RetryPolicy, Wait
from pacsor_tasks.ports import Core, Hl7Content, PollPolicy, Ports, Ris
from pacsor_tasks.spool import Manifest, Spool, write_durably
from pacsor_tasks.steps.fan_out import fan_out
from pacsor_tasks.steps.ingest import ingest
from tests.support.ledgers import existing
from tests.support.studies import make_study

HORIZON_S = 1000.0
RunStep = Callable[[Run, Ports], Advance | Wait | End | Moved]
#: What one asking for results brings: files to copy, an outcome without files, or an error.
Brought = Sequence[Path] | Outcome | PacsorError


@dataclass
class FakeApi:
    """The AI's side of the client. Answers are taken in turn, the last one for ever."""

    #: SOP Instance UIDs in the order uploaded
    uploaded: list[str] = field(default_factory=list)
    #: calls of `upload`, by the instances asked for
    asked: list[list[str]] = field(default_factory=list)
    #: raised once so many instances of a call went through
    upload_error: tuple[int, PacsorError] | None = None
    #: raised at the call for as long as the instance is among those asked for
    bad: dict[str, PacsorError] = field(default_factory=dict)
    states: list[StudyStatus | PacsorError] = field(
        default_factory=lambda: [StudyStatus(state=StudyState.DONE)]
    )
    results_by_command: dict[str, list[Brought]] = field(default_factory=dict)
    findings_by_command: dict[str, list[Any]] = field(default_factory=dict)
    #: (command, directory) of each asking for results
    fetched: list[tuple[str, Path]] = field(default_factory=list)
    before_results: Callable[[], None] = lambda: None

    def upload(
        self,
        study_uid: str,
        items: Sequence[UploadItem],
        on_uploaded: Callable[[UploadItem], None],
        before_put: Callable[[], None] | None = None,
    ) -> None:
        self.asked.append([item.sop_instance_uid for item in items])
        for item in items:
            if item.sop_instance_uid in self.bad:
                raise self.bad[item.sop_instance_uid]
        for number, item in enumerate(items):
            if self.upload_error is not None and number == self.upload_error[0]:
                raise self.upload_error[1]
            if before_put is not None:
                before_put()
            assert str(dcmread(item.path).StudyInstanceUID) == study_uid
            self.uploaded.append(item.sop_instance_uid)
            on_uploaded(item)

    def status(self, study_uid: str) -> StudyStatus:
        answer: StudyStatus | PacsorError = _next(self.states)
        if isinstance(answer, PacsorError):
            raise answer
        return answer

    def results(
        self, study_uid: str, command: str, into: Path, params: Mapping[str, str]
    ) -> Results:
        self.fetched.append((command, into))
        self.before_results()
        brought = _next(self.results_by_command[command])
        if isinstance(brought, PacsorError):
            raise brought
        if isinstance(brought, Outcome):
            return Results(outcome=brought, message="as told")
        into.mkdir(parents=True, exist_ok=True)
        for path in into.iterdir():
            path.unlink()
        copied = [Path(shutil.copy(f, into / f"{uuid.uuid4().hex}.dcm")) for f in brought]
        return Results(outcome=Outcome.DONE, paths=copied)

    def findings(self, study_uid: str, command: str, language: str | None = None) -> Any:
        answer = _next(self.findings_by_command[command])
        if isinstance(answer, PacsorError):
            raise answer
        return answer


class Bench:
    """Ports with one core, for steps to be run as the worker runs them.

    Args:
        root: For the spool and files.
        ledger: Real.
        pacs: Destinations that speak DICOM, by name.
        ris: Destinations that speak HL7, by name.
        others: Destinations of the other kinds, by what they are in Ports.
        selections: What of the results a destination is about.
        limits: How fast each is sent to.
        core: Overrides of the core.
    """

    def __init__(
        self,
        root: Path,
        ledger: Ledger,
        *,
        pacs: Mapping[str, Pacs] | None = None,
        ris: Mapping[str, Ris] | None = None,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        selections: Mapping[str, Selection] | None = None,
        limits: Mapping[str, Limiter] | None = None,
        **core: Any,
    ) -> None:
        self.api, self.ledger, self._root = FakeApi(), ledger, root
        self.limit: Limiter = core.pop("limit", Unlimited())
        spool = Spool(root / "spool")
        spool.prepare()
        given = {
            "commands": ("smarturgences",),
            "filters": (),
            "no_duplicate_upload": True,
            **core,
        }
        destinations = [(n, DestinationKind.STORESCU) for n in pacs or {}]
        destinations += [(n, DestinationKind.HL7) for n in ris or {}]
        kinds = {
            "stow": DestinationKind.STOW,
            "folders": DestinationKind.FOLDER,
            "webhooks": DestinationKind.WEBHOOK,
        }
        destinations += [(n, kinds[k]) for k, names in (others or {}).items() for n in names]
        content = Hl7Content(
            options=MessageOptions(
                sending_application="GATEWAY",
                sending_facility="SITE",
                receiving_application="RIS",
                receiving_facility="SITE",
            ),
            language="EN",
            default_issuer="MILVUE",
            detections_command="smarturgences",
            measures_command=None,
            results_timeout_s=600,
        )
        self.ports = Ports(
            spool=spool,
            ledger=ledger,
            cores={
                "core": Core(
                    name="core",
                    client=cast(Any, self.api),
                    findings=self.api,
                    output={},
                    upload_limit=self.limit,
                    **given,
                )
            },
            targets=[Target(core="core", destinations=destinations, selections=selections or {})],
            limits=limits or {},
            pacs=pacs or {},
            ris=ris or {},
            hl7=dict.fromkeys(ris or {}, content),
            poll=PollPolicy(interval_s=2, max_interval_s=30, timeout_s=300),
            retry=RetryPolicy(horizon_s=HORIZON_S),
            retention_s=100,
            stow=(others or {}).get("stow", {}),
            folders=(others or {}).get("folders", {}),
            webhooks=(others or {}).get("webhooks", {}),
        )

    def received(
        self, files: Sequence[Path], study_uid: str, token: str = "t1", **manifest: Any
    ) -> list[str]:
        """Put files into `ready/` and the outbox as the receiver does; their relative paths."""
        directory = self.ports.spool.revision_dir(study_uid, token)
        directory.mkdir(parents=True)
        for file in files:
            shutil.copy(file, directory / file.name)
        told = Manifest(
            study_uid=study_uid,
            token=token,
            reason="quiet",
            first_at="2026-01-02T03:04:05Z",
            last_at="2026-01-02T03:04:06Z",
            n_instances=len(files),
            size_bytes=1,
            **manifest,
        )
        (directory / "revision.json").write_text(told.to_json())
        entry = f'{{"study_uid": "{study_uid}"}}'.encode()
        write_durably(self.ports.spool.root / "outbox" / token, entry)
        return self.ports.spool.instance_paths(study_uid, token)

    def study(self, n: int = 2, token: str = "t1", **attributes: str) -> tuple[str, list[Path]]:
        """A received study: (its UID, the files it was made of, named by SOP Instance UID)."""
        made = make_study(self._root / f"made-{token}", n, side=8, **attributes)
        files = [f.rename(f.with_name(f"{uid_of(f)}.dcm")) for f in made]
        study_uid = str(dcmread(files[0]).StudyInstanceUID)
        self.received(files, study_uid, token)
        return study_uid, files

    def run(self, n: int = 2, token: str = "t1", **attributes: str) -> Run:
        """A received and ingested study's run."""
        study_uid, _ = self.study(n, token, **attributes)
        return self.ingested(study_uid, token)

    def ingested(self, study_uid: str, token: str = "t1") -> Run:
        """The run of a received revision."""
        paths = self.ports.spool.instance_paths(study_uid, token)
        (run_id,) = ingest(study_uid, paths, self.ports)
        return existing(self.ledger, run_id)

    def at(self, run: Run, step: Step) -> Run:
        """The run, moved to a step without doing those before; its instances count as uploaded."""
        if step.position > Step.UPLOAD.position:
            every = self.ledger.runs.instances(run.id, list(InstanceOutcome))
            self.ledger.runs.record_uploaded(run, every)
        while (now := existing(self.ledger, run.id)).step is not step:
            claimed = self.ledger.runs.claim(run.id, now.step, "setup", 10)
            assert claimed is not None
            if now.step is Step.FAN_OUT:
                assert fan_out(claimed, self.ports).done
            else:
                assert self.ledger.runs.advance(claimed, now.step.following)
        return existing(self.ledger, run.id)

    def do(self, run: Run, action: RunStep) -> Run:
        """One try of the run's present step under the guard; the run afterwards."""
        guard.run_step(
            self.ledger, self.ports.retry, run.id, run.step, lambda r: action(r, self.ports)
        )
        return existing(self.ledger, run.id)

    def events(self, run: Run) -> list[tuple[str, str]]:
        """(kind, message) of the study's timeline."""
        detail = self.ledger.studies.detail(run.study_uid)
        assert detail is not None
        return [(e["kind"], e["message"]) for e in detail["events"]]

    def outcomes(self, run: Run) -> dict[str, int]:
        """How many of the run's instances had which outcome."""
        detail = self.ledger.studies.detail(run.study_uid)
        assert detail is not None
        found: dict[str, int] = next(r["instances"] for r in detail["runs"] if r["id"] == run.id)
        return found

    def results(self, study_uid: str, n: int = 1, **attributes: str) -> list[Path]:
        """Files as the AI would return for a study."""
        directory = self._root / f"results-{uuid.uuid4().hex}"
        return make_study(directory, n, side=8, StudyInstanceUID=study_uid, **attributes)


def uid_of(file: Path) -> str:
    """SOPInstanceUID of a file."""
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def _next(answers: list[Any]) -> Any:
    return answers.pop(0) if len(answers) > 1 else answers[0]

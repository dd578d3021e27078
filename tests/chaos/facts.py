"""What is the case, as each party tells it: senders, APIs, PACSs, RIS, spool and ledger."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import create_engine, select

from pacsor_tasks.ledger import schema as t
from simulators.milvue.dicom import result_uid
from tests.chaos.senders import Study
from tests.chaos.site import CORES, DCMTK, FOLDER, TOKEN, CoreFacts, Site


@dataclass
class Held:
    """What an archive holds: of each SOP Instance UID study, patient ID and how often it came."""

    of: dict[str, tuple[str, str]] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    n_unreadable: int = 0


@dataclass
class Message:
    """One message at the RIS, or event at the webhook."""

    study_uid: str
    patient_id: str
    control_id: str
    raw: bytes
    is_acknowledged: bool


@dataclass
class Facts:
    """Everything there is to compare."""

    #: core → SOP Instance UID → how often it arrived whole
    uploads: dict[str, dict[str, int]] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    #: destination → what it got, in that order
    messages: dict[str, list[Message]] = field(default_factory=dict)
    #: rows of the ledger
    runs: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    #: (study UID, SOP Instance UID) → core → outcomes, over all runs
    outcomes: dict[tuple[str, str], dict[str, list[str]]] = field(default_factory=dict)
    #: SOP Instance UIDs in the spool that the ledger does not know yet
    waiting_in_spool: set[str] = field(default_factory=set)
    #: (core, study) → result UIDs that the AI has for it
    results: dict[tuple[str, str], set[str]] = field(default_factory=dict)


def gather(site: Site, studies: list[Study]) -> Facts:
    """Ask everybody. The switches must be back to normal."""
    facts = Facts()
    for core in CORES:
        summary = requests.get(
            f"{site.url(core.api)}/_simulator/journal?events=false", timeout=60
        ).json()
        facts.uploads[core.name] = summary["uploads"]
        for study in studies:
            if any(uid in facts.uploads[core.name] for uid in study.files):
                facts.results[core.name, study.uid] = results_of(site, core, study.uid)
    for name, folder in site.folders.items():
        facts.held[name] = held_by(site, name, folder)
    for core in CORES:
        for name in core.told:
            facts.messages[name] = list(messages_of(site.directory / f"{name}.journal"))
    read_ledger(site, facts)
    read_spool(site, facts)
    return facts


def results_of(site: Site, core: CoreFacts, study_uid: str) -> set[str]:
    """The result UIDs that the AI has for a study, by its own list of signed URLs."""
    found = set()
    for command in core.commands:
        answer = requests.get(
            f"{site.url(core.api)}/v3/studies/{study_uid}",
            params={"inference_command": command, "signed_url": "true"},
            headers={"x-goog-meta-owner": TOKEN, "Accept": "application/json"},
            timeout=20,
        )
        for url in answer.json().get("signed_urls", []) if answer.ok else []:
            kind, source, _ = urlsplit(url).path.rpartition("/")[2].split("~")
            found.add(result_uid(study_uid, command, source, kind))
    return found


def possible_results(core: CoreFacts, study: Study) -> set[str]:
    """Every result UID that a core may ever give for a study."""
    return {
        result_uid(study.uid, command, source, kind)
        for command in core.commands
        for source in study.files
        for kind in ("recap", "copy")
    }


def held_by(site: Site, name: str, folder: Path) -> Held:
    """What lies in an archive's folder, and how often each instance came."""
    held = Held()
    for path in folder.glob("[!.]*/*.dcm" if name == FOLDER else "*.dcm"):
        try:
            # The simulated PACS keeps data sets without a file's head. What somebody may find in
            # a folder has to be whole.
            ds = dcmread(path, stop_before_pixels=name != FOLDER, force=name == "storescu-2")
            held.of[str(ds.SOPInstanceUID)] = (str(ds.StudyInstanceUID), str(ds.PatientID))
        except (InvalidDicomError, AttributeError, OSError):
            held.n_unreadable += 1
    if name in DCMTK:
        log = site.directory / f"{name}.received"
        names = log.read_text().split() if log.exists() else []
        held.times.update(file.removesuffix(".dcm").partition(".")[2] for file in names)
    elif name != FOLDER:
        for event in events_of(site.directory / f"{name}.journal", "store"):
            if event["status"] in {0, 0xB000}:
                held.times[event["sop_instance_uid"]] += 1
    return held


def messages_of(journal: Path) -> Iterator[Message]:
    """The messages a RIS or webhook received, in their order."""
    for event in events_of(journal, "message"):
        raw = base64.b64decode(event["raw"])
        study_uid, patient_id = _whose(raw)
        yield Message(
            study_uid=study_uid,
            patient_id=patient_id,
            control_id=event["control_id"],
            raw=raw,
            is_acknowledged=event["answer"] in {"AA", "two_frames", "200"},
        )


def _whose(raw: bytes) -> tuple[str, str]:
    """Study UID and patient ID of an HL7 message or a webhook's event."""
    if raw.startswith(b"{"):
        event = json.loads(raw)
        return event["study_instance_uid"], event["patient"]["patient_id"]
    segments = {line[:3]: line.split(b"|") for line in raw.split(b"\r") if line}
    study, patient = segments[b"ZDS"][1], segments[b"PID"][3]
    return study.split(b"^")[0].decode(), patient.split(b"^")[0].decode()


def events_of(journal: Path, kind: str) -> Iterator[dict[str, Any]]:
    """A simulator's events; a line that was cut short by a kill is left out."""
    if not journal.exists():
        return
    with journal.open() as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event["kind"] == kind:
                yield event


def read_ledger(site: Site, facts: Facts) -> None:
    """Runs, deliveries, and what became of each instance."""
    engine = create_engine(site.ledger_url)
    with engine.connect() as c:
        # All of it at one moment.
        if engine.dialect.name == "sqlite":
            c.exec_driver_sql("BEGIN")
        else:
            c.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        facts.runs = [dict(row) for row in c.execute(select(t.run)).mappings()]
        facts.deliveries = [dict(row) for row in c.execute(select(t.delivery)).mappings()]
        rows = c.execute(
            select(
                t.run.c.study_uid,
                t.run.c.core,
                t.instance.c.sop_instance_uid,
                t.run_instance.c.outcome,
            )
            .join(t.run_instance, t.run_instance.c.run_id == t.run.c.id)
            .join(t.instance, t.instance.c.id == t.run_instance.c.instance_id)
        )
        for row in rows:
            by_core = facts.outcomes.setdefault((row.study_uid, row.sop_instance_uid), {})
            by_core.setdefault(row.core, []).append(row.outcome)
    engine.dispose()


def read_spool(site: Site, facts: Facts) -> None:
    """What was received and is not in the ledger yet."""
    root = site.spool.root
    waiting = [*root.glob("incoming/*/*.dcm"), *root.glob("ready/*/.*/*.dcm")]
    for study_uid, token in site.spool.outbox():
        waiting += site.spool.revision_dir(study_uid, token).glob("*.dcm")
    facts.waiting_in_spool = {path.stem for path in waiting}

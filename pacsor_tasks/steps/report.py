"""The report of a run: fetched from TechCare Report, or received from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

from pacsor_tasks.asides import Late
from pacsor_tasks.core_api import UnknownStudy
from pacsor_tasks.errors import BadResponse, NotFound, NotReady, Rejected
from pacsor_tasks.hl7.metadata import StudyMetadata, metadata_from, read_study_metadata
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.models import PeerKind, PeerName, Run
from pacsor_tasks.ports import TECHCARE, Core, Hl7Content, Ports
from pacsor_tasks.tcr.received import ReceivedReport, received_of

#: Where a received report is, among its run's results.
RECEIVED = "webps/report.json"
#: What has to agree between a report and the study that is held.
IDENTITY = {"PatientID": "patient_id", "AccessionNumber": "accession_number"}


def report_for(
    run: Run, core: Core, content: Hl7Content, waited_s: Callable[[], float], ports: Ports
) -> Report | None:
    """Fetch the report of the run's study, wherever its findings come from.

    Args:
        run: Whose study.
        core: Of the run; for one that only writes reports they are what there is to send.
        content: Of the destination.
        waited_s: How long the message has waited.
        ports: Where things are.

    Returns:
        None when none is to be sent, there is none, or it was waited for long enough.

    Raises:
        NotReady: It is being written, or not known yet.
        Retryable, Rejected, BadResponse: As the API client.
    """
    source = core.reports
    if source is None or not (content.include_report or core.is_reporting):
        return None
    peer = PeerName(PeerKind.CORE, core.name) if core.is_reporting else TECHCARE
    try:
        return ports.asides.ask(
            str(peer),
            (run.id, "report"),
            lambda: ports.breaker.call(peer, lambda: source.report(run.study_uid)),
        )
    except Late:
        raise
    except NotReady:
        if waited_s() < content.results_timeout_s:
            raise
    except UnknownStudy as exc:
        if waited_s() < min(content.report_patience_s, content.results_timeout_s):
            raise NotReady(str(exc)) from exc
    return None


def received_report(run_id: str, ports: Ports) -> ReceivedReport | None:
    """The report that a run was made of, from the spool; None for a run of a core.

    Raises:
        BadResponse: Its file is damaged.
    """
    try:
        content = ports.file(f"results/{run_id}/{RECEIVED}").read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise NotFound(f"the received report cannot be read: {exc.strerror}") from exc
    try:
        return received_of(json.loads(content))
    except (ValueError, RecursionError):
        raise BadResponse("the received report is damaged") from None


def metadata_of_received(found: ReceivedReport, content: Hl7Content, ports: Ports) -> StudyMetadata:
    """The study's data: what the report says, and for the rest an instance that is held.

    Raises:
        Rejected: The two are not of one patient or order.
    """
    given = {**found.study, "StudyInstanceUID": found.study_uid}
    told = metadata_from(given, default_issuer="")
    held = _held(found.study_uid, content, ports)
    if held is None:
        issuer = told.issuer_of_patient_id or content.default_issuer
        return replace(told, issuer_of_patient_id=issuer)
    for name, field in IDENTITY.items():
        ours, theirs = getattr(held, field), getattr(told, field)
        if ours and theirs and ours != theirs:
            raise Rejected(f"the report is not of the study that is held: {name} differs")
    return replace(held, **{name: text for name, text in asdict(told).items() if text})


def _held(study_uid: str, content: Hl7Content, ports: Ports) -> StudyMetadata | None:
    path = ports.ledger.reports.instance_of(study_uid)
    if path is None:
        return None
    try:
        return read_study_metadata(ports.file(path), default_issuer=content.default_issuer)
    except BadResponse:
        return None  # removed a moment ago

"""Download: the results of every inference command, checked before anything is delivered."""

from __future__ import annotations

from pathlib import Path

from pacsor_tasks.dicom.headers import Identity, read_header, read_identity
from pacsor_tasks.errors import BadResponse, NotReady
from pacsor_tasks.ledger import NewResult
from pacsor_tasks.milvue.outcomes import FormattingError
from pacsor_tasks.models import InstanceOutcome, Run, RunState
from pacsor_tasks.outcomes import Advance, End, Wait
from pacsor_tasks.ports import Core, Ports
from pacsor_tasks.steps.common import core_of
from pacsor_tasks.steps.poll import pause_s

#: Tries of a command whose rendering fails before the others are delivered without it.
FORMATTING_TRIES = 5


def download(run: Run, ports: Ports) -> Advance | Wait | End:
    """Fetch what is not settled yet, command by command. Source: contract §1.5.

    A forbidden command, or one whose rendering keeps failing, does not hold back the others. A
    result of another study or patient stops the run: nothing of it is delivered.

    Raises:
        Retryable, Rejected, BadResponse: As the API client, or a result that is not ours.
    """
    core = core_of(run, ports)
    settled = ports.ledger.deliveries.outcomes(run.id)
    unready: NotReady | FormattingError | None = None
    for command in core.commands:
        if command in settled:
            continue
        try:
            _fetch(run, command, core, ports)
        except FormattingError as exc:
            if run.attempts >= FORMATTING_TRIES:
                _settle(run, command, ("failed", str(exc)), ports)
            else:
                unready = exc
        except NotReady as exc:
            unready = exc
    if isinstance(unready, FormattingError):
        raise unready
    if unready is not None:
        return Wait(pause_s(ports.poll, run.attempts), "the results")
    return _judge(run, ports)


def _fetch(run: Run, command: str, core: Core, ports: Ports) -> None:
    into = ports.spool.results_dir(run.id, command)
    found = core.client.results(run.study_uid, command, into, core.output)
    expected = _uploaded_identity(run, ports)
    results = [_checked(run, command, path, expected, ports) for path in found.paths]
    outcome = found.outcome if found.outcome != "done" or results else "empty"
    ports.ledger.deliveries.record_command(run.id, command, (outcome, found.message), results)


def _judge(run: Run, ports: Ports) -> Advance | End:
    outcomes = ports.ledger.deliveries.outcomes(run.id)
    said = ", ".join(f"{name} {outcome}" for name, outcome in sorted(outcomes.items()))
    if not any(outcome in {"done", "empty"} for outcome in outcomes.values()):
        return End(RunState.FAILED, f"no command gave results: {said}")
    n = ports.ledger.deliveries.count_results(run.id)
    return Advance(("download.done", f"{n} result instances ({said})"))


def _settle(run: Run, command: str, outcome: tuple[str, str | None], ports: Ports) -> None:
    ports.ledger.deliveries.record_command(run.id, command, outcome, [])


def _uploaded_identity(run: Run, ports: Ports) -> Identity:
    sent = ports.ledger.runs.instances(
        run.id, [InstanceOutcome.UPLOADED, InstanceOutcome.DUPLICATE]
    )
    if not sent:
        raise BadResponse("nothing was uploaded to compare the results with")
    return read_identity(ports.file(sent[0].path))


def _checked(run: Run, command: str, path: Path, expected: Identity, ports: Ports) -> NewResult:
    try:
        header = read_header(path)
        differing = _differing(read_identity(path), expected)
    except BadResponse as exc:
        kept = ports.spool.quarantine(run.id, path)
        raise BadResponse(f"a result of {command} is unreadable: {exc} (kept in {kept})") from exc
    if differing:
        kept = ports.spool.quarantine(run.id, path)
        raise BadResponse(
            f"a result of {command} is not of what was uploaded: {differing} differs"
            f" (kept in {kept})"
        )
    return NewResult(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=path.relative_to(ports.spool.root).as_posix(),
        size_bytes=path.stat().st_size,
    )


def _differing(got: Identity, sent: Identity) -> str:
    """Names of the attributes that differ, never their values; those not sent are not compared."""
    names = {
        "StudyInstanceUID": got.study_uid != sent.study_uid,
        "PatientID": bool(sent.patient_id) and got.patient_id != sent.patient_id,
        "AccessionNumber": bool(sent.accession_number)
        and got.accession_number != sent.accession_number,
    }
    return ", ".join(name for name, differs in names.items() if differs)

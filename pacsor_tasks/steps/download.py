"""Download: the results of every inference command, checked before anything is delivered."""

from __future__ import annotations

import shutil
from pathlib import Path

from pacsor_tasks.core_api import FormattingError
from pacsor_tasks.dicom.headers import Identity, read_header, read_identity
from pacsor_tasks.errors import BadResponse, NotReady, Rejected, Retryable
from pacsor_tasks.ledger import NewResult
from pacsor_tasks.models import InstanceOutcome, Run, RunState
from pacsor_tasks.outcomes import Advance, End, Wait
from pacsor_tasks.ports import Core, Ports
from pacsor_tasks.steps.common import LEASE_LOST, core_of, require_lease
from pacsor_tasks.steps.poll import pause_s
from pacsor_tasks.words import counted

#: Tries of a command whose rendering fails before the others are delivered without it.
FORMATTING_TRIES = 5


def download(run: Run, ports: Ports) -> Advance | Wait | End:
    """Fetch what is not settled yet, command by command. Source: contract §1.5.

    A command that is refused, keeps running, or whose rendering keeps failing does not hold back
    the others. A result of another study or patient stops the run: nothing of it is delivered.

    Raises:
        Retryable, BadResponse: As the API client, or a result that is not ours.
    """
    core = core_of(run, ports)
    settled = ports.ledger.deliveries.outcomes(run.id)
    unready = [_try(run, name, core, ports) for name in core.commands if name not in settled]
    elapsed_s = ports.ledger.clock() - run.step_since
    if any(isinstance(exc, NotReady) for exc in unready):
        return Wait(pause_s(ports.poll, elapsed_s), "the results")
    for exc in unready:
        if exc is not None:
            raise exc
    return _judge(run, ports)


def _try(run: Run, command: str, core: Core, ports: Ports) -> NotReady | FormattingError | None:
    """Settle a command one way or the other; what to wait for if that cannot be done yet."""
    try:
        _fetch(run, command, core, ports)
    except FormattingError as exc:
        if run.attempts < FORMATTING_TRIES:
            return exc
        _settle(run, command, ("failed", str(exc)), [], ports)
    except NotReady as exc:
        if ports.ledger.clock() - run.step_since < ports.retry.horizon_s:
            return exc
        _settle(run, command, ("failed", str(exc)), [], ports)
    except Rejected as exc:
        _settle(run, command, ("failed", str(exc)), [], ports)
    return None


def _fetch(run: Run, command: str, core: Core, ports: Ports) -> None:
    into = _directory(run, command, ports)
    found = core.client.results(run.study_uid, command, into, core.output)
    expected = _uploaded_identity(run, ports)
    results = [_checked(run, command, path, expected, ports) for path in found.paths]
    outcome = found.outcome if found.outcome != "done" or results else "empty"
    _settle(run, command, (outcome, found.message), results, ports)


def _directory(run: Run, command: str, ports: Ports) -> Path:
    """This try's own directory; what tries left that died is removed.

    A worker that was frozen for longer than its lease may go on beside the one that took over:
    neither must find its files emptied, or mixed with the other's.
    """
    shared = ports.spool.results_dir(run.id, command)
    own = shared / (run.owner or run.id).rpartition(":")[2]
    require_lease(run, ports)
    for other in shared.iterdir():
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    return own


def _judge(run: Run, ports: Ports) -> Advance | End:
    outcomes = ports.ledger.deliveries.outcomes(run.id)
    said = ", ".join(f"{name} {outcome}" for name, (outcome, _) in outcomes.items())
    if not any(outcome in {"done", "empty"} for outcome, _ in outcomes.values()):
        why = "; ".join(dict.fromkeys(reason for _, reason in outcomes.values() if reason))
        return End(RunState.FAILED, f"no command gave results: {said}" + (why and f" ({why})"))
    n = ports.ledger.deliveries.count_results(run.id)
    return Advance(("download.done", f"{counted(n, 'result instance')} ({said})"))


def _settle(
    run: Run,
    command: str,
    outcome: tuple[str, str | None],
    results: list[NewResult],
    ports: Ports,
) -> None:
    record = ports.ledger.deliveries.record_command
    if not record(run.id, command, outcome, results, owner=run.owner):
        raise Retryable(LEASE_LOST)


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

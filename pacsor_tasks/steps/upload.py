"""Upload: the kept instances go to the AI, each once."""

from __future__ import annotations

from collections.abc import Sequence

from pacsor_tasks.errors import RateLimited
from pacsor_tasks.milvue.outcomes import UploadItem
from pacsor_tasks.models import Instance, InstanceOutcome, Run, RunState
from pacsor_tasks.outcomes import Advance, End
from pacsor_tasks.ports import Core, Ports
from pacsor_tasks.steps.common import core_of


def upload(run: Run, ports: Ports) -> Advance | End:
    """Upload what is not uploaded yet; resumes behind the last instance recorded.

    With NO_DUPLICATE_UPLOAD an instance that the core has from an earlier run is left out. When
    nothing new is left and an earlier run delivered, or still works, this one ends `filtered`.

    Raises:
        Retryable, Rejected, BadResponse: As the API client.
    """
    core = core_of(run, ports)
    todo = _without_duplicates(run, core, ports)
    if todo:
        _send(run, todo, ports, core)
    uploaded = ports.ledger.runs.instances(run.id, [InstanceOutcome.UPLOADED])
    if not uploaded and ports.ledger.runs.has_earlier(run, _USEFUL):
        return End(
            RunState.FILTERED,
            f"every instance was uploaded to {run.core} by an earlier run (NO_DUPLICATE_UPLOAD);"
            " relaunch to send them again",
        )
    return Advance(("upload.done", f"{len(uploaded)} instances uploaded to {run.core}"))


#: An earlier run in one of these delivered the results, or will.
_USEFUL = tuple(s for s in RunState if not s.is_terminal or s is RunState.DONE)


def _without_duplicates(run: Run, core: Core, ports: Ports) -> list[Instance]:
    pending = ports.ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    if run.force or not core.no_duplicate_upload:
        return pending
    known = ports.ledger.runs.already_uploaded(core.name, [i.sop_instance_uid for i in pending])
    reason = f"uploaded to {core.name} before"
    ports.ledger.runs.set_outcomes(
        run.id,
        [(i.id, InstanceOutcome.DUPLICATE, reason) for i in pending if i.sop_instance_uid in known],
    )
    return [i for i in pending if i.sop_instance_uid not in known]


def _send(run: Run, todo: Sequence[Instance], ports: Ports, core: Core) -> None:
    by_uid = {i.sop_instance_uid: i for i in todo}
    items = [
        UploadItem(path=ports.file(i.path), sop_instance_uid=i.sop_instance_uid)
        for i in by_uid.values()
    ]
    try:
        core.client.upload(
            run.study_uid,
            items,
            on_uploaded=lambda item: ports.ledger.runs.record_uploaded(
                run, [by_uid[item.sop_instance_uid]]
            ),
            before_put=core.upload_limit.wait,
        )
    except RateLimited as exc:
        core.upload_limit.pushback(exc.retry_after_s or 1.0)
        raise

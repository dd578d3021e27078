"""Upload: the kept instances go to the AI, each once."""

from __future__ import annotations

from collections.abc import Sequence

from pacsor_tasks.core_api import UnreadableInstance, UploadItem
from pacsor_tasks.errors import RateLimited
from pacsor_tasks.limits import Limiter
from pacsor_tasks.models import Instance, InstanceOutcome, Run, RunState
from pacsor_tasks.outcomes import Advance, End
from pacsor_tasks.ports import Core, Ports
from pacsor_tasks.steps.common import core_of, require_lease
from pacsor_tasks.words import counted

#: An upload that has begun waits for its next turn so long, seconds: to give up would send what the
#: API needs beforehand, or all of a direct upload, a second time.
PATIENCE_S = 30.0
#: An earlier run in one of these delivered the results, or will.
_USEFUL = tuple(s for s in RunState if not s.is_terminal or s is RunState.DONE)


def upload(run: Run, ports: Ports) -> Advance | End:
    """Upload what is not uploaded yet; resumes behind the last instance recorded.

    With NO_DUPLICATE_UPLOAD an instance that the core has from an earlier run is left out. When
    nothing new is left and an earlier run delivered, or still works, this one ends `filtered`. An
    instance whose file cannot be sent does not hold back the others.

    Raises:
        Retryable, Rejected, BadResponse: As the API client.
    """
    core = core_of(run, ports)
    todo = _without_duplicates(run, core, ports)
    while todo:
        try:
            _send(run, todo, ports, core)
            break
        except UnreadableInstance as exc:
            todo = _without_unreadable(run, exc, ports)
    if uploaded := ports.ledger.runs.instances(run.id, [InstanceOutcome.UPLOADED]):
        return Advance(
            ("upload.done", f"{counted(len(uploaded), 'instance')} uploaded to {run.core}")
        )
    if not ports.ledger.runs.instances(run.id, [InstanceOutcome.DUPLICATE]):
        return End(RunState.FAILED, "no instance could be uploaded: none can be read")
    if ports.ledger.runs.has_earlier(run, _USEFUL):
        return End(
            RunState.FILTERED,
            f"every instance was uploaded to {run.core} by an earlier run (NO_DUPLICATE_UPLOAD);"
            " relaunch to send them again",
        )
    return Advance(("upload.done", f"{run.core} has every instance from an earlier run"))


def _without_duplicates(run: Run, core: Core, ports: Ports) -> list[Instance]:
    pending = ports.ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    # A sender may give one instance two names; the one that came last counts.
    last = {i.sop_instance_uid: i.id for i in pending}
    why = {
        i.id: "the same instance came twice" for i in pending if last[i.sop_instance_uid] != i.id
    }
    if core.no_duplicate_upload and not run.force:
        known = ports.ledger.runs.already_uploaded(core.name, list(last))
        before = f"uploaded to {core.name} before"
        why |= {i.id: before for i in pending if i.sop_instance_uid in known}
    ports.ledger.runs.set_outcomes(
        run.id, [(i, InstanceOutcome.DUPLICATE, reason) for i, reason in why.items()]
    )
    return [i for i in pending if i.id not in why]


def _without_unreadable(run: Run, exc: UnreadableInstance, ports: Ports) -> list[Instance]:
    """Set one instance aside; what is still to be sent."""
    pending = ports.ledger.runs.instances(run.id, [InstanceOutcome.PENDING])
    bad = [i.id for i in pending if i.sop_instance_uid == exc.sop_instance_uid]
    if not bad:
        raise exc
    reason = str(exc)
    ports.ledger.runs.set_outcomes(run.id, [(i, InstanceOutcome.UNREADABLE, reason) for i in bad])
    return [i for i in pending if i.id not in bad]


def _send(run: Run, todo: Sequence[Instance], ports: Ports, core: Core) -> None:
    by_uid = {i.sop_instance_uid: i for i in todo}
    items = [UploadItem(path=ports.file(i.path), sop_instance_uid=i.sop_instance_uid) for i in todo]
    turns = _Turns(core.upload_limit)

    def before_put() -> None:
        turns.take()
        require_lease(run, ports)

    try:
        core.client.upload(
            run.study_uid,
            items,
            on_uploaded=lambda item: ports.ledger.runs.record_uploaded(
                run, [by_uid[item.sop_instance_uid]]
            ),
            before_put=before_put,
        )
    except RateLimited as exc:
        if exc is not turns.refusal:
            core.upload_limit.pushback(exc.retry_after_s or 1.0)
        raise


class _Turns:
    """One upload's turns. The first is taken at once, before anything is asked of the API.

    Raises:
        RateLimited: Our own limit is used up for now.
    """

    def __init__(self, limit: Limiter) -> None:
        self._limit = limit
        limit.wait()
        self._has_first = True
        #: what our own limit said: no news to the other workers, unlike the API's 429
        self.refusal: RateLimited | None = None

    def take(self) -> None:
        """Wait for a turn."""
        if self._has_first:
            self._has_first = False
            return
        try:
            self._limit.wait(PATIENCE_S)
        except RateLimited as exc:
            self.refusal = exc
            raise

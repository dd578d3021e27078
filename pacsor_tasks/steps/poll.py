"""Poll: is the prediction there?"""

from __future__ import annotations

import random

from pacsor_tasks.core_api import StudyState, UnknownStudy
from pacsor_tasks.models import Run, RunState
from pacsor_tasks.outcomes import Advance, End, Wait
from pacsor_tasks.ports import PollPolicy, Ports
from pacsor_tasks.steps.common import core_of

#: Growth of the pause between two looks.
GROWTH = 1.5
#: An upload may take so long to be visible, seconds.
VISIBLE_S = 600.0


def poll(run: Run, ports: Ports) -> Advance | Wait | End:
    """Ask once for the study's status. Source: contract §1.5.

    Raises:
        Retryable, Rejected, BadResponse: As the API client.
    """
    elapsed_s = ports.ledger.clock() - run.step_since
    try:
        status = core_of(run, ports).client.status(run.study_uid)
    except UnknownStudy as exc:
        if elapsed_s < VISIBLE_S:
            raise
        return End(RunState.FAILED, f"{exc}: the AI no longer has it; relaunch to send it again")
    if status.state is StudyState.DONE:
        return Advance(("poll.done", f"prediction ready after {elapsed_s:.1f} s"))
    if status.state is StudyState.ERROR:
        return End(RunState.FAILED, f"the prediction failed: {status.message or 'no message'}")
    if elapsed_s >= ports.retry.horizon_s:
        return End(RunState.FAILED, f"the prediction was still running after {elapsed_s:.0f} s")
    if elapsed_s >= ports.poll.timeout_s:
        return Wait(
            ports.retry.cap_s,
            f"the prediction, running for {elapsed_s:.0f} s: longer than PREDICTION_TIMEOUT",
        )
    return Wait(pause_s(ports.poll, elapsed_s), "the prediction")


def pause_s(policy: PollPolicy, elapsed_s: float) -> float:
    """Seconds to the next look when it was waited so long already, with a jitter of a fifth.

    Counted in time and not in looks, so that what failed in between does not matter.
    """
    pause = max(policy.interval_s, (GROWTH - 1) * elapsed_s)
    return min(policy.max_interval_s, pause) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

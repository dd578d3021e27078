"""The TechCare report of a run, if its messages carry one."""

from __future__ import annotations

from collections.abc import Callable

from pacsor_tasks.core_api import UnknownStudy
from pacsor_tasks.errors import NotReady
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.models import PeerKind, PeerName, Run
from pacsor_tasks.ports import TECHCARE, Core, Hl7Content, Ports


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
        return ports.breaker.call(peer, lambda: source.report(run.study_uid))
    except NotReady:
        if waited_s() < content.results_timeout_s:
            raise
    except UnknownStudy as exc:
        if waited_s() < min(content.report_patience_s, content.results_timeout_s):
            raise NotReady(str(exc)) from exc
    return None

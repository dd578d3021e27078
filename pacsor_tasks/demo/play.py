"""The demo's story: start everything, send the study, watch it arrive, ask the peers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pacsor_tasks.cli.dicom_files import Tally
from pacsor_tasks.cli.gateway import processes
from pacsor_tasks.cli.nodes import parse_node
from pacsor_tasks.cli.output import console_sink
from pacsor_tasks.cli.send import send_all
from pacsor_tasks.cli.up import embedded_redis, preparation, summary
from pacsor_tasks.demo.journals import instances_uploaded, is_received
from pacsor_tasks.demo.stage import Stage
from pacsor_tasks.demo.watch import Api, Display, Study, is_over
from pacsor_tasks.embedded_redis import EmbeddedRedis
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.supervisor import Supervisor
from pacsor_tasks.words import counted

POLL_S = 0.2
#: The demo's queue is thrown away: nothing waits for the workers' soft stop.
STOP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for."""

    #: DICOM files to send
    source: Path
    keep: bool
    #: longest wait for every delivery, seconds
    timeout_s: float


async def play(stage: Stage, plan: Plan, console: Console) -> bool:
    """Run the demo.

    Returns:
        Whether every delivery was made, by the word of its destination.

    Raises:
        ConfigError: Something refused to start.
        PacsorError: The study could not be sent.
    """
    with embedded_redis(stage.settings) as redis, stage.log.open("ab") as log:
        supervisor = _supervisor(stage, redis, log)
        is_up = asyncio.Event()
        running = asyncio.create_task(
            supervisor.run(prepare=preparation(stage.settings, redis), on_ready=is_up.set)
        )
        story = asyncio.create_task(_story(stage, plan, console, is_up))
        await asyncio.wait({running, story}, return_when=asyncio.FIRST_COMPLETED)
        if plan.keep and story.done() and story.exception() is None:
            console.print("\n".join(["", *places(stage)]), markup=False, soft_wrap=True)
            console.print("Ctrl-C ends it")
            await asyncio.wait({running})
        elif story.done() and story.exception() is None:
            console.print(
                "`--keep` leaves it running, with the status page, Flower and the RIS's page",
                style="dim",
            )
        supervisor.stop()
        story.cancel()
        await running
        return await story if story.done() and not story.cancelled() else False


def _supervisor(stage: Stage, redis: EmbeddedRedis | None, log: BinaryIO) -> Supervisor:
    # Their working directory has no `.env`: the site's own must not be read.
    specs = [
        replace(spec, cwd=spec.cwd or stage.directory)
        for spec in (*stage.simulators(), *processes(stage.settings, redis))
    ]
    return Supervisor(
        specs,
        console_sink(log, [spec.name for spec in specs]),
        environ=stage.environment,
        stop_timeout_s=STOP_TIMEOUT_S,
    )


async def _story(stage: Stage, plan: Plan, console: Console, is_up: asyncio.Event) -> bool:
    console.print(
        "starting a gateway and its simulated peers (an AI service, a report service, two PACS, a"
        " RIS)",
        soft_wrap=True,
    )
    with console.status("starting") if console.is_terminal else nullcontext():
        await is_up.wait()
    console.print("\n".join(places(stage)), markup=False, soft_wrap=True)
    study_uids = await asyncio.to_thread(_send, stage, plan.source, console)
    studies = await _watch(stage, study_uids, plan.timeout_s, console)
    return report(stage, studies, console)


def places(stage: Stage) -> list[str]:
    """Where everything is, the RIS's page included."""
    return [*summary(stage.settings), f"  the RIS's page   http://127.0.0.1:{stage.ris_page}/"]


def _send(stage: Stage, source: Path, console: Console) -> list[str]:
    node = f"{stage.settings.RECEIVER_AET}@127.0.0.1:{stage.settings.PORT}"
    tally = Tally()
    outcome = send_all([source], parse_node(node, "MODALITY"), tally)
    for label, reason in (*outcome.refused, *tally.unreadable):
        console.print(f"not sent: {label}: {reason}", markup=False, soft_wrap=True)
    if not outcome.sent:
        raise PacsorError(outcome.stopped or f"no DICOM instance in {source} could be sent")
    studies = list(outcome.study_uids)
    uids = ", ".join(studies[:3]) + (" …" if len(studies) > 3 else "")
    console.print(
        f"{counted(outcome.sent, 'instance')} sent to {node}: study {uids}", soft_wrap=True
    )
    return studies


async def _watch(
    stage: Stage, study_uids: Sequence[str], timeout_s: float, console: Console
) -> Mapping[str, Study | None]:
    """The studies when all are over, or when the time is."""
    api = Api("127.0.0.1", stage.settings.ADMIN_PORT)
    deadline = time.monotonic() + timeout_s
    studies: dict[str, Study | None] = dict.fromkeys(study_uids)
    display = Display(console, study_uids)
    try:
        while True:
            for study_uid in study_uids:
                if not is_over(studies[study_uid]):
                    studies[study_uid] = await asyncio.to_thread(api.study, study_uid)
            display.show(studies)
            if all(map(is_over, studies.values())) or time.monotonic() > deadline:
                return studies
            await asyncio.sleep(POLL_S)
    finally:
        display.close()


def report(stage: Stage, studies: Mapping[str, Study | None], console: Console) -> bool:
    """Say what was delivered where, and what is missing.

    Returns:
        Whether every study reached every destination, by the destinations' own journals.
    """
    table = Table(box=None, title="deliveries", title_justify="left", header_style="bold")
    columns = ["destination", "state", "sent", "what the destination says"]
    for column in columns if len(studies) == 1 else [*columns, "study"]:
        table.add_column(column, overflow="fold")
    missing: list[str] = []
    for study_uid, study in studies.items():
        missing += _report_study(stage, study_uid, study, table)
    console.print()
    console.print(table)
    for study_uid, study in studies.items():
        _print_timeline(stage, study_uid, study, console)
    console.print()
    for line in missing:
        console.print(Text(f"missing: {line}", style="bold red"), soft_wrap=True)
    if not missing:
        console.print("every delivery was made", style="bold green")
    return not missing


def _report_study(stage: Stage, study_uid: str, study: Study | None, table: Table) -> list[str]:
    wanted = set(stage.settings.cores["core"].destinations)
    if study is None or not study["runs"]:
        return [f"{study_uid}: not in the ledger"]
    missing = []
    run = study["runs"][0]
    for delivery in run["deliveries"]:
        said = is_received(stage.journals, study_uid, delivery)
        sent = f"{delivery['sent']}/{delivery['total']}"
        cells = [delivery["destination"], delivery["state"], sent, said, study_uid]
        table.add_row(*cells[: len(table.columns)])
        if delivery["state"] == "delivered" and said:
            wanted.discard(delivery["destination"])
        else:
            why = delivery["error"] or delivery["waiting_for"] or "its journal does not have it"
            missing.append(f"{study_uid} at {delivery['destination']}: {delivery['state']}, {why}")
            wanted.discard(delivery["destination"])
    missing += [f"{study_uid} at {destination}: no delivery" for destination in sorted(wanted)]
    if run["state"] != "done":
        missing.append(
            f"{study_uid}: the run is {run['state']}: {run['error'] or run['waiting_for']}"
        )
    return missing


def _print_timeline(stage: Stage, study_uid: str, study: Study | None, console: Console) -> None:
    uploaded = instances_uploaded(stage.journals["api"], study_uid)
    console.print(f"\ntimeline of {study_uid}", style="bold", soft_wrap=True)
    for event in study["events"] if study else ():
        where = f" {event['destination']}" if event["destination"] else ""
        line = f"  {event['at'][11:23]}  {event['kind']}{where}: {event['message']}"
        console.print(Text(line), soft_wrap=True)
    console.print(f"the AI service received {counted(uploaded, 'instance')}", soft_wrap=True)

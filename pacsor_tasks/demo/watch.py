"""Watching studies through the admin API, and showing it: a live table, or a line per event."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pacsor_tasks.models import TERMINAL_RUN_STATES

Study = Mapping[str, Any]
#: event that ends a step → the step, as shown
STEPS = {
    "study.stable": "receive",
    "filter.done": "filter",
    "upload.done": "upload",
    "poll.done": "predict",
    "download.done": "download",
    "fan_out.done": "fan out",
}
STYLES = {"done": "green", "delivered": "green", "running": "cyan", "waiting": "dim"}
BAD = "bold red"
TIMEOUT_S = 5.0


class Api:
    """The admin API of the demo's gateway."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def study(self, study_uid: str) -> Study | None:
        """The study as every client sees it; None before it is there, or while nobody answers."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"/api/studies/{study_uid}")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        found: Study | None = json.loads(body) if answer.status == 200 else None
        return found


def is_over(study: Study | None) -> bool:
    """Whether nothing more will happen to the study by itself."""
    return (
        study is not None
        and bool(study["runs"])
        and all(run["state"] in TERMINAL_RUN_STATES for run in study["runs"])
    )


class Display:
    """Shows the studies as they go: in place on a terminal, as lines in a log file.

    Args:
        console: Where to.
        study_uids: What is on its way.
    """

    def __init__(self, console: Console, study_uids: Sequence[str]) -> None:
        self._console = console
        self._study_uids = study_uids
        self._started = time.monotonic()
        self._told: dict[str, int] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        if self._live is not None:
            self._live.start()

    def show(self, studies: Mapping[str, Study | None]) -> None:
        """Show how things are now."""
        if self._live is not None:
            self._live.update(self._table(studies), refresh=True)
            return
        for study_uid, study in studies.items():
            self._tell(study_uid, study)

    def close(self) -> None:
        """Leave the last picture on the screen."""
        if self._live is not None:
            self._live.stop()

    def _tell(self, study_uid: str, study: Study | None) -> None:
        events = study["events"] if study else []
        name = f" {study_uid}" if len(self._study_uids) > 1 else ""
        for event in events[self._told.get(study_uid, 0) :]:
            seconds = time.monotonic() - self._started
            where = f" {event['destination']}" if event["destination"] else ""
            line = f"{seconds:7.1f} s{name}  {event['kind']}{where}: {event['message']}"
            self._console.print(Text(line), soft_wrap=True)
        self._told[study_uid] = len(events)

    def _table(self, studies: Mapping[str, Study | None]) -> Group:
        seconds = time.monotonic() - self._started
        head = Text(f"{seconds:5.1f} s", style="bold")
        if len(self._study_uids) == 1:
            return Group(head, _steps(next(iter(studies.values()))))
        return Group(head, _overview(studies))


def _steps(study: Study | None) -> Table:
    table = _plain_table()
    done = {e["kind"]: e["message"] for e in study["events"]} if study else {}
    is_next = True
    for kind, step in STEPS.items():
        if kind in done:
            _row(table, step, "done", done[kind])
            continue
        _row(table, step, "running" if is_next else "waiting", _wait(study) if is_next else "")
        is_next = False
    for delivery in study["runs"][0]["deliveries"] if study and study["runs"] else []:
        progress = f"{delivery['sent']} of {delivery['total']}" if delivery["total"] else ""
        why = delivery["error"] or delivery["waiting_for"] or ""
        note = progress if delivery["state"] == "delivered" else f"{progress}  {why}".strip()
        _row(table, delivery["destination"], delivery["state"], note)
    return table


def _overview(studies: Mapping[str, Study | None]) -> Table:
    table = _plain_table()
    for study_uid, study in studies.items():
        runs = study["runs"] if study else []
        made = [d["state"] == "delivered" for run in runs[:1] for d in run["deliveries"]]
        state = study["state"] if study else "waiting"
        _row(table, study_uid, state, f"{sum(made)} of {len(made)} delivered")
    return table


def _wait(study: Study | None) -> str:
    if study is None:
        return "the study to be complete"
    return study["error"] or study["waiting_for"] or ""


def _row(table: Table, name: str, state: str, note: str) -> None:
    bad = state in {"failed", "quarantined"}
    table.add_row(name, Text(state, style=BAD if bad else STYLES.get(state, "yellow")), Text(note))


def _plain_table() -> Table:
    table = Table(box=None, pad_edge=True, show_header=False)
    table.add_column(min_width=12)
    table.add_column(min_width=10)
    table.add_column(overflow="fold")
    return table

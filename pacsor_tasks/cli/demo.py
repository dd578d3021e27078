"""`pacsor demo`: a real study through a gateway of its own, shown as it arrives."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import click

from pacsor_tasks.cli.common import make_console
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.observability import configure_logging

LOG_LINES = 30


@click.command()
@click.option(
    "--dicom",
    type=click.Path(exists=True, path_type=Path),
    help="Send these instead: a file, a directory or a zip archive.",
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option(
    "--timeout",
    "timeout_s",
    default=120.0,
    show_default=True,
    help="Seconds to wait for every delivery.",
)
def demo(dicom: Path | None, keep: bool, timeout_s: float) -> None:
    """Start a gateway and simulated peers on free ports, send a real study, show it arriving.

    Nothing leaves this machine, and no setting of a real gateway is used. Exit status 0 only when
    every delivery was made.
    """
    from pacsor_tasks.demo.play import Plan, play
    from pacsor_tasks.demo.stage import build_stage
    from pacsor_tasks.demo.study import make_study

    directory = Path(tempfile.mkdtemp(prefix="pacsor-demo-"))
    stage = build_stage(directory)
    is_well = False
    try:
        with stage.log.open("a", encoding="utf-8") as log:
            configure_logging("info", "console", stream=log)
            if dicom is None:
                dicom = directory / "study"
                make_study(dicom)
            is_well = asyncio.run(play(stage, Plan(dicom, keep, timeout_s), make_console()))
    except PacsorError as exc:
        click.echo(f"pacsor: {exc}", err=True)
    finally:
        _tidy(directory, stage.log, is_well)
    sys.exit(0 if is_well else 1)


def _tidy(directory: Path, log: Path, is_well: bool) -> None:
    if is_well:
        shutil.rmtree(directory, ignore_errors=True)
        return
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in lines[-LOG_LINES:]:
        click.echo(f"  {line}", err=True)
    click.echo(f"the whole log: {log}", err=True)

"""What the verbs share: settings with their warnings, quiet logs, a console fit for a log file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pacsor_tasks.observability import configure_logging
from pacsor_tasks.settings import Settings, load_with_warnings

if TYPE_CHECKING:
    from rich.console import Console

#: Wide enough for a UID and its state when the output is not a terminal.
FILE_WIDTH = 160


def load_settings() -> Settings:
    """The effective settings; what an operator should know of them goes to stderr.

    Raises:
        ConfigError: A setting is missing or wrong.
    """
    settings, warnings = load_with_warnings()
    for warning in warnings:
        click.echo(f"pacsor: {warning}", err=True)
    return settings


def quiet_logs() -> None:
    """The verb prints its own findings; only what nobody expected comes as a log line."""
    configure_logging("error", "console")


def make_console() -> Console:
    """Colours, wrapping and live displays on a terminal; plain wide lines elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH, no_color=True)
    return console


def local_time(at: str | None) -> str:
    """A time in our JSON on this machine's clock, to the second."""
    if not at:
        return ""
    moment = datetime.fromisoformat(at).astimezone()
    is_today = moment.date() == datetime.now(UTC).astimezone().date()
    return moment.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S")

"""What the verbs share: settings with their warnings, and a console that fits a log file too."""

from __future__ import annotations

import click
from rich.console import Console

from pacsor_tasks.settings import Settings, load_with_warnings

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


def make_console() -> Console:
    """Colours, wrapping and live displays on a terminal; plain wide lines elsewhere."""
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=FILE_WIDTH, no_color=True)
    return console

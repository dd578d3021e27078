"""The `pacsor` command. A verb's code is imported when the verb is used: `--help` stays quick."""

from __future__ import annotations

import importlib
import sys

import click

from pacsor_tasks import __version__
from pacsor_tasks.errors import ConfigError, PacsorError

EXIT_PROBLEM = 1
EXIT_CONFIG = 2
#: verb → module of this package that defines a command of that name, and what `--help` says of it
VERBS: dict[str, tuple[str, str]] = {
    "setup": ("setup", "Make or change a site's settings, in a dialogue or from options."),
    "up": ("up", "Run the whole gateway until it is stopped."),
    "demo": ("demo", "Send a real study through a gateway of its own and show it arriving."),
    "check": ("check", "Prove the settings and every peer."),
    "config": ("config", "Print the effective settings, secrets masked."),
    "migrate": ("migrate", "Make the settings from those of a PACSOR installation."),
    "status": ("studies", "List the latest studies, or show one with its timeline."),
    "relaunch": ("relaunch", "Send studies again: from any step, to all or one destination."),
    "complete": ("studies", "Close a study that is being received, as it is."),
    "retry": ("operate", "Try now what waits, failed or is quarantined."),
    "skip": ("operate", "Give a delivery up, for a reason."),
    "reroute": ("operate", "Send results to another destination instead."),
    "cancel": ("operate", "End a run where it is."),
    "pause": ("operate", "Send nothing to a destination or core for a while."),
    "resume": ("operate", "Send to it again."),
    "peers": ("operate", "List destinations and cores: well, left alone or paused."),
    "filter": ("filter", "Say which rule of DICOM_FILTERS keeps or skips each file."),
    "send": ("send", "Send DICOM files, directories or zip archives by C-STORE."),
    "hl7": ("hl7", "Look at messages to a RIS, try one, load their configuration."),
    "echo": ("echo", "Send a C-ECHO to the PACS destinations, or to any AE."),
}


class Verbs(click.Group):
    """A group that imports a command's module only to run the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the table."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"{__name__}.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pacsor")
def cli() -> None:
    """DICOM studies to the AI service, its results to the PACS and the RIS.

    Settings come from the environment and from `.env` in the working directory.
    """


def main() -> None:
    """Run the command line and exit: 0 well, 1 a problem, 2 wrong settings or usage."""
    try:
        cli(prog_name="pacsor")
    except ConfigError as exc:
        fail(str(exc), EXIT_CONFIG)
    except PacsorError as exc:
        fail(str(exc), EXIT_PROBLEM)


def fail(message: str, status: int) -> None:
    """Say what is wrong on stderr, a line each, and exit."""
    for line in message.splitlines():
        click.echo(f"pacsor: {line}", err=True)
    sys.exit(status)

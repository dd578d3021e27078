"""`pacsor setup`: make or change a site's settings, in a dialogue or from options."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pacsor_tasks.cli.common import quiet_logs
from pacsor_tasks.errors import ConfigError

if TYPE_CHECKING:
    from pacsor_tasks.setup.files import Loaded, Written
    from pacsor_tasks.setup.questions import Surroundings
    from pacsor_tasks.setup.screen import Screen
    from pacsor_tasks.setup.values import Values

EXIT_CANCELLED = 1
EXIT_BAD_PEER = 3


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Where env-files, .env and docker-compose.yml are; default: here.",
)
@click.option(
    "--client", help="Client name, country.partner.client.site.id; loads it if it is there."
)
@click.option(
    "--from-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Begin with this env file, or .config of PACSOR's wizard.",
)
@click.option("--product", help="suite, smarttrauma or techcare-trauma.")
@click.option("--environment", help="Key of an environment of the product: prod, localor, …")
@click.option("--api-url", help="URL of the AI service, for any other.")
@click.option("--token-file", metavar="FILE", help="The API token's file; - is stdin.")
@click.option("--pacs", multiple=True, metavar="AET@HOST:PORT", help="A PACS; again: storescu-2, …")
@click.option("--ris", multiple=True, metavar="HOST:PORT", help="A RIS; again: hl7-2, …")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME=FILE",
    help="A secret's file: command lines are seen by others.",
)
@click.option(
    "--yes", is_flag=True, help="No questions: proposals for what is not given, then save."
)
@click.option("--check", is_flag=True, help="With --yes: save only if every peer answers.")
@click.option("--no-link", is_flag=True, help="With --yes: leave .env as it is.")
@click.option("--plain", is_flag=True, help="Lines instead of menus, as where TERM=dumb.")
def setup(**options: Any) -> None:
    """Make or change a site's settings: env-files/.env.CLIENT, the .env link, a Compose override.

    Asks in a terminal, unless --yes says that the options have it all.
    """
    quiet_logs()
    try:
        written = _batch(options) if options["yes"] else _dialogue(options)
    except (KeyboardInterrupt, EOFError):
        written = None
    if written is None:
        click.echo("nothing was written", err=True)
        sys.exit(EXIT_CANCELLED)
    click.echo(f"{written.path}: written")
    for note in written.notes:
        click.echo(note)
    click.echo("next: pacsor check, then docker compose up -d or pacsor up")


def _dialogue(options: dict[str, Any]) -> Written | None:
    from pacsor_tasks.setup import files
    from pacsor_tasks.setup.dialogue import Dialogue
    from pacsor_tasks.setup.options import with_options

    loaded = _loaded(options)
    begun = loaded or files.new()
    values = with_options(begun.values, options)
    if values != begun.values:
        loaded = replace(begun, values=values)
    dialogue = Dialogue(_screen(options), options["directory"], try_peer, _around())
    return dialogue.run(loaded)


def _batch(options: dict[str, Any]) -> Written:
    from pacsor_tasks.setup import batch, files
    from pacsor_tasks.setup.options import with_options
    from pacsor_tasks.setup.peers import peers, settings_for

    directory = options["directory"]
    loaded = _loaded(options) or files.new()
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    values = batch.with_proposals(with_options(loaded.values, options), _around())
    for note in batch.notes(loaded.values, values):
        click.echo(f"note: {note}", err=True)
    path = files.path_for(directory, values["CLIENT_NAME"])
    if path.exists() and loaded.path != path:
        raise ConfigError(f"{path} is there already: name it by --client alone to change it")
    if options["check"]:
        found = [(peer, *try_peer(settings_for(values, peer), peer)) for peer in peers(values)]
        for _, is_ok, text in found:
            click.echo(f"{'ok     ' if is_ok else 'PROBLEM'}  {text}")
        if not all(is_ok for _, is_ok, _ in found):
            click.echo("nothing was written", err=True)
            sys.exit(EXIT_BAD_PEER)
    return files.save(directory, loaded, values, is_linked=not options["no_link"])


def _loaded(options: dict[str, Any]) -> Loaded | None:
    """What to begin with: the file named, or the client's if it is there."""
    from pacsor_tasks.setup import files

    if options["from_file"] is not None:
        return files.read(options["from_file"])
    path = files.path_for(options["directory"], options["client"] or "")
    return files.read(path) if options["client"] and path.exists() else None


def _screen(options: dict[str, Any]) -> Screen:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if options["plain"] or not is_terminal or os.environ.get("TERM", "dumb") == "dumb":
        from pacsor_tasks.setup.plain import PlainScreen

        return PlainScreen(sys.stdin, sys.stdout)
    from pacsor_tasks.setup.terminal import TerminalScreen

    return TerminalScreen()


def _around() -> Surroundings:
    from pacsor_tasks.setup.questions import Surroundings

    return Surroundings(hostname=socket.gethostname())


def try_peer(values: Values, name: str) -> tuple[bool, str]:
    """Try one peer as `pacsor check` does.

    Raises:
        ConfigError: The settings are wrong.
    """
    from pacsor_tasks.cli.probes import all_probes, try_probe
    from pacsor_tasks.settings import load
    from pacsor_tasks.setup.values import spoken

    settings = load(values, dotenv=None)
    by_url = {webhook.url: its_name for its_name, webhook in settings.webhooks.items()}
    name = by_url.get(name, name)  # a plain callback
    probe = next((p for p in all_probes(settings) if p.name.split()[-1] == name), None)
    if probe is None:
        return False, f"{spoken(name)}: there is no way to try it"
    finding = try_probe(probe)
    return finding.is_ok, f"{finding.name:<16} {finding.text}"

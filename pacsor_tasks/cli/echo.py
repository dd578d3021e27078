"""`pacsor echo`: C-ECHO of the PACS destinations, or of any application entity."""

from __future__ import annotations

import sys
import time

import click

from pacsor_tasks.cli.common import load_settings, quiet_logs
from pacsor_tasks.cli.nodes import DEFAULT_CALLING_AET, describe, parse_node
from pacsor_tasks.destinations import pacs_of
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import ConfigError, PacsorError


@click.command()
@click.argument("destinations", nargs=-1, metavar="[DESTINATION | AET@HOST:PORT]…")
@click.option(
    "--calling-aet",
    default=DEFAULT_CALLING_AET,
    show_default=True,
    help="Our own AE title towards AET@HOST:PORT.",
)
def echo(destinations: tuple[str, ...], calling_aet: str) -> None:
    """Send a C-ECHO to each DESTINATION: a configured PACS by name, or any AET@HOST:PORT.

    Without one: to every configured PACS.
    """
    quiet_logs()
    answers = [_answers(pacs) for pacs in _chosen(destinations, calling_aet)]
    sys.exit(0 if all(answers) else 1)


def _chosen(destinations: tuple[str, ...], calling_aet: str) -> list[Pacs]:
    if destinations and all("@" in name for name in destinations):
        return [parse_node(name, calling_aet) for name in destinations]
    known = pacs_of(load_settings())
    if not destinations:
        if not known:
            raise ConfigError("DESTINATIONS: no PACS among them")
        return list(known.values())
    unknown = [name for name in destinations if "@" not in name and name not in known]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no such PACS destination (there is {', '.join(known)});"
            " write AET@host:port for any other"
        )
    return [known[n] if n in known else parse_node(n, calling_aet) for n in destinations]


def _answers(pacs: Pacs) -> bool:
    started = time.monotonic()
    try:
        scu.echo(pacs)
    except PacsorError as exc:
        click.echo(f"failed   {pacs.name:<12} {describe(pacs)}: {exc}")
        return False
    elapsed_ms = (time.monotonic() - started) * 1000
    click.echo(f"ok       {pacs.name:<12} {describe(pacs)} answered in {elapsed_ms:.0f} ms")
    return True

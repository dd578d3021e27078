"""`pacsor hl7`: what would be sent to a RIS, an example for its integrator, its configuration."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from pacsor_tasks.cli.common import load_settings, make_console, quiet_logs
from pacsor_tasks.errors import ConfigError

if TYPE_CHECKING:
    from pacsor_tasks.hl7_config import Hl7Config
    from pacsor_tasks.messages import Shown
    from pacsor_tasks.ports import Hl7Content
    from pacsor_tasks.settings import Settings

FORMATS = ("B64", "PLAIN", "HTML", "HTML_SPLIT")
destination_option = click.option(
    "--destination", default="hl7", show_default=True, help="Which RIS: hl7, hl7-2, …"
)

defaults_option = click.option(
    "--defaults", is_flag=True,
    help="The example as it is without any setting: none are read, so none have to be there.",
)  # fmt: skip


@click.group()
def hl7() -> None:
    """Look at messages to a RIS, try one, load their configuration."""
    quiet_logs()


@hl7.command()
@click.argument("study_uid", required=False)
@click.option("--example", is_flag=True, help="An invented study with a report, instead.")
@destination_option
@click.option(
    "--format", "form", type=click.Choice(FORMATS, case_sensitive=False),
    help="Of the example's report, instead of TECHCARE_REPORT_FORMAT.",
)  # fmt: skip
@defaults_option
@click.option("--raw", is_flag=True, help="Only the bytes, as they are sent.")
def preview(  # noqa: PLR0913, PLR0917 - one per option
    study_uid: str | None,
    example: bool,
    destination: str,
    form: str | None,
    defaults: bool,
    raw: bool,
) -> None:
    """Print the message that STUDY_UID would send or has sent, and what the RIS answered.

    It holds patient data, and so does what this prints.
    """
    if (study_uid is None) != example:
        raise click.UsageError("give a STUDY_UID, or --example")
    if defaults and not example:
        raise click.UsageError("--defaults is of the --example")
    if study_uid is None:
        found = _example(destination, form, _defaults(destination) if defaults else load_settings())
    else:
        found = _of_study(study_uid, destination)
    if raw:
        sys.stdout.buffer.write(found.message)
        sys.stdout.buffer.flush()
    else:
        _print(found)


@hl7.command("send-example")
@click.argument("address", metavar="HOST:PORT")
@destination_option
@click.option(
    "--format", "form", type=click.Choice(FORMATS, case_sensitive=False),
    help="Of its report, instead of TECHCARE_REPORT_FORMAT.",
)  # fmt: skip
@defaults_option
def send_example(address: str, destination: str, form: str | None, defaults: bool) -> None:
    """Send the example to an MLLP listener and print what it answers.

    It is marked as a test (MSH-11 T) and is of an invented patient. TLS and time-outs are those of
    the destination. Exit status 1 unless it is accepted.
    """
    from datetime import datetime

    from pacsor_tasks.hl7.ack import check
    from pacsor_tasks.hl7.example import example_message
    from pacsor_tasks.hl7.message import new_control_id
    from pacsor_tasks.hl7.mllp import exchange

    host, port = _address(address)
    settings = _defaults(destination) if defaults else load_settings()
    config, content = _configured(settings, destination, form, processing_id="T")
    ris, now = config.ris[destination], datetime.now().astimezone()
    control_id = new_control_id(now)
    message = example_message(content.options, control_id=control_id, at=now)
    answer = exchange(host, port, message, timeout_s=ris.timeout_s, tls=ris.tls)
    click.echo(f"{check(answer, control_id)} (message {control_id}, {len(message)} bytes)")


@hl7.command()
@click.argument("name", required=False)
@click.option("--unload", is_flag=True, help="Back to the settings as they were at start.")
def load(name: str | None, unload: bool) -> None:
    """Make the configuration NAME.json of HL7_CONF_DIR count now, in every process.

    Without NAME: print what counts.
    """
    config = _config()
    if unload:
        click.echo("unloaded" if config.unload() else "nothing was loaded")
    elif name is not None:
        loaded = config.load(name)
        click.echo(f"loaded {loaded.name}: {', '.join(sorted(loaded.values)) or 'no key'}")
    else:
        click.echo(json.dumps(config.shown(), indent=2))


def _config() -> Hl7Config:
    from pacsor_tasks.hl7_config import Hl7Config

    return Hl7Config(load_settings())


def _configured(
    settings: Settings, destination: str, form: str | None, **changed: Any
) -> tuple[Hl7Config, Hl7Content]:
    from dataclasses import replace

    from pacsor_tasks.hl7.report import ReportFormat
    from pacsor_tasks.hl7_config import Hl7Config

    config = Hl7Config(settings)
    if destination not in config.contents:
        raise ConfigError(f"{destination} is not among the destinations (DESTINATIONS)")
    content = config.contents[destination]
    options = replace(content.options, **changed)
    if form is not None:
        options = replace(options, report_format=ReportFormat(form.upper()))
    return config, replace(content, options=options)


def _defaults(destination: str) -> Settings:
    """Settings of which only what has no default is made up, and is in no message but MSH-5, -6."""
    from pacsor_tasks.settings import load
    from pacsor_tasks.settings_routing import number_suffix

    suffix = number_suffix(destination)
    given = {
        "API_URL": "https://example.org", "TOKEN": "none", "DESTINATIONS": destination,
        "DATA_DIR": "/nonexistent",  # nor what was loaded at run time
        "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
        f"RIS_HOST_IP{suffix}": "ris.example.org", f"RIS_HOST_PORT{suffix}": "2575",
    }  # fmt: skip
    return load(given, None)


def _example(destination: str, form: str | None, settings: Settings) -> Shown:
    from pacsor_tasks.messages import example

    _, content = _configured(settings, destination, form)
    return example(destination, content)


def _of_study(study_uid: str, destination: str) -> Shown:
    from pacsor_tasks import wiring
    from pacsor_tasks.messages import shown

    ports = wiring.build(load_settings())
    try:
        return shown(study_uid, destination, ports)
    finally:
        ports.ledger.close()


def _print(found: Shown) -> None:
    from rich.table import Table
    from rich.text import Text

    from pacsor_tasks.hl7.readable import read

    console = make_console()
    state = found.delivery.get("state")
    what = "made to be sent" if found.is_made else "as it would be now"
    console.print(Text(f"{found.destination}: {what}" + (f"; {state}" if state else "")))
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    for title, content in (("message", found.message), ("answer", found.answer)):
        if content is None:
            continue
        table = Table(
            box=None, pad_edge=False, title=title, title_justify="left", show_header=False
        )
        for style in ("bold", "dim", None):
            table.add_column(overflow="fold", style=style)
        for row in read(content):
            table.add_row(row.where, row.name, Text(row.text))
        console.print(table)
        console.print()
    if found.delivery.get("error"):
        console.print(Text(str(found.delivery["error"]), style="bold red"))
    raw = found.message.decode("utf-8", "replace").replace("\r", "\n")
    console.print("raw (a CR ends each line)", style="bold")
    console.print(Text(raw), soft_wrap=True, end="")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.UsageError(f"{text!r} is not HOST:PORT")
    return host, int(port)

"""`python -m simulators milvue|pacs|ris|tcr`: one simulator as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import click

from pacsor_tasks.errors import ConfigError, PacsorError

F = TypeVar("F", bound=Callable[..., Any])


class Simulator(Protocol):
    """What they have in common."""

    def start(self) -> Self:
        """Listen."""
        ...

    def stop(self) -> None:
        """Stop listening and clean up."""
        ...


def common(function: F) -> F:
    """The options every simulator has."""
    options = [
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on"),
        click.option("--port", default=0, help="Port to listen on; 0 for a free one"),
        click.option("--port-file", type=PATH, help="Gets the port number once it listens"),
        click.option("--journal", type=PATH, help="Gets every event as one JSON line, at once"),
        click.option("--switches", type=PATH, help="JSON switches; read again when it changes"),
        click.option(
            "--set", "settings", multiple=True, metavar="NAME=VALUE", help="An initial switch"
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


PATH = click.Path(path_type=Path, dir_okay=False)


@click.group()
def main() -> None:
    """The peers of a gateway, simulated: an AI service, a PACS, a RIS, TechCare Report."""


@main.command()
@common
@click.option("--token", multiple=True, help="Accepted API key; else SIMULATOR_TOKEN; else any")
@click.option("--storage-port", default=0, help="Port of the signed URLs; 0 for a free one")
@click.option("--running-times", default=1, show_default=True, help="Polls answered `running`")
def milvue(token: tuple[str, ...], storage_port: int, running_times: int, **options: Any) -> None:
    """The Milvue API v3. Switches and journal also under /_simulator/."""
    from simulators.milvue import MilvueSimulator

    def make() -> MilvueSimulator:
        initial = {"running_times": running_times} | parse_settings(options["settings"])
        return MilvueSimulator(
            # not click's envvar, which would split a key at its blanks
            token=token or os.environ.get("SIMULATOR_TOKEN") or None,
            host=options["host"],
            port=options["port"],
            storage_port=storage_port,
            journal_path=options["journal"],
            switches_file=options["switches"],
            **initial,
        )

    run(
        make,
        lambda server: {
            "url": server.url,
            "port": server.port,
            "storage_port": server.storage_port,
        },
        options["port_file"],
    )


@main.command()
@common
@click.option("--aet", default="PACS", show_default=True, help="AE title")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps what it receives")
def pacs(aet: str, folder: Path | None, **options: Any) -> None:
    """A storage SCP."""
    from simulators.pacs import PacsSimulator

    def make() -> PacsSimulator:
        return PacsSimulator(
            ae_title=aet,
            host=options["host"],
            port=options["port"],
            folder=folder,
            journal_path=options["journal"],
            switches_file=options["switches"],
            **parse_settings(options["settings"]),
        )

    run(
        make,
        lambda server: {"aet": aet, "host": server.host, "port": server.port},
        options["port_file"],
    )


@main.command()
@common
@click.option("--answer", default="AA", show_default=True, help="Acknowledgement, see RisSwitches")
@click.option("--web-port", type=int, help="Port of a page that shows what came; 0 for a free one")
def ris(answer: str, web_port: int | None, **options: Any) -> None:
    """An MLLP server."""
    from simulators.ris import RisSimulator

    def make() -> RisSimulator:
        return RisSimulator(
            host=options["host"],
            port=options["port"],
            journal_path=options["journal"],
            switches_file=options["switches"],
            web_port=web_port,
            **{"answer": answer} | parse_settings(options["settings"]),
        )

    def address(server: RisSimulator) -> dict[str, Any]:
        page = {"url": server.web.url} if server.web is not None else {}
        return {"host": server.host, "port": server.port, **page}

    run(make, address, options["port_file"])


@main.command()
@common
@click.option("--token", multiple=True, help="Accepted token; any if none")
@click.option("--pubsub-port", type=int, help="Port of Web PubSub; 0 for a free one; else none")
def tcr(token: tuple[str, ...], pubsub_port: int | None, **options: Any) -> None:
    """The TechCare Report API with its Web PubSub. Control also under /_simulator/."""
    from simulators.tcr import TcrSimulator

    def make() -> TcrSimulator:
        return TcrSimulator(
            token=token or None,
            host=options["host"],
            port=options["port"],
            pubsub_port=pubsub_port,
            journal_path=options["journal"],
            switches_file=options["switches"],
            **parse_settings(options["settings"]),
        )

    def address(server: TcrSimulator) -> dict[str, Any]:
        pubsub = server.pubsub.port if server.pubsub is not None else None
        return {"url": server.url, "port": server.port, "pubsub_port": pubsub}

    run(make, address, options["port_file"])


S = TypeVar("S", bound=Simulator)


def run(
    make: Callable[[], S], address: Callable[[S], dict[str, Any]], port_file: Path | None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        make: Builds the simulator.
        address: Where it listens, for the line on stdout.
        port_file: Written in one piece once it listens.
    """
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    try:
        server = make().start()
    except PacsorError as exc:
        raise click.ClickException(str(exc)) from exc
    try:
        where = address(server)
        click.echo(json.dumps(where))
        if port_file is not None:
            partial = port_file.with_name(f".{port_file.name}.{os.getpid()}")
            partial.write_text(f"{where['port']}\n")
            partial.replace(port_file)
        asked_to_stop.wait()
    finally:
        server.stop()


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as switches; their types turn the text into numbers and lists.

    Raises:
        ConfigError: A pair without an equals sign.
    """
    pairs = [setting.partition("=") for setting in settings]
    for name, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set {name}: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    main()

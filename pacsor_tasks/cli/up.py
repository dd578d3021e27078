"""`pacsor up`: the whole gateway under one supervisor."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from pacsor_tasks.cli.common import load_settings
from pacsor_tasks.cli.gateway import (
    heartbeats,
    held_data_dir,
    processes,
    reachable,
    require_free_ports,
)
from pacsor_tasks.cli.output import console_sink, json_sink
from pacsor_tasks.cli.probes import filter_file
from pacsor_tasks.cores import prove_packages
from pacsor_tasks.embedded_redis import EmbeddedRedis
from pacsor_tasks.observability import configure_logging
from pacsor_tasks.settings import Settings
from pacsor_tasks.supervisor import Supervisor


@click.command()
def up() -> None:
    """Run receiver, workers, beat, Flower and admin until SIGTERM or Ctrl-C.

    Without BROKER_URL an embedded Redis runs with them, in DATA_DIR. What dies is started again.
    """
    settings = load_settings()
    configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)
    # The processes would say it too, between the lines of all the others.
    filter_file(settings)
    prove_packages(settings)
    with held_data_dir(settings.DATA_DIR.absolute()), embedded_redis(settings) as redis:
        require_free_ports(settings)
        asyncio.run(_supervise(settings, redis))
    click.echo("pacsor is stopped")


@contextmanager
def embedded_redis(settings: Settings) -> Iterator[EmbeddedRedis | None]:
    """The broker to run when none is set; its URL is withdrawn at the end.

    Raises:
        ConfigError: There is no usable redis-server, or DATA_DIR cannot be written.
    """
    if settings.BROKER_URL:
        yield None
        return
    redis = EmbeddedRedis(settings.embedded_redis_dir)
    redis.prepare()
    try:
        yield redis
    finally:
        redis.withdraw()


def scratch_environment(settings: Settings) -> dict[str, str]:
    """Temporary files under DATA_DIR, emptied at every start, unless TMPDIR says otherwise.

    A worker that is ended leaves a directory behind each time, and /tmp may be memory.
    """
    if "TMPDIR" in os.environ:
        return {}
    scratch = settings.DATA_DIR.absolute() / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return {"TMPDIR": str(scratch)}


def preparation(settings: Settings, redis: EmbeddedRedis | None) -> Callable[[], None]:
    """What happens between the broker's start and that of all others."""

    def prepare() -> None:
        from pacsor_tasks.ledger import migrate

        (settings.DATA_DIR.absolute() / "flower").mkdir(exist_ok=True)
        shutil.rmtree(heartbeats(settings), ignore_errors=True)
        heartbeats(settings).mkdir()
        if redis is not None:
            redis.publish()
        migrate(settings.ledger_url)

    return prepare


def summary(settings: Settings) -> list[str]:
    """Where everything is, for a person."""
    admin = f"http://{reachable(settings.ADMIN_HOST)}:{settings.ADMIN_PORT}/"
    flower = f"http://{reachable(settings.FLOWER_HOST)}:{settings.FLOWER_PORT}/"
    return [
        "pacsor is up",
        f"  send studies to  {settings.RECEIVER_AET}@{settings.RECEIVER_HOST}:{settings.PORT}",
        f"  status page      {admin}",
        f"  Flower           {flower}",
        f"  data             {settings.DATA_DIR.absolute()}",
    ]


async def _supervise(settings: Settings, redis: EmbeddedRedis | None) -> None:
    specs = processes(settings, redis)
    stderr = sys.stderr.buffer
    sink = (
        json_sink(stderr)
        if settings.LOG_FORMAT == "json"
        else console_sink(stderr, [spec.name for spec in specs])
    )

    def tell() -> None:
        click.echo("\n".join(summary(settings)))

    supervisor = Supervisor(specs, sink, environ=os.environ | scratch_environment(settings))
    await supervisor.run(prepare=preparation(settings, redis), on_ready=tell)

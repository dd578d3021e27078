"""Builds what a process works with from the settings, once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import closing

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pacsor_tasks.breaker import LedgerBreaker
from pacsor_tasks.core_api import CoreClient, GivesFindings
from pacsor_tasks.cores import client_of, report_client, running_client_of
from pacsor_tasks.destinations import (
    folders_of,
    pacs_of,
    probes_of,
    rates_of,
    stow_of,
    webhooks_of,
)
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7 import mllp
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.limits import Limiter, SharedPause, SharedRate
from pacsor_tasks.models import PeerKind, PeerName
from pacsor_tasks.outcomes import RetryPolicy
from pacsor_tasks.ports import TECHCARE, Core, PollPolicy, Ports, ReportSource, Ris
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_routing import kind_in_use, selection
from pacsor_tasks.settings_types import CoreSettings
from pacsor_tasks.spool import Spool
from pacsor_tasks.tcr.client import TcrClient

#: A peer that takes longer to answer a probe counts as away, seconds.
PROBE_TIMEOUT_S = 3.0

_built: dict[int, Ports] = {}


def ports() -> Ports:
    """This process's ports, built at the first call; a forked child builds its own.

    Raises:
        ConfigError: A setting is missing or wrong.
    """
    pid = os.getpid()
    if pid not in _built:
        _built.clear()  # the parent's: its connections are not ours to use or close
        _built[pid] = build(load())
    return _built[pid]


def close() -> None:
    """Close this process's connections."""
    built = _built.pop(os.getpid(), None)
    if built is not None:
        for core in built.cores.values():
            core.client.close()
            if core.reports is not None:
                core.reports.close()
        built.mllp.close()
        built.ledger.close()


def build(settings: Settings) -> Ports:
    """Ports from settings. Opens no connection; the ledger is expected to be migrated.

    Raises:
        ConfigError: A file that the settings name is missing or wrong.
    """
    spool = Spool(settings.spool_dir)
    spool.prepare()
    client = redis_client(settings)
    ledger = Ledger(settings.ledger_url)
    hl7 = Hl7Config(settings)
    return Ports(
        spool=spool,
        ledger=ledger,
        cores={c.name: _core(c, settings, client) for c in settings.cores.values()},
        targets=[_target(c, settings) for c in settings.cores.values()],
        pacs=pacs_of(settings),
        ris=hl7.ris,
        stow=stow_of(settings),
        folders=folders_of(settings),
        webhooks=webhooks_of(settings),
        limits=_limits(settings, client),
        hl7=hl7.contents,
        poll=PollPolicy(
            interval_s=settings.POLL_INTERVAL,
            max_interval_s=settings.POLL_MAX_INTERVAL,
            timeout_s=settings.PREDICTION_TIMEOUT,
        ),
        retry=RetryPolicy(
            cap_s=settings.RETRY_MAX_DELAY, horizon_s=settings.DELIVERY_RETRY_HORIZON
        ),
        retention_s=settings.RETENTION_DAYS * 86400,
        ledger_retention_s=settings.LEDGER_RETENTION_DAYS * 86400,
        breaker=LedgerBreaker(ledger.peers),
        probes=_probes(settings, hl7.ris),
        aside=_aside,
        destination_slots=settings.DESTINATION_ASSOCIATIONS,
        queue_length=lambda queue: _queue_length(client, queue),
    )


def redis_client(settings: Settings) -> redis.Redis:
    """A client of the broker's Redis with short timeouts; connects when first used."""
    return redis.Redis.from_url(
        settings.broker_url,
        socket_timeout=2,
        socket_connect_timeout=2,
        socket_keepalive=True,
        # The default would try for seconds; once more is for a connection that was dropped idle.
        retry=Retry(NoBackoff(), 1),
        health_check_interval=10,
    )


def _limits(settings: Settings, client: redis.Redis) -> dict[str, Limiter]:
    """By destination; of those without a rate of ours the ones that may ask for a pause (429)."""
    asking: list[str] = [*settings.stow, *settings.webhooks]
    pauses = {name: SharedPause(client, f"deliver:{name}") for name in asking}
    rates = rates_of(settings).items()
    return {**pauses, **{n: SharedRate(client, f"deliver:{n}", rate) for n, rate in rates}}


def _probes(
    settings: Settings, destinations: Mapping[str, Ris]
) -> Mapping[PeerName, Callable[[], None]]:
    """C-ECHO, MLLP connect, API status, … of each peer, with short time limits."""

    def connect(ris: Ris) -> Callable[[], None]:
        return lambda: mllp.connect_check(ris.host, ris.port, PROBE_TIMEOUT_S, ris.tls)

    def ask(make: Callable[[], CoreClient]) -> Callable[[], None]:
        def check() -> None:
            with closing(make()) as client:
                client.check()

        return check

    def core_probe(core: CoreSettings) -> Callable[[], None]:
        return ask(lambda: client_of(core, settings, at_most_s=PROBE_TIMEOUT_S))

    def report_probe(core: CoreSettings) -> Callable[[], None]:
        token = core.token.get_secret_value()
        return ask(lambda: report_client(token, settings, at_most_s=PROBE_TIMEOUT_S))

    to, cores = PeerKind.DESTINATION, settings.cores.values()
    readers = [c for c in cores if c.type == "milvue" and settings.TCR_API_URL]
    return {
        **{PeerName(to, name): look for name, look in probes_of(settings, PROBE_TIMEOUT_S).items()},
        **{PeerName(to, name): connect(ris) for name, ris in destinations.items()},
        **{PeerName(PeerKind.CORE, c.name): core_probe(c) for c in cores},
        **({TECHCARE: report_probe(readers[0])} if readers else {}),
    }


def _aside(do: Callable[[], None]) -> None:
    threading.Thread(target=do, daemon=True, name="probe").start()


def _core(core: CoreSettings, settings: Settings, broker: redis.Redis) -> Core:
    client = running_client_of(core, settings)
    return Core(
        name=core.name,
        address=core.api_url or f"CORE_TYPE {core.type}",
        client=client,
        findings=client if isinstance(client, GivesFindings) else None,
        reports=_reports(core, client, settings),
        is_reporting=core.type == "tcr",
        commands=core.inference_commands,
        filters=core.filters,
        no_duplicate_upload=core.no_duplicate_upload,
        output=_output(settings),
        upload_limit=_upload_limit(core, broker),
        slots=core.concurrency,
    )


def _reports(core: CoreSettings, client: CoreClient, settings: Settings) -> ReportSource | None:
    if isinstance(client, TcrClient):
        return client
    if settings.TCR_API_URL is None or core.type != "milvue":
        return None  # the token of another's API is none of TechCare Report's
    return report_client(core.token.get_secret_value(), settings)


def _upload_limit(core: CoreSettings, client: redis.Redis) -> Limiter:
    if not core.upload_rate:
        return SharedPause(client, f"upload:{core.name}")
    return SharedRate(client, f"upload:{core.name}", core.upload_rate)


def _output(settings: Settings) -> dict[str, str]:
    named = {
        "output_format": settings.OUTPUT_FORMAT,
        "language": settings.OUTPUT_LANGUAGE,
        "output_selection": settings.OUTPUT_SELECTION,
        "timezone": settings.OUTPUT_TIMEZONE,
        "recap_theme": settings.RECAP_THEME,
        "structured_report_format": settings.STRUCTURED_REPORT_FORMAT,
        "static_report_format": settings.STATIC_REPORT_FORMAT,
    }
    return {name: value for name, value in named.items() if value}


def _target(core: CoreSettings, settings: Settings) -> Target:
    return Target(
        core=core.name,
        destinations=[(name, kind_in_use(name)) for name in core.destinations],
        selections={name: selection(settings, name) for name in core.destinations},
    )


def _queue_length(client: redis.Redis, queue: str) -> int:
    try:
        return int(client.llen(queue))
    except redis.RedisError as exc:
        raise PeerUnavailable(f"broker: {type(exc).__name__}") from exc

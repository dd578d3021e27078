"""Builds what a process works with from the settings, once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pacsor_tasks.breaker import LedgerBreaker
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.hl7 import mllp
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.limits import Limiter, SharedRate, Unlimited
from pacsor_tasks.milvue.client import MilvueClient
from pacsor_tasks.models import PeerKind, PeerName
from pacsor_tasks.outcomes import RetryPolicy
from pacsor_tasks.ports import Core, PollPolicy, Ports, Ris
from pacsor_tasks.settings import Settings, kind_of, load
from pacsor_tasks.settings_types import CoreSettings
from pacsor_tasks.spool import Spool

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
        targets=[_target(c) for c in settings.cores.values()],
        pacs=_pacs(settings),
        ris=hl7.ris,
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


def _pacs(settings: Settings) -> dict[str, Pacs]:
    return {
        s.name: Pacs(
            name=s.name,
            host=s.host,
            port=s.port,
            called_aet=s.called_aet,
            calling_aet=s.calling_aet,
            connect_timeout_s=settings.PACS_CONNECT_TIMEOUT,
            timeout_s=settings.PACS_TIMEOUT,
        )
        for s in settings.storescu.values()
    }


def _probes(
    settings: Settings, destinations: Mapping[str, Ris]
) -> Mapping[PeerName, Callable[[], None]]:
    """C-ECHO, MLLP connect or API status of each peer, with short time limits."""

    def echo(pacs: Pacs) -> Callable[[], None]:
        quick = replace(pacs, connect_timeout_s=PROBE_TIMEOUT_S, timeout_s=PROBE_TIMEOUT_S)
        return lambda: scu.echo(quick)

    def connect(ris: Ris) -> Callable[[], None]:
        return lambda: mllp.connect_check(ris.host, ris.port, PROBE_TIMEOUT_S, ris.tls)

    def ask(core: CoreSettings) -> Callable[[], None]:
        def check() -> None:
            with MilvueClient(
                core.api_url,
                core.token.get_secret_value(),
                signed_url=core.signed_url,
                connect_timeout_s=PROBE_TIMEOUT_S,
                read_timeout_s=PROBE_TIMEOUT_S,
            ) as client:
                client.check()

        return check

    to = PeerKind.DESTINATION
    return {
        **{PeerName(to, name): echo(pacs) for name, pacs in _pacs(settings).items()},
        **{PeerName(to, name): connect(ris) for name, ris in destinations.items()},
        **{PeerName(PeerKind.CORE, c.name): ask(c) for c in settings.cores.values()},
    }


def _aside(do: Callable[[], None]) -> None:
    threading.Thread(target=do, daemon=True, name="probe").start()


def _core(core: CoreSettings, settings: Settings, client: redis.Redis) -> Core:
    return Core(
        name=core.name,
        address=core.api_url,
        client=MilvueClient(
            core.api_url,
            core.token.get_secret_value(),
            signed_url=core.signed_url,
            connect_timeout_s=settings.API_CONNECT_TIMEOUT,
            read_timeout_s=settings.API_READ_TIMEOUT,
            parallel=settings.UPLOAD_PARALLEL,
        ),
        commands=core.inference_commands,
        filters=core.filters,
        no_duplicate_upload=core.no_duplicate_upload,
        output=_output(settings),
        upload_limit=_upload_limit(core.name, settings, client),
    )


def _upload_limit(core: str, settings: Settings, client: redis.Redis) -> Limiter:
    if not settings.UPLOAD_RATE:
        return Unlimited()
    return SharedRate(client, f"upload:{core}", settings.UPLOAD_RATE)


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


def _target(core: CoreSettings) -> Target:
    kinds = ((name, kind_of(name)) for name in core.destinations)
    return Target(core=core.name, destinations=[(n, k) for n, k in kinds if k is not None])


def _queue_length(client: redis.Redis, queue: str) -> int:
    try:
        return int(client.llen(queue))
    except redis.RedisError as exc:
        raise PeerUnavailable(f"broker: {type(exc).__name__}") from exc

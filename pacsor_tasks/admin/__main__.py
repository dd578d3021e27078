"""`python -m pacsor_tasks.admin`: the real dependencies, and the server around them."""

from __future__ import annotations

import sys
from functools import partial

import redis
import structlog

from pacsor_tasks import operations, refusals, relaunching, wiring
from pacsor_tasks.admin import config_view, probes, server
from pacsor_tasks.admin.app import create_app
from pacsor_tasks.admin.deps import AdminDeps, Flower
from pacsor_tasks.admin.health import Health, Probe
from pacsor_tasks.app import app as celery
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.ledger import migrate
from pacsor_tasks.listening import listening_file
from pacsor_tasks.observability import configure_logging
from pacsor_tasks.ports import Ports
from pacsor_tasks.receiving import Receiving
from pacsor_tasks.settings import Settings, load_with_warnings
from pacsor_tasks.settings_types import is_loopback

log = structlog.get_logger(__name__)

#: Exit status when the settings are refused; another try would end the same way.
REFUSED = 2
SHORT_TOKEN = 16


def main() -> int:
    """Run the admin server; the exit status."""
    try:
        settings, warnings = load_with_warnings()
        configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)
        for warning in warnings:
            log.warning("settings.warning", warning=warning)
        migrate(settings.ledger_url)
        ports = wiring.build(settings)
        deps = _deps(settings, ports)
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201 - for the person who starts it
        return REFUSED
    try:
        listener = server.listen(settings.ADMIN_HOST, settings.ADMIN_PORT)
    except OSError as exc:
        address = f"{settings.ADMIN_HOST}:{settings.ADMIN_PORT}"
        print(f"ADMIN_PORT: cannot listen on {address}: {exc.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    if deps.token is not None and len(deps.token) < SHORT_TOKEN:
        log.warning("admin.short_token", shortest_advised=SHORT_TOKEN)
    server.serve(create_app(deps), listener)
    ports.ledger.close()
    return 0


def _deps(settings: Settings, ports: Ports) -> AdminDeps:
    token = settings.ADMIN_TOKEN
    return AdminDeps(
        ports=ports,
        studies=ports.ledger.studies,
        receiving=Receiving(
            ports.spool,
            quiet_s=settings.STUDY_QUIET_SECONDS,
            max_wait_s=settings.STUDY_MAX_WAIT_SECONDS,
        ),
        relaunch=lambda uid, wish, core: relaunching.relaunch(uid, ports, wish, core),
        complete=lambda study_uid: operations.complete(study_uid, ports.spool),
        health=_health(settings, ports),
        config=config_view.masked(settings),
        hl7_config=Hl7Config(settings),
        token=token.get_secret_value() if token is not None else None,
        allow_get_relaunch=settings.ADMIN_ALLOW_GET_RELAUNCH,
        flower=Flower(port=settings.FLOWER_PORT, is_loopback=is_loopback(settings.FLOWER_HOST)),
        refused=partial(refusals.read, ports.spool.root),
        receiver=f"{settings.RECEIVER_AET}, port {settings.PORT}",
    )


def _health(settings: Settings, ports: Ports) -> Health:
    client = wiring.redis_client(settings)
    host, port = settings.RECEIVER_HOST, settings.PORT
    checks = {
        "ledger": Probe(partial(probes.ledger, ports.ledger.ping), ttl_s=1),
        "redis": Probe(partial(probes.broker, client), ttl_s=1),
        "disk": Probe(partial(probes.disk, settings.spool_dir), ttl_s=1),
        "workers": Probe(partial(probes.workers, partial(_ping, client)), ttl_s=5, stale_s=10),
        "receiver": Probe(partial(probes.receiver, host, port), ttl_s=5),
    }
    if settings.WEBPS_ENABLE:
        listening = listening_file(settings.DATA_DIR)
        checks["webps"] = Probe(partial(probes.webps, listening), ttl_s=1)
    return Health(checks)


def _ping(client: redis.Redis, timeout_s: float) -> list[object]:
    client.ping()  # fails at once where Celery would try again and again
    return list(celery.control.ping(timeout=timeout_s) or ())


if __name__ == "__main__":
    sys.exit(main())

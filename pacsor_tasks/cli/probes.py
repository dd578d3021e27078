"""What `pacsor check` tries: one function per peer, a sentence when it is well, else an error."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import redis

from pacsor_tasks.cli.gateway import PROBE_TIMEOUT_S, bind_problem, is_running, reachable
from pacsor_tasks.cli.nodes import describe, own_receiver
from pacsor_tasks.core_plugins import BUILT_IN
from pacsor_tasks.dicom import scu
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.disk import usage_of
from pacsor_tasks.embedded_redis import OLDEST, find_binary
from pacsor_tasks.errors import ConfigError, PacsorError, PeerUnavailable, Rejected
from pacsor_tasks.native import native
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_types import CoreSettings, RisSettings
from pacsor_tasks.tls import Tls
from pacsor_tasks.words import counted

#: A certificate takes a site a while to renew.
MIN_CERTIFICATE_DAYS = 14
#: To connect to an API, and between the blocks of its answer.
API_S = 10.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to prove."""

    name: str
    #: returns what was found; raises PacsorError when it is not well
    run: Callable[[], str]
    #: what to do when it is not
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a probe."""

    name: str
    is_ok: bool
    text: str


def all_probes(settings: Settings) -> Iterator[Probe]:
    """Everything this gateway depends on, in the order in which to put it right."""
    yield Probe("filter.cfg", lambda: filter_file(settings))
    if settings.RECEIVER_ALLOW is not None:
        yield Probe("RECEIVER_ALLOW", lambda: allow_file(settings))
    if settings.RECEIVER_TLS_CERT is not None:
        yield Probe("RECEIVER_TLS", lambda: certificate(settings))
    yield Probe("DATA_DIR", lambda: _data_dir(settings.DATA_DIR.absolute(), settings))
    yield Probe("broker", lambda: _broker(settings), "is Redis running, and BROKER_URL right?")
    yield Probe("ledger", lambda: _ledger(settings), "see LEDGER_URL")
    for core in settings.cores.values():
        yield _api(core, settings)
    if settings.TCR_API_URL is not None and settings.CORE_TYPE == "milvue":
        yield _reports(settings)
    yield from _destinations(settings)
    for ris in settings.ris.values():
        yield _ris(ris, settings.RIS_TIMEOUT)
    yield Probe("PORT", lambda: _receiver_port(settings))
    yield Probe("receiver", compiled_part)
    yield Probe("ADMIN_PORT", lambda: _http_port(settings, "ADMIN", "/healthz"))
    yield Probe("FLOWER_PORT", lambda: _http_port(settings, "FLOWER", "/healthcheck"))


def try_probe(probe: Probe) -> Finding:
    """Run one probe; its advice goes with its complaint."""
    try:
        return Finding(probe.name, True, probe.run())
    except PacsorError as exc:
        advice = f" → {probe.advice}" if probe.advice else ""
        return Finding(probe.name, False, f"{exc}{advice}")


def filter_file(settings: Settings) -> str:
    """What the receiver will accept.

    Raises:
        ConfigError: FILTER_CFG cannot be used; names the line.
    """
    from receiver import profiles

    contexts = profiles.load(settings.FILTER_CFG, settings.CONFIG_PROFILE)
    return f"profile {settings.CONFIG_PROFILE} accepts {len(contexts)} SOP classes"


def allow_file(settings: Settings) -> str:
    """Who may send.

    Raises:
        ConfigError: RECEIVER_ALLOW cannot be used; names the line.
    """
    from receiver import allow_list

    assert settings.RECEIVER_ALLOW is not None  # noqa: S101 - for mypy: asked before
    rules = allow_list.load(settings.RECEIVER_ALLOW)
    return f"{settings.RECEIVER_ALLOW}: {counted(len(rules), 'rule')}"


def certificate(settings: Settings) -> str:
    """What the receiver shows to senders.

    Raises:
        ConfigError: A file of RECEIVER_TLS_… cannot be used, or the certificate has expired.
    """
    from receiver import access, tls

    access.tls_context(settings)
    assert settings.RECEIVER_TLS_CERT is not None  # noqa: S101 - for mypy: asked before
    until = tls.valid_until(settings.RECEIVER_TLS_CERT)
    n_days = (until - datetime.now(UTC)).days
    if n_days < MIN_CERTIFICATE_DAYS:
        raise ConfigError(
            f"{settings.RECEIVER_TLS_CERT} is valid until {until:%Y-%m-%d %H:%M} UTC only"
        )
    asked = ", client certificates required" if settings.RECEIVER_TLS_CA else ""
    return f"certificate valid for {counted(n_days, 'day')}{asked}"


def _data_dir(data_dir: Path, settings: Settings) -> str:
    existing = next(p for p in (data_dir, *data_dir.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as exc:
        raise ConfigError(f"cannot write in {existing}: {exc.strerror}") from exc
    if settings.disk_watermarks.low.is_passed(usage_of(existing)):
        raise ConfigError(
            f"only {free / 1e9:.1f} GB free in {existing}: the receiver stops at"
            f" DISK_HIGH_WATERMARK={settings.DISK_HIGH_WATERMARK}"
        )
    note = "" if existing == data_dir else " (will be made)"
    return f"{data_dir}{note}, {free / 1e9:.0f} GB free"


def _broker(settings: Settings) -> str:
    if settings.BROKER_URL:
        return _redis(settings.BROKER_URL)
    if not is_running(settings.DATA_DIR.absolute()):
        binary = find_binary()
        version = ".".join(map(str, binary.version))
        return f"embedded, not running now: {binary.path} {version}"
    return f"embedded, {_redis(settings.broker_url)}"


def _redis(url: str) -> str:
    try:
        with redis.Redis.from_url(
            url,
            socket_timeout=CONNECT_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            decode_responses=True,
        ) as client:
            version = str(client.info("server")["redis_version"])
            policy = _setting(client, "maxmemory-policy")
            is_durable = _setting(client, "appendonly") in {"yes", None}
    except (redis.RedisError, OSError) as exc:
        raise PeerUnavailable(f"Redis does not answer: {exc}") from exc
    except ValueError as exc:
        raise ConfigError(f"BROKER_URL: not a Redis URL: {exc}") from exc
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise ConfigError(f"Redis {version} is too old: 6.2 or newer is needed")
    if policy not in {"noeviction", None}:
        raise ConfigError(
            f"Redis may drop queued messages: maxmemory-policy is {policy}, set noeviction"
        )
    durable = "" if is_durable else "; appendonly is off: a restart empties the queue (no study)"
    return f"Redis {version} answers{durable}"


def _setting(client: redis.Redis, name: str) -> str | None:
    try:
        found = client.config_get(name)
    except redis.ResponseError:  # not allowed on a managed Redis
        return None
    return str(found[name]) if name in found else None


def _ledger(settings: Settings) -> str:
    from pacsor_tasks.ledger import Ledger

    path = settings.DATA_DIR.absolute() / "ledger.sqlite3"
    if settings.LEDGER_URL is None and not path.exists():
        return f"{path} (will be made)"
    ledger = Ledger(settings.ledger_url)
    try:
        ledger.ping()
        return f"{ledger.engine.dialect.name} answers"
    finally:
        ledger.close()


def _api(core: CoreSettings, settings: Settings) -> Probe:
    def run() -> str:
        from pacsor_tasks.cores import client_of

        with closing(client_of(core, settings, at_most_s=API_S)) as client:
            client.check()
        return f"{core.api_url or core.type} answers and takes the token"

    number = core.name.removeprefix("core")
    suffix = f"_{number}" if number else ""
    names = ("TCR_API_URL", "PROVIDER_TOKEN") if core.type == "tcr" else ("API_URL", "TOKEN")
    advice = f"see {names[0]}{suffix} ({core.api_url}) and {names[1]}{suffix}"
    if core.type not in BUILT_IN:
        advice = f"see CORE_TYPE{suffix}={core.type} and the settings of that type"
    return Probe(f"API {core.name}", run, advice)


def _reports(settings: Settings) -> Probe:
    def run() -> str:
        from pacsor_tasks.cores import report_client

        token = settings.TOKEN.get_secret_value()
        with closing(report_client(token, settings, at_most_s=API_S)) as client:
            client.check()
        return f"{settings.TCR_API_URL} answers and takes the token"

    return Probe("reports", run, f"see TCR_API_URL ({settings.TCR_API_URL}) and TOKEN")


def _destinations(settings: Settings) -> Iterator[Probe]:
    """Those that are no RIS."""
    from pacsor_tasks import destinations

    try:
        for pacs in destinations.pacs_of(settings).values():
            yield _pacs(pacs)
        asks = destinations.probes_of(settings, API_S)
    except ConfigError as exc:
        said = exc  # the name is gone when the block is left
        yield Probe("destinations", lambda: _raise(said))
        return
    where = {
        **{name: (f"DICOMweb {name}", found.url) for name, found in settings.stow.items()},
        **{name: (name, str(found.path)) for name, found in settings.folders.items()},
        **{name: (name, found.url.partition("?")[0]) for name, found in settings.webhooks.items()},
    }
    for name, (title, address) in where.items():
        yield _asked(title, address, asks[name])


def _asked(title: str, address: str, ask: Callable[[], None]) -> Probe:
    def run() -> str:
        ask()
        return f"{address} answers"

    return Probe(title, run, f"see {address}")


def _raise(error: PacsorError) -> str:
    raise error


def _pacs(pacs: Pacs) -> Probe:
    def run() -> str:
        scu.echo(pacs)
        return f"{describe(pacs)} answers C-ECHO"

    _, _, number = pacs.name.partition("-")
    suffix = f"_{number}" if number else ""
    advice = (
        f"see PACS_IP{suffix}, PACS_PORT{suffix}, PACS_AET{suffix}; does the PACS know"
        f" {pacs.calling_aet} at this address?"
    )
    return Probe(f"PACS {pacs.name}", run, advice)


def _ris(ris: RisSettings, timeout_s: float) -> Probe:
    def run() -> str:
        from pacsor_tasks.hl7.mllp import connect_check

        tls = Tls(**ris.tls.model_dump()) if ris.tls is not None else None
        connect_check(ris.host, ris.port, min(timeout_s, CONNECT_TIMEOUT_S), tls)
        return f"{ris.host}:{ris.port} takes connections"

    _, _, number = ris.name.partition("-")
    suffix = f"_{number}" if number else ""
    return Probe(f"RIS {ris.name}", run, f"see RIS_HOST_IP{suffix} and RIS_HOST_PORT{suffix}")


def _receiver_port(settings: Settings) -> str:
    address = f"{settings.RECEIVER_HOST}:{settings.PORT}"
    problem = bind_problem(settings.RECEIVER_HOST, settings.PORT)
    if problem is None:
        return f"{address} is free for the receiver"
    ours = replace(
        own_receiver(settings, settings.MILVUE_AET),
        connect_timeout_s=PROBE_TIMEOUT_S,
        timeout_s=PROBE_TIMEOUT_S,
    )
    try:
        scu.echo(ours)
    except Rejected:
        # An allow list need not name us.
        return f"{address}: the receiver answers, and does not let {settings.MILVUE_AET} in"
    except PacsorError as exc:
        raise ConfigError(f"cannot listen on {address}: {problem}, and not by a receiver") from exc
    return f"{address}: the receiver answers C-ECHO"


def compiled_part() -> str:
    """Whether the receiver's inner loops are compiled. Not to be is no fault: it is only slower."""
    if native is not None:
        return "its inner loops are compiled"
    return "its inner loops are not compiled: it does the same with more CPU (docs/receiver.md)"


def _http_port(settings: Settings, name: str, path: str) -> str:
    host, port = getattr(settings, f"{name}_HOST"), getattr(settings, f"{name}_PORT")
    problem = bind_problem(host, port)
    if problem is None:
        return f"{host}:{port} is free"
    connection = http.client.HTTPConnection(reachable(host), port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        body = connection.getresponse().read(65536)
    except (OSError, http.client.HTTPException):
        body = b""
    finally:
        connection.close()
    if not _is_ours(name, body):
        raise ConfigError(f"cannot listen on {host}:{port}: {problem}, and not by this gateway")
    return f"{host}:{port}: it answers"


def _is_ours(name: str, body: bytes) -> bool:
    if name == "FLOWER":
        return body.strip() == b"OK"
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "checks" in found

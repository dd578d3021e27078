"""The processes of one gateway on one machine, and what they need before they start."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pacsor_tasks import healthcheck
from pacsor_tasks.child_process import ProcessSpec
from pacsor_tasks.embedded_redis import EmbeddedRedis, answers
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings

WORKER_QUEUES = "ingest,transfer"
WORKER_FLAGS = ("--without-mingle", "--without-gossip")
PROBE_TIMEOUT_S = 2.0
#: A gateway that was killed a moment ago leaves its ports for a blink.
PORT_PATIENCE_S = 3.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - mapped away from


@contextmanager
def held_data_dir(data_dir: Path) -> Iterator[None]:
    """Make DATA_DIR and keep every other gateway out of it.

    Raises:
        ConfigError: It cannot be written, or another gateway runs there.
    """
    path = data_dir / "gateway.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise ConfigError(f"DATA_DIR: cannot write to {data_dir}: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise ConfigError(
                f"DATA_DIR: another gateway (process {pid}) runs in {data_dir}"
            ) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_running(data_dir: Path) -> bool:
    """Whether a gateway holds this DATA_DIR."""
    try:
        descriptor = os.open(data_dir / "gateway.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def require_free_ports(settings: Settings) -> None:
    """Refuse to start beside somebody else.

    Raises:
        ConfigError: Names the setting of each port that is taken or not allowed.
    """
    wanted = {
        "PORT": (settings.RECEIVER_HOST, settings.PORT),
        "ADMIN_PORT": (settings.ADMIN_HOST, settings.ADMIN_PORT),
        "FLOWER_PORT": (settings.FLOWER_HOST, settings.FLOWER_PORT),
    }
    deadline = time.monotonic() + PORT_PATIENCE_S
    while True:
        problems = {name: bind_problem(*address) for name, address in wanted.items()}
        problems = {name: problem for name, problem in problems.items() if problem}
        if not problems:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    raise ConfigError(
        "\n".join(
            f"{name}: cannot listen on {wanted[name][0]}:{wanted[name][1]}: {problem}"
            for name, problem in problems.items()
        )
    )


def processes(settings: Settings, redis: EmbeddedRedis | None) -> list[ProcessSpec]:
    """Everything that `pacsor up` runs.

    Args:
        settings: The gateway's.
        redis: The broker when it is ours to run; prepared.
    """
    broker_url = redis.url if redis is not None else settings.broker_url
    stop_soon = {"REMAP_SIGTERM": "SIGQUIT"}  # within worker_soft_shutdown_timeout
    celery = _Celery(heartbeats(settings), broker_url)
    return [
        *([_redis(redis)] if redis is not None else []),
        ProcessSpec(
            name="receiver",
            command=_python("receiver"),
            is_ready=lambda: _is_healthy(
                healthcheck.dicom_tls if settings.RECEIVER_TLS_CERT else healthcheck.dicom,
                f"{reachable(settings.RECEIVER_HOST)}:{settings.PORT}",
            ),
        ),
        celery.spec("worker", "worker", "-Q", WORKER_QUEUES, *WORKER_FLAGS, env=stop_soon),
        # Long uploads must not hold back what is ready for the PACS, nor a slow PACS the uploads.
        celery.spec(
            "deliverer",
            "worker",
            "-Q",
            "deliver",
            "-c",
            str(settings.DELIVERY_CONCURRENCY),
            *WORKER_FLAGS,
            env=stop_soon,
        ),
        celery.spec("control", "worker", "-Q", "control", "-c", "1", *WORKER_FLAGS, env=stop_soon),
        celery.spec("beat", "beat", "--pidfile="),
        *([_webps(heartbeats(settings) / "webps")] if settings.WEBPS_ENABLE else []),
        ProcessSpec(
            name="flower",
            command=_celery_command("flower"),
            env=flower_environment(settings),
            is_ready=lambda: _is_healthy(
                healthcheck.http,
                f"http://{reachable(settings.FLOWER_HOST)}:{settings.FLOWER_PORT}/healthcheck",
            ),
        ),
        ProcessSpec(
            name="admin",
            command=_python("pacsor_tasks.admin"),
            # whatever the status: the pages that say what is down are up
            is_ready=lambda: _is_healthy(
                healthcheck.http,
                f"http://{reachable(settings.ADMIN_HOST)}:{settings.ADMIN_PORT}/healthz",
            ),
        ),
    ]


def heartbeats(settings: Settings) -> Path:
    """Where workers and beat leave their signs of life."""
    return settings.DATA_DIR.absolute() / "heartbeats"


def flower_environment(settings: Settings) -> dict[str, str]:
    """Flower's options as variables: its password must not stand in the process list."""
    state = settings.DATA_DIR.absolute() / "flower"
    options = {
        "FLOWER_ADDRESS": settings.FLOWER_HOST,
        "FLOWER_PORT": str(settings.FLOWER_PORT),
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(state / "state"),
        "FLOWER_STATE_SAVE_INTERVAL": "10000",
        "FLOWER_MAX_TASKS": "10000",
    }
    if settings.FLOWER_BASIC_AUTH is not None:
        options["FLOWER_BASIC_AUTH"] = settings.FLOWER_BASIC_AUTH.get_secret_value()
    return options


def reachable(host: str) -> str:
    """An address to connect to for one that is listened on."""
    return WILDCARDS.get(host, host)


def _redis(redis: EmbeddedRedis) -> ProcessSpec:
    return ProcessSpec(
        name="redis",
        command=redis.command,
        cwd=redis.directory,
        is_ready=redis.is_ready,
        is_foundation=True,
    )


def _webps(heartbeat: Path) -> ProcessSpec:
    return ProcessSpec(
        name="webps",
        command=_python("pacsor_tasks.webps"),
        env={"HEARTBEAT_FILE": str(heartbeat)},
        is_ready=heartbeat.exists,
        is_alive=lambda: _is_healthy(healthcheck.heartbeat, str(heartbeat)),
    )


@dataclass(frozen=True, slots=True)
class _Celery:
    """How processes of Celery are started and seen to live: by a file that they touch."""

    heartbeats: Path
    broker_url: str

    def spec(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> ProcessSpec:
        node = ("-n", f"{name}@%h") if arguments[0] == "worker" else ()
        file = self.heartbeats / name
        return ProcessSpec(
            name=name,
            command=_celery_command(*arguments, *node),
            env={**(env or {}), "HEARTBEAT_FILE": str(file)},
            is_ready=file.exists,
            # While the broker is away none of them can beat, and a restart would not help.
            is_alive=lambda: (
                _is_healthy(healthcheck.heartbeat, str(file)) or not answers(self.broker_url)
            ),
        )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: a file of the working directory must not stand in for a module of the gateway.
    return (sys.executable, "-P", "-u", "-m", module, *arguments)


def _celery_command(*arguments: str) -> tuple[str, ...]:
    return _python("celery", "-q", "-A", "pacsor_tasks", *arguments)


def _is_healthy(check: Callable[[str], None], target: str) -> bool:
    try:
        check(target)
    except healthcheck.Unhealthy:
        return False
    return True


def bind_problem(host: str, port: int) -> str | None:
    """Why one cannot listen there; None when one can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.strerror or str(exc)
    return None

"""The receiver as a whole: SCP processes on one port, and beside them the sweeper.

The parent holds the port, restarts a process that dies, and closes studies. It never touches an
association, so a crash in the reading of a peer's bytes costs that process's associations only.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from pacsor_tasks.child_process import ProcessSpec
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.native import native
from pacsor_tasks.settings import Settings
from pacsor_tasks.spool import Spool
from pacsor_tasks.supervisor import Backoff, Supervisor, python_module
from receiver import access, profiles
from receiver.announcer import Announcer, Enqueue
from receiver.closing import Closer
from receiver.stabilisation import Sweeper

log = structlog.get_logger(__name__)

#: Seconds that a receiver which was just killed may take to leave the port.
PORT_WAIT_S = 3.0
STOP_TIMEOUT_S = 10.0
SWEEPER_STOP_S = 3.0
BACKOFF = Backoff(first=0.5, longest=10.0, healthy_after=30.0)


def run(settings: Settings, port: int, port_file: Path | None, enqueue: Enqueue) -> None:
    """Receive and close studies until SIGTERM.

    Args:
        settings: The gateway's.
        port: Where to listen; 0: any free port.
        port_file: Gets the port's number when associations are accepted.
        enqueue: `pipeline.enqueue_ingest`.

    Raises:
        ConfigError: The profile is unknown, the filter file or the allow list malformed, a
            certificate unusable, the spool cannot be made, or the port is taken.
    """
    profiles.load(settings.FILTER_CFG, settings.CONFIG_PROFILE)
    access.check(settings)
    spool = Spool(settings.spool_dir)
    try:
        spool.prepare()
    except OSError as exc:
        raise ConfigError(f"DATA_DIR: {spool.root} cannot be made: {exc.strerror}") from exc
    with (
        _reserved(settings.RECEIVER_HOST, port) as bound_port,
        _sweeping(settings, spool, enqueue),
        tempfile.TemporaryDirectory(prefix="pacsor-receiver-") as directory,
    ):
        supervisor = Supervisor(
            _specs(settings.RECEIVER_PROCESSES, bound_port, Path(directory)),
            _pass_on,
            backoff=BACKOFF,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

        def on_ready() -> None:
            log.info(
                "receiver.listening",
                host=settings.RECEIVER_HOST,
                port=bound_port,
                profile=settings.CONFIG_PROFILE,
                n_processes=settings.RECEIVER_PROCESSES,
                is_compiled=native is not None,
            )
            if port_file is not None:
                port_file.write_text(f"{bound_port}\n")

        asyncio.run(supervisor.run(on_ready=on_ready))
    log.info("receiver.stopped")


def _specs(n_processes: int, port: int, directory: Path) -> list[ProcessSpec]:
    specs = []
    for number in range(1, n_processes + 1):
        ready = directory / str(number)
        command = python_module("receiver", "--port", str(port), "--ready-file", str(ready))
        specs.append(ProcessSpec(name=f"scp-{number}", command=command, is_ready=ready.exists))
    return specs


def _pass_on(_: str, line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()


@contextmanager
def _sweeping(settings: Settings, spool: Spool, enqueue: Enqueue) -> Iterator[None]:
    stop = threading.Event()
    announcer = Announcer(spool, enqueue)
    sweeper = Sweeper(
        Closer(spool, settings.DUPLICATE_POLICY),
        quiet_s=settings.STUDY_QUIET_SECONDS,
        max_wait_s=settings.STUDY_MAX_WAIT_SECONDS,
        on_closed=lambda _: announcer.wake(),
    )
    sweeping = threading.Thread(target=sweeper.run, args=(stop,), name="sweeper", daemon=True)
    # A broker that hangs must not hold up the end: what is not announced stays in the outbox.
    announcing = threading.Thread(target=announcer.run, args=(stop,), name="announcer", daemon=True)
    sweeping.start()
    announcing.start()
    try:
        yield
    finally:
        stop.set()
        announcer.wake()
        # A study that takes longer to close is gone on with at the next start.
        sweeping.join(SWEEPER_STOP_S)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[int]:
    """Hold the port for the SCP processes, which listen on it together.

    Raises:
        ConfigError: Somebody else listens there, or there is no such address.
    """
    deadline, is_told = time.monotonic() + PORT_WAIT_S, False
    while True:
        try:
            _bind(host, port, shared=False).close()
            held = _bind(host, port, shared=True)
            break
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ConfigError(f"PORT: cannot listen on {host}:{port}: {exc.strerror}") from exc
        if not is_told:
            log.warning("receiver.port_in_use", port=port, waiting_s=PORT_WAIT_S)
            is_told = True
        time.sleep(0.5)
    with held:
        yield int(held.getsockname()[1])


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A shared port would let a second receiver silently take half of the studies: so the
        # first, unshared bind finds out whether anybody listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock

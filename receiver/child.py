"""One SCP process: serves the port it shares with its siblings until it is told to stop."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from pacsor_tasks.disk import DiskGuard
from pacsor_tasks.settings import Settings
from pacsor_tasks.spool import Spool
from receiver import access, profiles
from receiver.durability import Durability
from receiver.incoming import Incoming
from receiver.processes import alive
from receiver.scp import Scp, ScpOptions, quiet_library

log = structlog.get_logger(__name__)

#: Seconds that associations may take to finish after a stop.
GRACE_S = 8.0
TEND_S = 1.0


def run(settings: Settings, port: int, ready_file: Path) -> int:
    """Receive until SIGTERM.

    Args:
        settings: The gateway's.
        port: Where to listen.
        ready_file: Made when associations are accepted.

    Returns:
        The exit status.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    quiet_library()
    spool = Spool(settings.spool_dir)
    with alive(spool) as process:
        guard = DiskGuard(spool.root, settings.disk_watermarks)
        gate = access.gate(settings, process, guard)
        durability = Durability(settings.DURABILITY).on(spool.root / "tmp")
        incoming = Incoming(process, settings.DUPLICATE_POLICY, guard.is_full, durability)
        commitments = access.commitments(settings, process)
        scp = Scp(_options(settings, port), incoming, gate, commitments)
        # What was loaded stays: without it, each look at the garbage costs milliseconds.
        gc.collect()
        gc.freeze()
        scp.start()
        ready_file.touch()
        while not stop.wait(TEND_S):
            scp.tend()
        n_aborted = scp.stop(GRACE_S)
        gate.tend()
        log.info("receiver.process_stopped", n_aborted=n_aborted)
    _end()
    return 0


def _options(settings: Settings, port: int) -> ScpOptions:
    return ScpOptions(
        host=settings.RECEIVER_HOST,
        port=port,
        ae_title=settings.RECEIVER_AET,
        contexts=profiles.load(settings.FILTER_CFG, settings.CONFIG_PROFILE),
        max_pdu_bytes=settings.RECEIVER_MAX_PDU,
        idle_timeout_s=settings.RECEIVER_IDLE_TIMEOUT,
        tls=access.tls_context(settings),
        is_release_complete=settings.STABLE_ON_RELEASE,
    )


def _end() -> None:
    """Leave, also when a thread of pynetdicom still waits for a peer that says nothing."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)

"""One probe per dependency: cheap, with its own time limit, saying in words what is wrong."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import kombu.exceptions
import redis

from pacsor_tasks.admin.health import Check
from pacsor_tasks.disk import is_marked_full
from pacsor_tasks.words import counted

QUEUES = ("ingest", "transfer", "deliver", "control")
#: Below so much free space the spool counts as down: less than one large study.
RESERVE_BYTES = 512 * 1024 * 1024
CONNECT_TIMEOUT_S = 1.0
#: The subscriber may take so long to be back after its connection broke, seconds.
NOT_HEARD_S = 30.0
#: How long workers get to answer a ping; all that answer are counted.
PING_TIMEOUT_S = 0.7


def ledger(ping: Callable[[], None]) -> Check:
    """Whether the database answers.

    Raises:
        PeerUnavailable: It does not.
    """
    ping()
    return Check(ok=True, detail="answers")


def broker(client: redis.Redis) -> Check:
    """Whether Redis answers, and how long each queue is."""
    try:
        with client.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(queue)
            lengths = dict(zip(QUEUES, pipeline.execute(), strict=True))
    except redis.RedisError as exc:
        return Check(ok=False, detail=f"{type(exc).__name__}: the queue is away")
    except OSError as exc:
        return Check(ok=False, detail=f"{exc.strerror or type(exc).__name__}: the queue is away")
    waiting = sum(lengths.values())
    return Check(ok=True, detail=f"{counted(waiting, 'message')} queued", values=lengths)


def disk(spool: Path, reserve_bytes: int = RESERVE_BYTES) -> Check:
    """Whether the spool can be written to, and how much room it has."""
    try:
        usage = shutil.disk_usage(spool)
    except OSError as exc:
        return Check(ok=False, detail=f"the spool cannot be read: {exc.strerror}")
    values = {"free_bytes": usage.free, "total_bytes": usage.total}
    if not os.access(spool, os.W_OK):
        return Check(ok=False, detail="the spool cannot be written to", values=values)
    free = f"{human_bytes(usage.free)} free of {human_bytes(usage.total)}"
    if is_marked_full(spool):
        return Check(ok=False, detail=f"too full to receive: {free}", values=values)
    return Check(ok=usage.free >= reserve_bytes, detail=free, values=values)


def workers(ping: Callable[[float], Sequence[object]]) -> Check:
    """How many workers answer.

    Args:
        ping: Asks all workers, waits so many seconds, returns the answers.
    """
    try:
        n = len(ping(PING_TIMEOUT_S))
    except (kombu.exceptions.OperationalError, redis.RedisError, OSError):
        return Check(ok=False, detail="cannot be asked: the queue is away", values={"count": 0})
    detail = f"{counted(n, 'worker')} answering" if n else "no worker answers"
    return Check(ok=n > 0, detail=detail, values={"count": n})


def receiver(host: str, port: int) -> Check:
    """Whether something listens where the receiver should."""
    address = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - mapped away from
    try:
        with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S):
            return Check(ok=True, detail=f"listening on port {port}")
    except OSError as exc:
        reason = exc.strerror or str(exc) or type(exc).__name__
        return Check(ok=False, detail=f"port {port}: {reason}")


def webps(listening: Path) -> Check:
    """Whether the subscriber of other providers' reports is connected and in every group.

    Args:
        listening: What it touches while it is: `listening`.
    """
    try:
        age_s = max(0.0, time.time() - listening.stat().st_mtime)
    except FileNotFoundError:
        return Check(ok=False, detail="has never listened: see the log of webps")
    except OSError as exc:
        return Check(ok=False, detail=f"cannot be seen: {exc.strerror}")
    if age_s <= NOT_HEARD_S:
        return Check(ok=True, detail="listening to the providers")
    return Check(ok=False, detail=f"not listening for {age_s:.0f} s: see the log of webps")


def human_bytes(n: float) -> str:
    """Bytes as a person writes them: `512 MB`, `1.4 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if n >= 10 or unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.0f} TB" if n >= 10 else f"{n:.1f} TB"

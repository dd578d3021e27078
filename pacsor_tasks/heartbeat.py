"""A file that is touched while a worker or beat does its work: what a health check looks at.

Asking a worker over the broker (`celery inspect ping`) costs over a second of CPU each time.
"""

from __future__ import annotations

from pathlib import Path

from celery.signals import after_task_publish, heartbeat_sent


def of_worker(file: Path | None) -> None:
    """Touch the file with each of the worker's heartbeats: every 2 s while its loop turns.

    It does not turn while the broker is away, nor when the process hangs.

    Args:
        file: HEARTBEAT_FILE; None: nothing is touched.
    """
    if file is not None:
        heartbeat_sent.connect(_Toucher(file), weak=False)


def of_beat(file: Path | None) -> None:
    """Touch the file with each task that the broker took: every second, the sweep's interval.

    Args:
        file: HEARTBEAT_FILE; None: nothing is touched.
    """
    if file is not None:
        after_task_publish.connect(_Toucher(file), weak=False)


class _Toucher:
    """Receives a signal and touches a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, **_: object) -> None:
        self._file.touch()

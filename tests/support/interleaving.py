"""Something happens in the middle of our code: at its n-th line, it dies or somebody else acts."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pacsor_tasks.spool
import receiver

#: Whose lines count.
OURS = (str(Path(receiver.__file__).parent), pacsor_tasks.spool.__file__)
#: What the other one may take, unless it waits for a lock that the first one holds. Seconds.
PATIENCE_S = 0.05


class Died(BaseException):
    """The process ended here, as far as the code can tell: nothing after this line is done."""


def dies(at_line: int, action: Callable[[], object]) -> bool:
    """Run an action that dies at its n-th line; False when it was done before that.

    What it has open is closed and its locks are let go of, as the kernel would.
    """
    before = _open_locks()

    def die() -> None:
        raise Died

    try:
        with _at_line(at_line, die):
            action()
    except Died:
        has_died = True
    else:
        has_died = False
    # Died at the very line that lets go of a lock, or closes its file: nobody else would.
    for fd in _open_locks():
        if fd in before:
            fcntl.flock(fd, fcntl.LOCK_UN)
        else:
            os.close(fd)
    return has_died


def interleaved(at_line: int, action: Callable[[], object], other: Callable[[], object]) -> None:
    """Run an action, and when it is at its n-th line, the other one in a thread of its own.

    The other one runs to its end, or to where it waits for the first. If the action has fewer
    lines, it runs afterwards.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            other()
        except BaseException as exc:  # noqa: BLE001 - raised again below
            failed.append(exc)

    thread = threading.Thread(target=run)

    def start() -> None:
        thread.start()
        thread.join(PATIENCE_S)

    with _at_line(at_line, start):
        action()
    if thread.ident is None:
        thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _open_locks() -> set[int]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if entry.readlink().parent.name == "locks":
                found.add(int(entry.name))
    return found


@contextmanager
def _at_line(n: int, then: Callable[[], None]) -> Iterator[None]:
    count = 0

    def in_ours(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == n:
                then()
        return in_ours

    def called(frame: FrameType, event: str, arg: Any) -> Any:
        return in_ours if frame.f_code.co_filename.startswith(OURS) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(before)

"""The receiver's processes by fork, so that a start costs hundredths of a second, not two.

    python -m tests.support.forked_receiver PORT N_PROCESSES

For each directory named on its input it starts, in a process group of its own, a parent that
sweeps and SCP processes that serve the port and touch 1, 2, … in the directory; it prints the
group. What runs in them is what `python -m receiver` runs; only the interpreter is there already.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from pacsor_tasks.observability import configure_logging
from pacsor_tasks.settings import Settings, load_with_warnings
from pacsor_tasks.spool import Spool
from receiver import child
from receiver.closing import Closer
from receiver.stabilisation import Sweeper

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Fork until the input ends."""
    port, n_processes = map(int, sys.argv[1:])
    settings, _ = load_with_warnings()
    configure_logging(settings.PACSOR_LOG_LEVEL, settings.LOG_FORMAT)
    Spool(settings.spool_dir).prepare()
    # The kernel reaps them, also those whose parent is gone: init may take seconds to.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        group = os.fork()
        if not group:
            os.setsid()
            _serve(settings, port, n_processes, Path(line.strip()))
        sys.stdout.write(f"{group}\n")
        sys.stdout.flush()


def _serve(settings: Settings, port: int, n_processes: int, ready: Path) -> None:
    try:
        for number in range(1, n_processes + 1):
            if not os.fork():
                child.run(settings, port, ready / str(number))
        Sweeper(
            Closer(Spool(settings.spool_dir), settings.DUPLICATE_POLICY),
            quiet_s=settings.STUDY_QUIET_SECONDS,
            max_wait_s=settings.STUDY_MAX_WAIT_SECONDS,
            on_closed=lambda _: None,
        ).run(threading.Event())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()

"""Programs that are started again when they end, and can be killed, frozen and held down."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from pacsor_tasks import die_with_parent
from tests.support.net import wait_until

#: As a container engine: the pause before what ended is started again, seconds.
RESTART_S = 0.5
LOOK_S = 0.1


class Program:
    """One program with its children, in a process group of its own.

    Args:
        name: For the log file and the report.
        command: Program and arguments.
        environment: All of it.
        log: Gets what it writes.
        is_ready: Whether it does its work; None: as soon as it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        log: Path,
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.environment = dict(environment)
        self.log = log
        self.is_ready = is_ready
        #: how often it ended although nobody killed it
        self.own_ends = 0
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._was_killed = False
        self._ended_at = 0.0
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """Of its first process, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it and keep it running."""
        with self._lock:
            self._is_wanted = True
            self._spawn()

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Return when it does its work."""
        if self.is_ready is not None:
            try:
                wait_until(self.is_ready, timeout_s, LOOK_S)
            except AssertionError as exc:
                raise AssertionError(f"{self.name} is not ready:\n{self.tail()}") from exc

    def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        with self._lock:
            self._was_killed = True
            self._signal_all(signal.SIGKILL)
            if self._process is not None:
                self._process.wait()

    def kill_first(self) -> None:
        """SIGKILL to its first process only."""
        with self._lock:
            self._was_killed = True
            if (pid := self.pid) is not None:
                os.kill(pid, signal.SIGKILL)

    def hold_down(self) -> None:
        """Kill it, and leave it dead until `start`."""
        with self._lock:
            self._is_wanted = False
            self.kill()

    def freeze(self) -> list[psutil.Process]:
        """SIGSTOP all of its processes; those, for `thaw`."""
        frozen = self.processes()
        _signal(frozen, signal.SIGSTOP)
        return frozen

    def children(self) -> list[psutil.Process]:
        """Its processes but the first."""
        return self.processes()[1:]

    def processes(self) -> list[psutil.Process]:
        """Every process of it that runs now, the first one first."""
        pid = self.pid
        if pid is None:
            return []
        try:
            first = psutil.Process(pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def look(self) -> None:
        """Start it again if it ended."""
        with self._lock:
            if not self._is_wanted or self.pid is not None:
                return
            now = time.monotonic()
            if not self._ended_at:
                self._ended_at = now
                self.own_ends += not self._was_killed
            elif now - self._ended_at >= RESTART_S:
                # What a first process leaves behind when it alone is killed has to go before.
                self._signal_all(signal.SIGKILL)
                self._spawn()

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _spawn(self) -> None:
        self._was_killed, self._ended_at = False, 0.0
        self.starts += 1
        # Should the harness itself be killed, nothing of it goes on.
        leash = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, *self.command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def _signal_all(self, number: int) -> None:
        if self._process is None:
            return
        # Children may have groups of their own.
        _signal(self.processes(), number)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def thaw(frozen: Sequence[psutil.Process]) -> None:
    """SIGCONT to what `freeze` froze."""
    _signal(frozen, signal.SIGCONT)


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Keeper:
    """The restart policy: looks after programs until it is stopped. Its thread starts them all."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, program: Program) -> Program:
        """Look after it from now on."""
        self.programs.append(program)
        return program

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every program, the last one added first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for program in reversed(self.programs):
            thaw(program.processes())
            program.hold_down()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            for program in self.programs:
                program.look()

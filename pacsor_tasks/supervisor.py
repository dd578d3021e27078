"""Keeps the processes of a gateway running, and ends them all.

What dies, or gives no sign of life for too long, is started again with a growing pause. On a
stop everything but the foundation (the broker) is asked to stop at once, ended after
`stop_timeout_s`, then the foundation. If the supervisor itself is killed, the kernel ends what it
started (`die_with_parent`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from pacsor_tasks.child_process import ChildProcess, ProcessSpec, Sink
from pacsor_tasks.errors import ConfigError

log = structlog.get_logger(__name__)

#: Exit status of a program whose settings are wrong: starting it again would not help.
EXIT_CONFIG = 2
FOUNDATION_STOP_S = 3.0
FOUNDATION_START_S = 60.0
PROBE_INTERVAL_S = 0.2
PROVEN_AFTER_S = 20.0
SLOW_START_S = 30.0
#: Two interrupts closer together are one: a terminal and a wrapper may both pass Ctrl-C on.
IMPATIENT_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses before a restart, seconds: doubling from `first` to `longest`.

    A process that ran for `healthy_after` begins at `first` again.
    """

    first: float = 1.0
    longest: float = 30.0
    healthy_after: float = 60.0

    def next(self, last: float | None, ran_for: float) -> float:
        """The pause after a run of `ran_for` seconds that itself began after a pause of `last`."""
        if last is None or ran_for >= self.healthy_after:
            return self.first
        return min(self.longest, last * 2)


class Supervisor:
    """Runs a set of programs until it is stopped.

    Args:
        specs: The programs.
        sink: Gets every line they write.
        environ: Their environment; None means the process's own.
        backoff: Pauses before restarts.
        stop_timeout_s: Seconds a program may take to stop before it is killed.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        sink: Sink,
        *,
        environ: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        stop_timeout_s: float = 10.0,
    ) -> None:
        base = dict(os.environ if environ is None else environ)
        self._children = [ChildProcess(spec, base | dict(spec.env), sink) for spec in specs]
        self._backoff = backoff or Backoff()
        self._stop_timeout_s = stop_timeout_s
        self._stopping = asyncio.Event()
        self._impatient = asyncio.Event()
        self._interrupted_at: float | None = None
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._refused: str | None = None
        #: names of what has worked once: a status 2 after that is an end like any other
        self._proven: set[str] = set()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of what runs now, by name."""
        return {child.spec.name: child.pid for child in self._children if child.pid is not None}

    async def run(
        self,
        *,
        prepare: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Start everything, keep it running, return when stopped and all is ended.

        Args:
            prepare: Called in a thread when the foundation answers, before the rest starts.
            on_ready: Called once, when everything answers.

        Raises:
            ConfigError: A program refused its settings while starting, or the foundation never
                answered; everything is ended by then.
        """
        self._install_signals()
        try:
            await self._start_foundation()
            if prepare is not None and not self._stopping.is_set():
                await asyncio.to_thread(prepare)
            rest = [c for c in self._children if not c.spec.is_foundation]
            self._launch(rest)
            await self._until_ready(rest)
            if on_ready is not None and not self._stopping.is_set():
                on_ready()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            await self._end_all()
        if self._refused is not None:
            raise ConfigError(self._refused)

    def stop(self) -> None:
        """Ask for an orderly stop."""
        self._stopping.set()

    def interrupt(self) -> None:
        """What Ctrl-C does: an orderly stop; some time later once more, an end to everything."""
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
        elif now - self._interrupted_at >= IMPATIENT_AFTER_S:
            self._impatient.set()
        self._stopping.set()

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        # nohup(1) has SIGHUP ignored: leave it so
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self.stop)

    async def _start_foundation(self) -> None:
        foundation = [c for c in self._children if c.spec.is_foundation]
        self._launch(foundation)
        try:
            await asyncio.wait_for(self._until_ready(foundation), FOUNDATION_START_S)
        except TimeoutError:
            names = ", ".join(child.spec.name for child in foundation)
            raise ConfigError(f"{names}: no answer within {FOUNDATION_START_S:.0f} s") from None

    def _launch(self, children: Sequence[ChildProcess]) -> None:
        if self._stopping.is_set():
            return
        for child in children:
            name = child.spec.name
            keeper = asyncio.create_task(self._keep(child), name=f"keep {name}")
            # a keeper only ends on a stop; should one fail, its processes must not go on unwatched
            keeper.add_done_callback(lambda _: self._stopping.set())
            self._keepers[name] = keeper

    async def _keep(self, child: ChildProcess) -> None:
        pause: float | None = None
        while not self._stopping.is_set():
            started = time.monotonic()
            status = await self._run_once(child)
            if self._stopping.is_set():
                return
            ran_for = time.monotonic() - started
            if ran_for >= PROVEN_AFTER_S:
                self._proven.add(child.spec.name)
            if status == EXIT_CONFIG and child.spec.name not in self._proven:
                self._refuse(child.spec.name)
                return
            pause = self._backoff.next(pause, ran_for)
            log.warning(
                "process.ended",
                process=child.spec.name,
                exit_status=describe(status),
                restart_in_s=pause,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_once(self, child: ChildProcess) -> int:
        try:
            await child.start()
        except OSError as exc:
            log.error("process.not_started", process=child.spec.name, reason=exc.strerror)  # noqa: TRY400 - the reason is the whole story
            return -1
        log.info("process.started", process=child.spec.name, process_pid=child.pid)
        if self._stopping.is_set():
            child.terminate()
        watching = asyncio.create_task(self._watch(child), name=f"watch {child.spec.name}")
        try:
            return await child.wait()
        finally:
            watching.cancel()

    async def _watch(self, child: ChildProcess) -> None:
        """Kill it when it gives no sign of life for too long."""
        spec = child.spec
        seen_at = time.monotonic()
        while spec.is_alive is not None:
            await asyncio.sleep(spec.hung_after_s / 10)
            if await asyncio.to_thread(spec.is_alive):
                seen_at = time.monotonic()
            elif time.monotonic() - seen_at >= spec.hung_after_s:
                log.error("process.hung", process=spec.name, silent_for_s=spec.hung_after_s)
                child.kill()
                return

    def _refuse(self, name: str) -> None:
        self._refused = f"{name}: refused its settings (exit status 2), see its message above"
        self._stopping.set()

    async def _until_ready(self, children: Sequence[ChildProcess]) -> None:
        waiting = {c.spec.name: c.spec.is_ready for c in children if c.spec.is_ready is not None}
        warn_at = time.monotonic() + SLOW_START_S
        while waiting and not self._stopping.is_set():
            for name, is_ready in list(waiting.items()):
                if await asyncio.to_thread(is_ready):
                    del waiting[name]
                    self._proven.add(name)
                    log.info("process.ready", process=name)
            if time.monotonic() > warn_at:
                log.warning("process.slow_start", waiting_for=sorted(waiting))
                warn_at += SLOW_START_S
            if waiting:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), PROBE_INTERVAL_S)

    async def _end_all(self) -> None:
        rest = [c for c in self._children if not c.spec.is_foundation]
        foundation = [c for c in self._children if c.spec.is_foundation]
        await self._end(rest, self._stop_timeout_s)
        await self._end(foundation, FOUNDATION_STOP_S)

    async def _end(self, children: Sequence[ChildProcess], timeout_s: float) -> None:
        keepers = [self._keepers[n] for c in children if (n := c.spec.name) in self._keepers]
        if not keepers:
            return
        for child in children:
            child.terminate()
        impatience = asyncio.create_task(self._impatient.wait())
        ended = asyncio.ensure_future(asyncio.wait(keepers))
        either: set[asyncio.Future[Any]] = {ended, impatience}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        impatience.cancel()
        for child in children:
            if child.pid is not None:
                log.warning("process.killed", process=child.spec.name)
                child.kill()
        await ended
        for keeper in keepers:
            keeper.result()


def describe(status: int) -> str:
    """An exit status in words: `status 1`, `SIGKILL`."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """The command of a module in this very Python, found without PATH."""
    return (sys.executable, "-m", module, *arguments)

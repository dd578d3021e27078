"""One supervised program: in a session of its own, its lines passed on, ended as a group."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

Sink = Callable[[str, bytes], None]
#: Longer lines are passed on in parts, so that a child without line ends cannot fill the memory.
MAX_LINE_BYTES = 65536
DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to run and how to see that it works."""

    name: str
    command: tuple[str, ...]
    #: added to the supervisor's environment
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    #: blocking, a few seconds at most, run in a thread; None: ready when started
    is_ready: Callable[[], bool] | None = None
    #: asked while it runs, as `is_ready`; None: it is taken for alive until it ends
    is_alive: Callable[[], bool] | None = None
    #: after so many seconds without a sign of life it is killed, and so started again
    hung_after_s: float = 60.0
    #: started before and stopped after all others (the broker)
    is_foundation: bool = False


class ChildProcess:
    """A program that can be started again and again.

    Invariant: started from the main thread only, since the kernel ends the child when the *thread*
    that started it ends.

    Args:
        spec: What to run.
        environ: The whole environment, `spec.env` included.
        sink: Called with the name and every line of output, without its line end.
    """

    def __init__(self, spec: ProcessSpec, environ: Mapping[str, str], sink: Sink) -> None:
        self.spec = spec
        self._environ = dict(environ)
        self._sink = sink
        self._process: asyncio.subprocess.Process | None = None
        self._output: int | None = None
        self._partial = b""

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Start it.

        Raises:
            OSError: The machine cannot start another process.
        """
        reading, writing = os.pipe()
        guard = (sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *guard,
                *self.spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=self._environ,
                cwd=self.spec.cwd,
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._output = reading
        asyncio.get_running_loop().add_reader(reading, self._read)

    async def wait(self) -> int:
        """Wait for its end, then end what it left behind in its group.

        Returns:
            Its exit status; negative: the signal that ended it.
        """
        assert self._process is not None  # noqa: S101 - only called after start()
        status = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        self._close_output()
        return status

    def terminate(self) -> None:
        """Ask the program itself to stop; it looks after its own children."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started."""
        if self.pid is not None:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _read(self) -> None:
        if self._output is None:
            return
        try:
            data = os.read(self._output, MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close_output(drain=False)
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) >= MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._sink(self.spec.name, line.rstrip(b"\r"))

    def _close_output(self, *, drain: bool = True) -> None:
        if self._output is None:
            return
        descriptor, self._output = self._output, None
        asyncio.get_running_loop().remove_reader(descriptor)
        if drain:
            with suppress(OSError):
                while data := os.read(descriptor, MAX_LINE_BYTES):
                    self._feed(data)
        os.close(descriptor)
        if self._partial:
            self._feed(b"\n")

"""The system calls of a running process, in order, by strace."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.net import wait_until
from tests.support.peers import require_program

CALLS = (
    "write,writev,pwrite64,pwritev,sendto,sendmsg,fdatasync,fsync,syncfs,link,linkat,rename,"
    "renameat,renameat2"
)
#: Bytes of each buffer and path that are shown.
SHOWN_BYTES = 400
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_WHOLE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_RESULT = re.compile(r"\) += (-?\d+)")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that came to its end."""

    name: str
    #: arguments and result as strace writes them: files with their paths
    text: str
    #: places in the order of everything; a call that others came between has two
    began: int
    ended: int

    @property
    def has_succeeded(self) -> bool:
        """Whether the kernel did it."""
        result = _RESULT.search(self.text)
        return result is not None and int(result.group(1)) >= 0


@dataclass
class Trace:
    """What a process did; whole when the block of `traced` has ended."""

    calls: list[Call] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """Take strace's output."""
        begun: dict[str, tuple[str, str, int]] = {}
        for at, line in enumerate(path.read_text(errors="replace").splitlines()):
            if found := _UNFINISHED.match(line):
                begun[found.group(1)] = found.group(2), found.group(3), at
            elif found := _RESUMED.match(line):
                name, text, began = begun.pop(found.group(1), (found.group(2), "", at))
                self.calls.append(Call(name, text + found.group(3), began, at))
            elif found := _WHOLE.match(line):
                self.calls.append(Call(found.group(2), found.group(3), at, at))

    def of(self, names: str, *parts: str) -> list[Call]:
        """The successful calls of these names whose text has all the parts, in order."""
        wanted = names.split()
        return [
            call
            for call in self.calls
            if call.name in wanted
            and call.has_succeeded
            and all(part in call.text for part in parts)
        ]


@contextmanager
def traced(pid: int, output: Path) -> Iterator[Trace]:
    """Trace a process with all its threads until the block ends."""
    told, trace = output.with_suffix(".told"), Trace()
    with told.open("w") as said:
        command = [require_program("strace"), "-f", "-y", "-s", SHOWN_BYTES, "-e", f"trace={CALLS}"]
        strace = subprocess.Popen(
            list(map(str, [*command, "-o", output, "-p", pid])), stdout=said, stderr=said
        )
    try:
        wait_until(lambda: strace.poll() is not None or "attached" in told.read_text())
        assert strace.poll() is None, told.read_text()
        yield trace
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait(20)
    trace.read(output)

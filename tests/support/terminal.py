"""A terminal of its own for a program, driven and looked at by tmux."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.net import wait_until
from tests.support.peers import require_program


class Terminal:
    """What is typed, and what is on the screen."""

    def __init__(self, program: Path, socket: str) -> None:
        self._command = [str(program), "-L", socket, "-f", "/dev/null"]

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout

    def text(self) -> str:
        """Everything that was ever on the screen, the lines that were scrolled out included."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-", "-t", "t")

    def visible(self) -> str:
        """What is on the screen now."""
        return self.tmux("capture-pane", "-p", "-t", "t")

    def wait_for(self, *texts: str, timeout_s: float = 40) -> str:
        """Wait until the last lines of the screen say all of it; what they say."""

        def seen() -> str:
            lines = self.visible().rstrip()
            return lines if all(text in lines for text in texts) else ""

        try:
            return wait_until(seen, timeout_s)
        except AssertionError:
            raise AssertionError(f"{texts} not on the screen:\n{self.visible()}") from None

    def type(self, text: str) -> None:
        """Type text as it is."""
        self.tmux("send-keys", "-l", "-t", "t", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Escape, Down, C-c."""
        self.tmux("send-keys", "-t", "t", *keys)

    def answer(self, prompt: str, text: str = "", *, erasing: int = 0) -> None:
        """Wait for a prompt on the last line, type and press Enter."""
        wait_until(lambda: prompt in self.visible().rstrip().rpartition("\n? ")[2], 40)
        if erasing:
            self.press(*["BSpace"] * erasing)
        if text:
            self.type(text)
        self.press("Enter")


@contextmanager
def terminal(
    command: Sequence[str | Path], directory: Path, environment: Mapping[str, str], rows: int = 30
) -> Iterator[Terminal]:
    """Run a command in an 80-column terminal; the terminal outlives it."""
    socket = f"pacsor-test-{uuid.uuid4().hex[:12]}"
    opened = Terminal(require_program("tmux"), socket)
    variables = [f"{name}={value}" for name, value in environment.items()]
    line = shlex.join(["env", *variables, *map(str, command)])
    opened.tmux("new-session", "-d", "-s", "t", "-x", "80", "-y", str(rows), "-c", str(directory),
                f"{line}; echo \"exit status $?\"; exec cat")  # fmt: skip
    try:
        yield opened
    finally:
        opened.tmux("kill-server")

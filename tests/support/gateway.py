"""A whole gateway as its user starts it: `pacsor up` in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.support.net import free_port, wait_until

PACSOR = Path(sys.executable).parent / "pacsor"
FILTER_CFG = Path(__file__).parents[2] / "conf" / "filter.cfg"
TERMINAL = {"done", "filtered", "failed", "cancelled"}


class Gateway:
    """`pacsor up` with an embedded Redis.

    Args:
        directory: For DATA_DIR and the log.
        environment: Settings; ports and directories are added.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.port = free_port()
        self.admin_port = free_port()
        self.log = directory / "gateway.log"
        inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}}
        self.environment = {
            **inherited,
            "DATA_DIR": str(directory / "data"),
            "FILTER_CFG": str(FILTER_CFG),
            "PORT": str(self.port),
            "ADMIN_PORT": str(self.admin_port),
            "FLOWER_PORT": str(free_port()),
            "RECEIVER_HOST": "127.0.0.1",
            "RECEIVER_PROCESSES": "1",
            "WORKER_CONCURRENCY": "2",
            "STUDY_QUIET_SECONDS": "1",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the admin pages."""
        return f"http://127.0.0.1:{self.admin_port}"

    def start(self, timeout_s: float = 60) -> None:
        """Start and wait until every dependency is healthy."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PACSOR, "up"],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._is_healthy, timeout_s, 0.2)

    def stop(self, timeout_s: float = 20) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process = None

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command with the gateway's settings, from its directory."""
        program = [PACSOR if command[0] == "pacsor" else command[0], *command[1:]]
        if command[0] == "celery":
            program = [sys.executable, "-m", *command]
        return subprocess.run(
            program,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Every process of the gateway that runs now."""
        if self.process is None:
            return []
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def get(self, path: str) -> Any:
        """JSON of an admin route."""
        answer = requests.get(self.url + path, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def study(self, study_uid: str) -> dict[str, Any] | None:
        """The study as the API shows it; None before it is in the ledger."""
        answer = requests.get(f"{self.url}/api/studies/{study_uid}", timeout=10)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ended(self, study_uid: str, runs: int = 1, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until so many runs of a study are over."""

        def over() -> dict[str, Any] | None:
            study = self.study(study_uid)
            if study is None or len(study["runs"]) < runs:
                return None
            return study if all(r["state"] in TERMINAL for r in study["runs"]) else None

        try:
            found = wait_until(over, timeout_s, 0.1)
        except AssertionError as exc:
            raise AssertionError(f"not over: {self.study(study_uid)}\n{self.tail()}") from exc
        assert found is not None
        return found

    def tail(self, lines: int = 60) -> str:
        """The end of its log, for a failing test's message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _is_healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the gateway ended:\n{self.tail()}"
        try:
            return requests.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except requests.RequestException:
            return False


@contextmanager
def gateway(directory: Path, environment: Mapping[str, str]) -> Iterator[Gateway]:
    """A running gateway; stopped at the end, killed if it does not stop."""
    found = Gateway(directory, environment)
    found.start()
    try:
        yield found
    finally:
        everything = found.processes()
        try:
            found.stop()
        finally:
            for process in everything:
                if process.is_running():
                    process.kill()

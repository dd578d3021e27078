"""A private PostgreSQL server for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.net import free_port


def postgres_bin() -> Path | None:
    """The directory of initdb and postgres, or None when PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return installed[-1] if installed else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a throw-away server and yield the URL of its superuser's database."""
    bin_dir = postgres_bin()
    assert bin_dir is not None
    # PostgreSQL refuses to run as root.
    as_user: list[str | Path] = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="pg") as root:
        Path(root).chmod(0o777)
        data, port = f"{root}/data", free_port()
        _quietly([*as_user, bin_dir / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-N"])
        control: list[str | Path] = [
            *as_user,
            bin_dir / "pg_ctl",
            "-D",
            data,
            "-w",
            "-l",
            f"{root}/log",
        ]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {root}"
        _quietly([*control, "-o", options, "start"])
        try:
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            _quietly([*control, "-m", "immediate", "stop"])


def _quietly(command: list[str | Path]) -> None:
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, stdout=quiet, stderr=quiet, cwd="/")

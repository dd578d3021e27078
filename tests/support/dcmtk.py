"""DCMTK's senders against an SCP on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.peers import require_program

#: DCMTK's own delay of 40 ms per instance (Nagle's algorithm) is not what is tested.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def start_storescu(port: int, *files: Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`storescu -v` on its way, its output merged."""
    command = [
        require_program("storescu"),
        "-v",
        "-aec",
        "MILVUE",
        *options,
        "127.0.0.1",
        str(port),
    ]
    return subprocess.Popen(
        [*map(str, command), *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


def storescu(port: int, *files: Path, options: tuple[str, ...] = ()) -> str:
    """Send files; what storescu said. Fails unless all were answered with success."""
    sender = start_storescu(port, *files, options=options)
    output, _ = sender.communicate(timeout=60)
    assert sender.returncode == 0, output
    assert output.count("Received Store Response (Success)") == len(files), output
    return output


def dcmsend(port: int, directory: Path) -> str:
    """Send a directory with dcmsend; what it said. Fails unless it ends well."""
    command = [require_program("dcmsend"), "-v", "127.0.0.1", str(port), "+sd", str(directory)]
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def echoscu(port: int) -> str:
    """C-ECHO; what echoscu said."""
    command = [str(require_program("echoscu")), "-v", "127.0.0.1", str(port)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

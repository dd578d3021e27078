"""The heartbeat file of a real worker and a real beat on a real Redis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pacsor_tasks import healthcheck
from tests.support.net import wait_until
from tests.support.receivers import settings_for
from tests.support.redis_server import redis_server


@pytest.mark.parametrize(
    "command", [("worker", "-Q", "control", "-c", "1"), ("beat",)], ids=["worker", "beat"]
)
def test_a_process_at_work_touches_its_file_again_and_again(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    (tmp_path / "data").mkdir()
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis, (tmp_path / "log").open("wb") as log:
        environment = settings_for(tmp_path, BROKER_URL=redis.url, HEARTBEAT_FILE=file)
        celery = [sys.executable, "-m", "celery", "-q", "-A", "pacsor_tasks", *command]
        process = subprocess.Popen(
            celery, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until(file.exists, timeout_s=40)
            first = file.stat().st_mtime_ns
            wait_until(lambda: file.stat().st_mtime_ns > first, timeout_s=40)
            assert healthcheck.main(["heartbeat", str(file)]) == 0
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()


def test_a_beat_without_a_broker_has_no_heartbeat(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    (tmp_path / "data").mkdir()
    environment = settings_for(tmp_path, HEARTBEAT_FILE=file)  # a broker where nobody listens
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-q", "-A", "pacsor_tasks", "beat"],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: b"onnection" in log.read_bytes(), timeout_s=40)
            assert healthcheck.main(["heartbeat", str(file)]) == 1
        finally:
            process.kill()
            process.wait()

"""`python -m pacsor_tasks.admin` as a process: start, refuse, serve, stream, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pacsor_tasks.ledger import Ledger, migrate
from tests.support.ledger_seed import Seed
from tests.support.net import free_port, wait_until
from tests.support.peers import require_program

UID = "1.2.826.0.1.3680043.8.498.4711"
TOKEN = "a-token-of-some-length"
STOP_S = 20


def environment(directory: Path, **given: str) -> dict[str, str]:
    """Settings of a gateway whose broker and receiver are not there."""
    values = {
        "DATA_DIR": str(directory / "data"),
        "BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "API_URL": "http://127.0.0.1:9", "TOKEN": "x",
        "PACS_IP": "127.0.0.1", "PACS_PORT": "104", "PACS_AET": "PACS",
        "PORT": str(free_port()), "ADMIN_PORT": str(free_port()),
    }  # fmt: skip
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**inherited, **values, **given}


class Admin:
    """A running admin process."""

    def __init__(self, env: dict[str, str], directory: Path) -> None:
        self.url = f"http://{env.get('ADMIN_HOST', '127.0.0.1')}:{env['ADMIN_PORT']}"
        self.ledger = Ledger(f"sqlite:///{env['DATA_DIR']}/ledger.sqlite3")
        self._log = directory / "admin.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pacsor_tasks.admin"], env=env, stderr=log, cwd=directory
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=20)

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            self.get("/healthz")
        except httpx.TransportError:
            return False
        return True


@contextmanager
def running(env: dict[str, str], directory: Path) -> Iterator[Admin]:
    Path(env["DATA_DIR"]).mkdir(exist_ok=True)
    migrate(f"sqlite:///{env['DATA_DIR']}/ledger.sqlite3")
    admin = Admin(env, directory)
    try:
        wait_until(admin.is_up, timeout_s=60)
        yield admin
    finally:
        admin.ledger.close()
        if admin.process.poll() is None:
            admin.process.kill()
        admin.process.wait()


def lines(response: httpx.Response) -> Iterator[str]:
    return (line for line in response.iter_lines() if line)


def first_data(stream: Iterator[str]) -> dict[str, Any]:
    """The data of the next event."""
    line = next(line for line in stream if line.startswith("data: "))
    data: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return data


def test_with_redis_and_receiver_down_it_serves_streams_and_stops(tmp_path: Path) -> None:
    with running(environment(tmp_path), tmp_path) as admin, ExitStack() as stack:
        health = admin.get("/healthz")
        assert health.status_code == 503
        assert {"redis", "workers", "receiver"} <= set(health.json()["down"])
        assert health.json()["checks"]["ledger"]["ok"]
        assert health.json()["checks"]["disk"]["free_bytes"] > 0

        http = stack.enter_context(httpx.Client(timeout=30))
        response = stack.enter_context(http.stream("GET", admin.url + "/api/stream?after=0"))
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = lines(response)
        assert next(stream) == ": listening"
        Seed(admin.ledger).receive(UID)
        assert first_data(stream) == {"studies": [UID], "everything": False}
        assert admin.get("/").text.count('<tr id="s-') == 1
        assert "pacsor_redis_up 0.0" in admin.get("/metrics").text

        # A relaunch needs the ledger only; the sweep publishes it when the broker is back.
        launched = httpx.post(f"{admin.url}/relaunch/{UID}", timeout=60)
        assert launched.status_code == 202
        assert first_data(stream)["studies"] == [UID]

        admin.process.send_signal(signal.SIGTERM)
        assert admin.process.wait(STOP_S) == 0
        assert not [line for line in stream if line.startswith("data: ")]
        assert "Cancel" not in admin.log
        assert "Traceback" not in admin.log


def test_with_redis_up_the_queues_are_counted(tmp_path: Path) -> None:
    program, port = require_program("redis-server"), free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    redis_server = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port))
        with (
            socket.create_server(("127.0.0.1", 0)) as receiver,
            running(
                environment(
                    tmp_path,
                    BROKER_URL=f"redis://127.0.0.1:{port}/0",
                    PORT=str(receiver.getsockname()[1]),
                ),
                tmp_path,
            ) as admin,
        ):
            Seed(admin.ledger).receive(UID)
            assert httpx.post(f"{admin.url}/relaunch/{UID}", timeout=60).status_code == 202
            wait_until(lambda: admin.get("/healthz").json()["checks"]["redis"]["transfer"] == 1)
            health = admin.get("/healthz").json()
            assert health["down"] == ["workers"]
            assert health["checks"]["workers"]["detail"] == "no worker answers"
            redis_server.kill()
            redis_server.wait()
            wait_until(lambda: "redis" in admin.get("/healthz").json()["down"])
            assert admin.get("/").status_code == 200
    finally:
        redis_server.kill()
        redis_server.wait()


def test_the_token_is_asked_for_and_the_query_stays_out_of_the_log(tmp_path: Path) -> None:
    env = environment(tmp_path, ADMIN_HOST="0.0.0.0", ADMIN_TOKEN=TOKEN, PACSOR_LOG_LEVEL="debug")
    with running(env, tmp_path) as admin:
        assert admin.get("/api/studies").status_code == 401
        answer = admin.get("/api/studies?q=1.2.777", Authorization=f"Bearer {TOKEN}")
        assert answer.status_code == 200
        assert admin.get("/api/studies", Authorization="Bearer wrong").status_code == 401
        shown = admin.get("/config/", Authorization=f"Bearer {TOKEN}")
        assert shown.json()["settings"]["ADMIN_TOKEN"] == "***"
        admin.process.send_signal(signal.SIGTERM)
        assert admin.process.wait(STOP_S) == 0
        assert '"path": "/api/studies"' in admin.log
        assert "1.2.777" not in admin.log
        assert "admin.refused" in admin.log
        assert TOKEN not in admin.log
        for line in admin.log.splitlines():
            json.loads(line)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ADMIN_HOST": "0.0.0.0"}, "ADMIN_TOKEN: required to listen beyond loopback"),
        ({"ADMIN_PORT": "0"}, "ADMIN_PORT"),
        ({"LEDGER_URL": "mysql://h/db"}, "LEDGER_URL"),
        ({"BROKER_URL": ""}, "BROKER_URL: not set"),
    ],
)
def test_wrong_settings_are_refused_in_words(
    tmp_path: Path, given: dict[str, str], said: str
) -> None:
    done = _run(environment(tmp_path, **given), tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = _run(environment(tmp_path, ADMIN_PORT=port), tmp_path)
    assert done.returncode == 1
    assert f"ADMIN_PORT: cannot listen on 127.0.0.1:{port}" in done.stderr


def _run(env: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pacsor_tasks.admin"]
    return subprocess.run(
        command, env=env, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        time.sleep(0.02)
        return False
    return True

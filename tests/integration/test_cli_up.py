"""`pacsor up` and the verbs beside it, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.gateway import Gateway, gateway
from tests.support.net import free_port, wait_until
from tests.support.radiographs import radiographs

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("gateway")]

PEERS_AWAY = {
    "API_URL": "http://127.0.0.1:9",
    "TOKEN": "very-secret-token",
    "DESTINATIONS": "storescu",
    "PACS_IP": "127.0.0.1",
    "PACS_PORT": "9",
    "PACS_AET": "PACS",
    "LOG_FORMAT": "console",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("up"), PEERS_AWAY) as found:
        wait_until(lambda: "pacsor is up" in found.log.read_text(), 60, 0.2)
        yield found


def test_it_says_where_everything_is(running: Gateway) -> None:
    said = running.log.read_text()
    assert f"MILVUE@127.0.0.1:{running.port}" in said
    assert f"{running.url}/" in said


def test_a_second_gateway_in_its_directory_is_refused(running: Gateway) -> None:
    second = running.run("pacsor", "up")
    assert second.returncode == 2
    assert second.stderr.startswith("pacsor: DATA_DIR: another gateway (process ")
    assert second.stderr.count("\n") == 1


def test_check_knows_its_own_ports_and_names_the_peers_that_are_away(running: Gateway) -> None:
    done = running.run("pacsor", "check")
    assert done.returncode == 1
    lines = {line[9:25].strip(): line for line in done.stdout.splitlines()}
    assert "ok" in lines["broker"]
    assert "the receiver answers C-ECHO" in lines["PORT"]
    assert all(lines[name].startswith("ok") for name in ("ADMIN_PORT", "FLOWER_PORT", "ledger"))
    assert lines["API core"].startswith("PROBLEM")
    assert "see PACS_IP, PACS_PORT, PACS_AET" in lines["PACS storescu"]
    assert "2 problems" in done.stdout
    assert "very-secret-token" not in done.stdout + done.stderr


def test_what_is_sent_stands_in_the_ledger_with_what_it_waits_for(
    running: Gateway, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not DICOM")
    sent = running.run("pacsor", "send", str(tmp_path), *map(str, radiographs()))
    assert sent.returncode == 0, sent.stderr
    head, uid = (line.strip() for line in sent.stdout.splitlines())
    assert head.startswith(f"2 instances of 1 study to MILVUE@127.0.0.1:{running.port}")
    assert "1 not DICOM, left out" in head
    wait_until(lambda: uid in running.run("pacsor", "status").stdout, 30, 0.2)
    wait_until(lambda: "study.stable" in running.run("pacsor", "status", uid).stdout, 30, 0.2)
    shown = running.run("pacsor", "status", uid).stdout
    assert "revision 1: 2 instances" in shown
    assert '"study_instance_uid"' in running.run("pacsor", "status", "--json", uid).stdout
    again = running.run("pacsor", "relaunch", uid)
    assert again.returncode == 0
    assert again.stdout.strip() in running.run("pacsor", "status", uid).stdout


def test_an_unknown_study_is_said_to_be_one(running: Gateway) -> None:
    for verb in ("status", "relaunch"):
        done = running.run("pacsor", verb, "1.2.3")
        assert (done.returncode, done.stderr) == (1, "pacsor: study 1.2.3: never received\n")


def test_echo_of_a_node_and_of_a_pacs_that_is_away(running: Gateway) -> None:
    node = f"MILVUE@127.0.0.1:{running.port}"
    done = running.run("pacsor", "echo", node, "storescu")
    assert done.returncode == 1
    ok, failed = done.stdout.splitlines()
    assert ok.startswith("ok ")
    assert node in ok
    assert failed.startswith("failed   storescu")


def test_a_process_that_is_killed_comes_back(running: Gateway) -> None:
    admin = next(p for p in running.processes() if "pacsor_tasks.admin" in p.cmdline())
    admin.kill()
    wait_until(lambda: "process=admin restart_in_s" in running.log.read_text(), 20, 0.1)
    wait_until(running._is_healthy, 30, 0.2)


def test_a_stop_ends_everything_and_takes_the_address_away(tmp_path: Path) -> None:
    site = Gateway(tmp_path, PEERS_AWAY)
    site.start()
    everything = site.processes()
    assert len(everything) >= 10
    assert site.process is not None
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(15) == 0
    assert not [p for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "data" / "redis" / "url").exists()
    late = site.run("celery", "-A", "pacsor_tasks", "call", "pacsor.relaunch", "--args", '["1.2"]')
    assert late.returncode != 0
    assert "no embedded Redis in DATA_DIR" in late.stderr
    assert "Traceback" not in late.stderr


def test_a_killed_supervisor_leaves_nothing_and_the_next_one_starts(tmp_path: Path) -> None:
    site = Gateway(tmp_path, PEERS_AWAY)
    site.start()
    url = (tmp_path / "data" / "redis" / "url").read_text()
    everything = site.processes()
    os.kill(everything[0].pid, signal.SIGKILL)
    assert site.process is not None
    site.process.wait(10)

    def gone() -> bool:
        return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in everything)

    wait_until(gone)
    with gateway(tmp_path, {**PEERS_AWAY, "PORT": str(site.port)}):
        assert (tmp_path / "data" / "redis" / "url").read_text() == url


def refused(directory: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail soon."""
    return Gateway(directory, PEERS_AWAY | settings).run("pacsor", "up")


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        done = refused(tmp_path, PORT=str(port))
    assert done.returncode == 2
    assert f"PORT: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_setting_a_process_refuses_ends_the_gateway_with_its_message_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").touch()  # a file where the receiver wants its directory
    done = refused(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("DATA_DIR: ") == 1
    assert "pacsor: receiver: refused its settings" in done.stderr
    assert "restart_in_s" not in done.stderr


def test_an_unreadable_filter_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = refused(tmp_path, FILTER_CFG="/nowhere/filter.cfg")
    assert done.returncode == 2
    assert done.stderr.startswith("pacsor: FILTER_CFG: /nowhere/filter.cfg cannot be read")
    assert done.stderr.count("\n") == 1


def test_wrong_settings_are_a_line_each_and_no_traceback(tmp_path: Path) -> None:
    done = refused(tmp_path, PORT="99999", API_URL="milvue", PACSOR_LOG_LEVLE="info")
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("PORT", "API_URL", "PACSOR_LOG_LEVLE"))
    assert all(line.startswith("pacsor: ") for line in done.stderr.splitlines())

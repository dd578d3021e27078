"""What stands in Redis, and what happens without it: in processes of their own, as settings are."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import pipeline
from tests.support.net import free_port
from tests.support.redis_server import RedisServer, redis_server

RUN = "0b8f6c0e-1f63-4b2e-8a6e-1d3f0f6b7c11"
LAUNCH = """
from pacsor_tasks import pipeline
from pacsor_tasks.models import Delivery, DeliveryState, DestinationKind, Step
deliveries = [
    Delivery(
        id=f"{run}:{name}", run_id=run, study_uid="1.2.3", destination=name, kind=kind,
        state=DeliveryState.PENDING, owner=None, lease_until=0, due_at=None, waiting_for=None,
        attempts=0, active_since=None, sent=0, total=0, control_id=None, error=None,
    )
    for name, kind in [("storescu", DestinationKind.STORESCU), ("hl7", DestinationKind.HL7)]
]
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of its own."""
    with redis_server(tmp_path) as server:
        yield server


def environment(tmp_path: Path, broker_url: str, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "DATA_DIR": str(tmp_path / "data"),
        "BROKER_URL": broker_url,
        "API_URL": "http://127.0.0.1:9",
        "TOKEN": "key",
        "PACS_IP": "127.0.0.1",
        "PACS_PORT": "104",
        "PACS_AET": "PACS",
        **more,
    }


def python(tmp_path: Path, env: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    program = f"run = {RUN!r}\n{LAUNCH}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def waiting(broker: RedisServer, queue: str) -> list[dict[str, Any]]:
    """The messages of a queue, decoded, oldest first."""
    with broker.client() as client:
        raw = client.lrange(queue, 0, -1)
    messages = []
    for item in reversed(raw):
        envelope = json.loads(item)
        args, _, embed = json.loads(base64.b64decode(envelope["body"]))
        messages.append({"task": envelope["headers"]["task"], "args": args, "embed": embed})
    return messages


def test_every_step_and_delivery_is_a_registered_task():
    program = (
        "from pacsor_tasks import pipeline, tasks\n"
        "names = {*pipeline.STEPS.values(), *pipeline.DELIVER.values(), pipeline.CLEANUP,"
        " pipeline.INGEST, pipeline.POLL_DUE}\n"
        "print(sorted(names - set(tasks.app.tasks)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(Path("/nonexistent"), "redis://127.0.0.1:9/0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_chain_carries_ids_and_ends_in_a_group_of_its_deliveries(
    tmp_path: Path, broker: RedisServer
):
    env = environment(tmp_path, broker.url)
    done = python(tmp_path, env, "pipeline.launch(run, Step.FILTER, deliveries)")
    assert done.returncode == 0, done.stderr
    (message,) = waiting(broker, "transfer")
    assert (message["task"], message["args"]) == ("pacsor.filter", [RUN])
    chain = message["embed"]["chain"]  # the next link stands last
    assert [link["task"] for link in reversed(chain[1:])] == list(pipeline.STEPS.values())[1:]
    assert all(link["args"] == [RUN] for link in chain[1:])
    group = chain[0]["kwargs"]["tasks"]
    assert [(task["task"], task["args"]) for task in group] == [
        ("pacsor.store", [f"{RUN}:storescu"]),
        ("pacsor.hl7", [f"{RUN}:hl7"]),
    ]
    assert message["embed"]["chord"] is None


@pytest.mark.parametrize(
    ("call", "queue", "task"),
    [
        ("pipeline.enqueue_ingest('1.2.3', ['ready/1.2.3/t/1.dcm'])", "ingest", "pacsor.ingest"),
        ("pipeline.launch(run, Step.FAN_OUT, deliveries)", "transfer", "pacsor.fan_out"),
        ("pipeline.launch(run, Step.CLEANUP, ())", "transfer", "pacsor.cleanup"),
        ("pipeline.launch(run, Step.UPLOAD, ())", "transfer", "pacsor.upload"),
        ("pipeline.launch_polls([run])", "transfer", "pacsor.poll_due"),
        (
            "pipeline.launch_delivery(f'{run}:hl7', DestinationKind.HL7)",
            "deliver",
            "pacsor.hl7",
        ),
    ],
)
def test_everything_goes_into_the_queue_of_its_kind(
    tmp_path: Path, broker: RedisServer, call: str, queue: str, task: str
):
    done = python(tmp_path, environment(tmp_path, broker.url), call)
    assert done.returncode == 0, done.stderr
    with broker.client() as client:
        lengths = {q: client.llen(q) for q in ("ingest", "transfer", "deliver", "control")}
    assert lengths == {**dict.fromkeys(lengths, 0), queue: 1}
    assert waiting(broker, queue)[0]["task"] == task


def test_without_a_broker_publishing_ends_soon_and_in_our_words(tmp_path: Path):
    env = environment(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    code = (
        "from pacsor_tasks.errors import PeerUnavailable\n"
        "try: pipeline.launch(run, Step.FILTER, deliveries)\n"
        "except PeerUnavailable as exc: print(exc)"
    )
    done = python(tmp_path, env, code)
    assert done.stdout.startswith("broker: "), done.stderr


def test_a_worker_that_cannot_migrate_the_ledger_does_not_start(
    tmp_path: Path, broker: RedisServer
):
    env = environment(tmp_path, broker.url, LEDGER_URL="sqlite:////proc/nowhere/ledger.sqlite3")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-q", "-A", "pacsor_tasks", "worker", "-c", "1"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "LEDGER_URL: the ledger cannot be opened" in done.stderr

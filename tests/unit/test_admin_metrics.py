"""Prometheus metrics, and the settings that /config/ shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from pacsor_tasks.admin import config_view
from pacsor_tasks.admin.metrics import registry
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import DeliveryState, Step
from pacsor_tasks.settings import load
from tests.support.admin import TOKEN, UID, Admin, new_admin, report

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


def samples(text: str) -> Samples:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_runs_deliveries_queues_and_dependencies_are_counted(admin: Admin) -> None:
    admin.seed.done(UID)
    (run,) = admin.seed.receive(UID + ".1")
    admin.seed.bring_to(run, Step.DELIVER)
    admin.seed.end(run, "storescu", DeliveryState.QUARANTINED, "0xC000")
    found = samples(admin.client().get("/metrics").text)
    assert found["pacsor_runs", (("state", "done"),)] == 1
    assert found["pacsor_runs", (("state", "delivering"),)] == 1
    assert found["pacsor_runs", (("state", "failed"),)] == 0
    pacs = ("destination", "storescu")
    assert found["pacsor_deliveries", (pacs, ("state", "quarantined"))] == 1
    assert found["pacsor_deliveries", (pacs, ("state", "delivered"))] == 1
    assert found["pacsor_deliveries", (pacs, ("state", "retrying"))] == 0
    assert found["pacsor_queue_length", (("queue", "transfer"),)] == 3
    assert found["pacsor_spool_free_bytes", ()] == 10**9
    assert found["pacsor_workers", ()] == 2
    assert found["pacsor_redis_up", ()] == 1
    assert found["pacsor_oldest_unfinished_run_age_seconds", ()] > 0
    assert any(name == "pacsor_build_info" for name, _ in found)


def test_the_age_of_the_oldest_unfinished_run_is_zero_without_one(admin: Admin) -> None:
    admin.seed.done(UID)
    found = samples(generate_latest(registry(admin.deps)).decode())
    assert found["pacsor_oldest_unfinished_run_age_seconds", ()] == 0


def test_with_the_ledger_away_the_rest_is_still_told(admin: Admin) -> None:
    away = Ledger("sqlite:////nowhere/at/all/ledger.sqlite3")
    http = admin.client(studies=away.studies, health=report(ledger="away", redis="away"))
    found = samples(http.get("/metrics").text)
    assert found["pacsor_ledger_up", ()] == 0
    assert found["pacsor_redis_up", ()] == 0
    assert not any(name in {"pacsor_runs", "pacsor_queue_length"} for name, _ in found)


def test_metrics_are_behind_the_token(admin: Admin) -> None:
    http = admin.client(token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert http.get("/metrics", headers=headers).status_code == 200


def test_the_shown_settings_hold_no_secret() -> None:
    settings = load(
        {
            "API_URL": "https://api.example", "TOKEN": "secret-1", "ADMIN_TOKEN": "secret-2",
            "FLOWER_BASIC_AUTH": "user:secret-3",
            "BROKER_URL": "redis://:secret-4/5@10.0.0.9:6379/0",
            "LEDGER_URL": "postgresql+psycopg://me:secret-6@db/pacsor?password=secret-7",
            "ADDITIONAL_CORES": "core1", "API_URL_1": "https://two.example", "TOKEN_1": "secret-8",
            "PACS_IP": "10.0.0.4", "PACS_PORT": "104", "PACS_AET": "PACS",
        },
        dotenv=None,
    )  # fmt: skip
    shown = config_view.masked(settings)
    assert "secret" not in str(shown)
    assert shown["settings"]["BROKER_URL"] == "redis://***@10.0.0.9:6379/0"
    assert shown["settings"]["PORT"] == 1040
    assert shown["cores"]["core1"]["api_url"] == "https://two.example"
    assert shown["cores"]["core1"]["token"] == "***"
    assert shown["destinations"]["storescu"]["called_aet"] == "PACS"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("MILVUE", "MILVUE"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:p%40ss@h/0", "redis://***@h/0"),
        ("redis://u:p@ss@h/0", "redis://***@h/0"),
        ("sqlite:////data/ledger.sqlite3", "sqlite:////data/ledger.sqlite3"),
        ("postgresql://h/db?sslmode=require&password=x", "postgresql://h/db?sslmode=require&password=***"),
        ("https://u:p@hooks.example/x?key=abc&y=1", "https://***@hooks.example/x?***"),
    ],
)  # fmt: skip
def test_urls_lose_who_and_how(url: str, shown: str) -> None:
    assert config_view.mask_url(url) == shown


def test_secrets_inside_lists_are_masked() -> None:
    assert config_view._plain([SecretStr("x"), {"a": SecretStr("y")}]) == ["***", {"a": "***"}]

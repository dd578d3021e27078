"""Messages on the page, behind the gate; configuration loaded at run time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.settings import load
from tests.support.admin import HTML, TOKEN, UID, Admin, TestClient, new_admin
from tests.support.hl7_example import GOLDEN
from tests.support.mllp_peers import ack


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def sent(admin: Admin) -> str:
    """A study with a message that was sent: its run's id."""
    run_id = admin.seed.done(UID)
    file = admin.deps.ports.spool.message_file(run_id, "hl7")
    file.parent.mkdir()
    file.write_bytes(GOLDEN)
    file.with_suffix(".ack").write_bytes(ack(GOLDEN, "AE", more="|no such <b>order</b>"))
    return run_id


@pytest.fixture
def configured(admin: Admin, tmp_path: Path) -> TestClient:
    """A client of an application whose HL7 configuration is in `tmp_path/conf`."""
    (tmp_path / "conf").mkdir()
    settings = load(
        {
            "API_URL": "http://x", "TOKEN": "k", "DESTINATIONS": "hl7", "RIS_HOST_IP": "192.0.2.2",
            "RIS_HOST_PORT": "2575", "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "DATA_DIR": str(tmp_path / "data"), "HL7_CONF_DIR": str(tmp_path / "conf"),
        },
        None,
    )  # fmt: skip
    return admin.client(hl7_config=Hl7Config(settings))


def test_a_message_and_its_answer_are_shown_field_by_field(admin: Admin, sent: str) -> None:
    text = admin.client().get(f"/studies/{UID}/messages/{sent}/hl7", headers=HTML).text
    assert "LEGRAND^Anaïs" in text
    assert "accession number" in text
    assert "Fracture : NON\nLuxation : NON" in text
    assert "no such &lt;b&gt;order&lt;/b&gt;" in text


def test_the_page_of_the_study_leads_there(admin: Admin, sent: str) -> None:
    text = admin.client().get(f"/studies/{UID}", headers=HTML).text
    assert f'href="/studies/{UID}/messages/{sent}/hl7"' in text


def test_programs_get_the_bytes_as_text(admin: Admin, sent: str) -> None:
    answer = admin.client().get(f"/api/studies/{UID}/messages/{sent}/hl7").json()
    assert answer["message"].encode() == GOLDEN
    assert answer["is_made"]
    assert "MSA|AE|" in answer["answer"]


@pytest.mark.parametrize("path", ["/studies", "/api/studies"])
def test_without_the_token_nobody_sees_a_message(admin: Admin, sent: str, path: str) -> None:
    target = f"{path}/{UID}/messages/{sent}/hl7"
    answer = admin.client(token=TOKEN).get(target)
    assert answer.status_code == 401
    assert "LEGRAND" not in answer.text
    with_token = {"Authorization": f"Bearer {TOKEN}"}
    answer = admin.client(token=TOKEN).get(target, headers=with_token)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


def test_without_a_token_only_this_machine_sees_one(admin: Admin, sent: str) -> None:
    answer = admin.client().get(
        f"/api/studies/{UID}/messages/{sent}/hl7", headers={"Host": "gateway.example"}
    )
    assert answer.status_code == 403


def test_who_looks_is_logged_and_nothing_of_the_message_is(admin: Admin, sent: str) -> None:
    with structlog.testing.capture_logs() as logs:
        admin.client().get(f"/studies/{UID}/messages/{sent}/hl7", headers=HTML)
    (shown,) = (line for line in logs if line["event"] == "message.shown")
    assert shown["study_uid"] == UID
    assert not any(word in str(logs) for word in ("LEGRAND", "PX-4711", "ACC-2026", "order"))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{UID}/messages/00000000-0000-0000-0000-000000000000/hl7", 404),
        (f"{UID}/messages/x/hl7", 422),
        (f"{UID}/messages/00000000-0000-0000-0000-000000000000/..%2fx", 404),
        (f"{UID}/messages/00000000-0000-0000-0000-000000000000/storescu", 422),
        ("1.2.3/messages/00000000-0000-0000-0000-000000000000/hl7", 404),
    ],
)
def test_what_is_not_there_is_said(admin: Admin, sent: str, path: str, status: int) -> None:
    assert admin.client().get(f"/api/studies/{path}").status_code == status


def test_a_message_that_cannot_be_made_any_more_is_not_there(admin: Admin) -> None:
    run_id = admin.seed.done(UID)  # its instances are not on disk
    answer = admin.client().get(f"/api/studies/{UID}/messages/{run_id}/hl7")
    assert answer.status_code in {404, 409}


def test_a_configuration_is_loaded_shown_and_put_away(
    configured: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "conf" / "site.json").write_text(json.dumps({"REC_APP": "XPLORE"}))
    assert configured.post("/config/load/site").json()["values"] == {
        "RECEIVING_APPLICATION": "XPLORE"
    }
    shown = configured.get("/config/").json()["hl7"]
    assert shown["loaded"]["name"] == "site"
    assert shown["destinations"]["hl7"]["RECEIVING_APPLICATION"] == "XPLORE"
    assert configured.delete("/config/load").json() == {"unloaded": True}
    shown = configured.get("/config/").json()["hl7"]
    assert shown["loaded"] is None
    assert shown["destinations"]["hl7"]["RECEIVING_APPLICATION"] == "RIS"


def test_a_bad_configuration_is_refused_whole_with_a_line_per_key(
    configured: TestClient, tmp_path: Path
) -> None:
    bad = {"REC_APP": "XPLORE", "POPULATE_PDI": True, "TOKEN": "secret-value"}
    (tmp_path / "conf" / "bad.json").write_text(json.dumps(bad))
    answer = configured.post("/config/load/bad")
    assert answer.status_code == 422
    assert [line.split(":")[0] for line in answer.json()["detail"].splitlines()] == [
        "POPULATE_PDI", "TOKEN",
    ]  # fmt: skip
    assert "secret-value" not in answer.text
    assert configured.get("/config/").json()["hl7"]["loaded"] is None


@pytest.mark.parametrize(
    "content",
    [
        '{"INCLUDE_REPORT": true}',
        '{"RIS_TIMEOUT": 1e400}',
        '{"RIS_TIMEOUT": 1e15}',
        '{"SEN_APP": "a\\ud800"}',
        '{"\\ud800": "a"}',
        '{"\\ud800": "a", "\\ud800": "b"}',
        '{"REC_APP_2": "x"}',
    ],
)
def test_what_would_not_work_later_is_refused_now(
    configured: TestClient, tmp_path: Path, content: str
) -> None:
    (tmp_path / "conf" / "bad.json").write_text(content)
    answer = configured.post("/config/load/bad")
    assert answer.status_code == 422, answer.text
    assert configured.get("/config/").json()["hl7"]["loaded"] is None


@pytest.mark.parametrize(
    ("name", "status"),
    [("absent", 404), ("%2e%2e", 422), ("%2e%2e%2fetc", 404), (".env", 422), ("a" * 65, 422)],
)
def test_no_name_reaches_another_file(configured: TestClient, name: str, status: int) -> None:
    answer = configured.post(f"/config/load/{name}")
    assert answer.status_code == status
    assert "detail" in answer.json()


def test_loading_acts_and_so_is_not_for_other_sites(configured: TestClient) -> None:
    answer = configured.post("/config/load/site", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403

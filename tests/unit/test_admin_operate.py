"""The operator's verbs by API and by page, with and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks.ledger.peers import OPEN_AT
from pacsor_tasks.models import Delivery, DeliveryState, PeerKind, PeerName, RunState, Step
from tests.support.admin import HTML, UID, Admin, new_admin
from tests.support.ledger_seed import PACS, RIS

STORESCU = PeerName(PeerKind.DESTINATION, "storescu")
STORESCU_2 = PeerName(PeerKind.DESTINATION, "storescu-2")


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def run(admin: Admin) -> str:
    """A run that failed by one quarantined delivery; its results are held."""
    (run_id,) = admin.seed.receive(UID, destinations=(PACS, RIS))
    admin.seed.bring_to(run_id, Step.DELIVER)
    admin.seed.delivered(run_id, "hl7", 1)
    admin.seed.end(run_id, "storescu", DeliveryState.QUARANTINED, "0xC000")
    hold_results(admin, run_id)
    return run_id


def hold_results(admin: Admin, run_id: str) -> None:
    for result in admin.ledger.deliveries.unsent(delivery(admin, run_id)):
        file = admin.deps.ports.file(result.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"dicom")


def delivery(admin: Admin, run_id: str, name: str = "storescu") -> Delivery:
    found = admin.ledger.deliveries.get(f"{run_id}:{name}")
    assert found is not None
    return found


def last_event(admin: Admin) -> dict[str, Any]:
    detail = admin.ledger.studies.detail(UID)
    assert detail is not None
    last: dict[str, Any] = detail["events"][-1]
    return last


def test_a_retry_by_api_makes_the_delivery_pending(admin: Admin, run: str) -> None:
    answer = admin.client().post(f"/api/deliveries/{run}:storescu/retry")
    assert (answer.status_code, answer.json()) == (
        202,
        {"study_instance_uid": UID, "run_id": run},
    )
    assert delivery(admin, run).state is DeliveryState.PENDING
    assert last_event(admin)["by"] == "operator"


@pytest.mark.parametrize(
    ("headers", "body", "by"),
    [
        ({}, {"by": "Ada"}, "Ada"),
        ({"X-Operator": "Z%C3%BCmr%C3%BCt"}, {}, "Zümrüt"),
        ({"X-Operator": "Bob"}, {"by": "Ada"}, "Ada"),
        ({}, {"by": " two\nlines\x07 "}, "two lines"),
    ],
)
def test_who_did_it_is_told_in_the_body_or_a_header(
    admin: Admin, run: str, headers: dict[str, str], body: dict[str, str], by: str
) -> None:
    answer = admin.client().post(
        f"/api/deliveries/{run}:storescu/skip", json={**body, "reason": "sold"}, headers=headers
    )
    assert answer.status_code == 202
    assert delivery(admin, run).error == f"skipped by {by}: sold"


def test_a_skip_needs_a_reason_and_lets_the_run_end(admin: Admin, run: str) -> None:
    http = admin.client()
    refused = http.post(f"/api/deliveries/{run}:storescu/skip", json={"reason": " "})
    assert (refused.status_code, "reason" in refused.json()["detail"]) == (409, True)
    assert http.post(
        f"/api/deliveries/{run}:storescu/skip", json={"reason": "sold"}
    ).status_code == 202  # fmt: skip
    admin.ledger.runs.watch()
    assert [due.run_id for due in admin.ledger.runs.due(stale_s=1e9, limit=9)] == [run]
    assert admin.ledger.runs.settle(run)


def test_a_reroute_by_api(admin: Admin, run: str) -> None:
    http = admin.client()
    path = f"/api/deliveries/{run}:storescu/reroute"
    assert http.post(path, json={"to": "storescu-9"}).status_code == 404
    assert http.post(path, json={"to": "hl7"}).status_code == 409
    assert http.post(path, json={"to": "storescu-2"}).status_code == 202
    assert delivery(admin, run, "storescu-2").state is DeliveryState.PENDING
    assert http.post(path, json={"to": "storescu-2"}).status_code == 409


def test_what_is_no_longer_on_disk_is_not_retried(admin: Admin, run: str) -> None:
    admin.deps.ports.spool.remove_results(run)
    answer = admin.client().post(f"/api/deliveries/{run}:storescu/retry")
    assert answer.status_code == 404
    assert "no longer held: relaunch" in answer.json()["detail"]


def test_a_run_is_retried_and_cancelled_by_api(admin: Admin, run: str) -> None:
    http = admin.client()
    assert http.post(f"/api/runs/{run}/retry").status_code == 202
    assert http.post(f"/api/runs/{run}/cancel", json={"by": "Ada"}).status_code == 202
    now = admin.ledger.runs.get(run)
    assert now is not None
    assert (now.state, now.error) == (RunState.CANCELLED, "cancelled by Ada")
    assert http.post(f"/api/runs/{run}/cancel").status_code == 409
    assert http.post("/api/runs/nope/cancel").status_code == 404


def test_work_in_a_workers_hands_is_not_retried(admin: Admin, run: str) -> None:
    http = admin.client()
    http.post(f"/api/deliveries/{run}:storescu/retry")
    assert admin.ledger.deliveries.claim(f"{run}:storescu", "w", 60) is not None
    answer = http.post(f"/api/deliveries/{run}:storescu/retry")
    assert (answer.status_code, answer.json()) == (409, {"detail": "a worker is at it just now"})


def test_a_destination_is_paused_and_resumed_by_api(admin: Admin) -> None:
    http = admin.client()
    answer = http.post("/api/destinations/storescu/pause", json={"by": "Ada", "reason": "moving"})
    assert answer.status_code == 200
    (paused,) = [p for p in answer.json() if p["name"] == "storescu"]
    assert (paused["state"], paused["by"], paused["reason"]) == ("paused", "Ada", "moving")
    assert http.post("/api/destinations/storescu/pause").status_code == 409
    assert http.post("/api/destinations/storescu/resume").status_code == 200
    assert http.post("/api/destinations/storescu/resume").status_code == 409
    assert http.post("/api/destinations/nowhere/pause").status_code == 404
    assert http.post("/api/cores/core/pause").status_code == 200
    assert {p["name"]: p["state"] for p in http.get("/api/peers").json()} == {
        "core": "paused", "storescu": "closed", "storescu-2": "closed", "hl7": "closed",
    }  # fmt: skip


def leave_alone(admin: Admin) -> None:
    admin.ledger.peers.failed(STORESCU_2, "no TCP connection within 10 s", OPEN_AT)


def test_a_peer_that_is_left_alone_is_on_every_page_and_in_the_metrics(admin: Admin) -> None:
    http = admin.client()
    assert 'id="peers" class="peers"' in http.get("/").text
    assert "left alone" not in http.get("/").text
    leave_alone(admin)
    text = admin.client().get("/").text
    assert "left alone" in text
    assert "no TCP connection within 10 s" in text
    metrics = admin.client().get("/metrics").text
    assert 'pacsor_breaker_open{peer="destination storescu-2"} 1.0' in metrics
    assert 'pacsor_breaker_open{peer="destination storescu"} 0.0' in metrics
    assert 'pacsor_peer_paused{peer="core core"} 0.0' in metrics


def test_the_page_of_destinations_says_why_since_when_and_what_waits(
    admin: Admin, run: str
) -> None:
    leave_alone(admin)
    admin.ledger.peers.pause(STORESCU, "Ada", "<b>moving</b>")
    text = admin.client().get("/destinations").text
    assert "by Ada: &lt;b&gt;moving&lt;/b&gt;" in text
    assert 'action="/destinations/storescu/resume"' in text
    assert 'href="/destinations/storescu-2/pause"' in text
    assert "peer.open" in text


@pytest.mark.parametrize(
    ("verb", "form"),
    [("retry", {}), ("skip", {"reason": "sold"}), ("reroute", {"to": "storescu-2"})],
)
def test_the_buttons_work_without_javascript(
    admin: Admin, run: str, verb: str, form: dict[str, str]
) -> None:
    http = admin.client()
    study = http.get(f"/studies/{UID}", headers=HTML).text
    assert f"/deliveries/{run}%3Astorescu/{verb}" in study
    if verb != "retry":
        asked = http.get(f"/deliveries/{run}:storescu/{verb}", headers=HTML)
        assert asked.status_code == 200
        assert f'action="/deliveries/{run}:storescu/{verb}"' in asked.text
    done = http.post(
        f"/deliveries/{run}:storescu/{verb}", data={**form, "by": "Ada Ü"}, headers=HTML
    )
    assert (done.status_code, done.headers["location"]) == (303, f"/studies/{UID}?done={verb}")
    assert last_event(admin)["by"] == "Ada Ü"
    again = http.get(done.headers["location"], headers=HTML).text
    assert "by Ada Ü" in again
    assert 'id="outcome" class="banner" role="status">' in again


def test_the_name_given_last_is_remembered_in_that_browser(admin: Admin, run: str) -> None:
    http = admin.client()
    http.post(f"/deliveries/{run}:storescu/retry", data={"by": "Ada Ü"})
    asked = http.get(f"/deliveries/{run}:storescu/skip", headers=HTML).text
    assert 'value="Ada Ü"' in asked


def test_a_run_is_cancelled_by_its_page(admin: Admin, run: str) -> None:
    http = admin.client()
    http.post(f"/runs/{run}/retry")
    assert "Cancel this run?" in http.get(f"/runs/{run}/cancel", headers=HTML).text
    assert http.post(f"/runs/{run}/cancel").headers["location"] == f"/studies/{UID}?done=cancel"


def test_a_destination_is_paused_and_resumed_by_its_page(admin: Admin) -> None:
    http = admin.client()
    assert "Pause storescu?" in http.get("/destinations/storescu/pause", headers=HTML).text
    assert http.post("/destinations/storescu/pause").headers["location"] == (
        "/destinations?done=pause"
    )
    assert "Paused." in http.get("/destinations?done=pause", headers=HTML).text
    assert http.post("/cores/core/pause").status_code == 303
    assert http.post("/destinations/storescu/resume").status_code == 303
    assert {p["name"]: p["state"] for p in http.get("/api/peers").json()}["core"] == "paused"


def test_a_form_that_does_not_fit_is_answered_by_a_page_or_by_json(admin: Admin, run: str) -> None:
    http = admin.client()
    page = http.post(f"/runs/{run}/cancel", headers=HTML)
    assert (page.status_code, "Not now" in page.text) == (409, True)
    data = http.post(f"/runs/{run}/cancel", headers={"Accept": "application/json"})
    assert data.json() == {"detail": "the run is over: failed"}


def test_another_site_cannot_make_a_browser_act(admin: Admin, run: str) -> None:
    answer = admin.client().post(
        f"/deliveries/{run}:storescu/retry", headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert answer.status_code == 403


def test_only_the_latest_run_has_buttons(admin: Admin, run: str) -> None:
    admin.ledger.intake.relaunch(UID, admin.deps.ports.targets)
    text = admin.client().get(f"/studies/{UID}", headers=HTML).text
    assert f"/deliveries/{run}" not in text

"""The routes for programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.ledger import Ledger, Relaunch
from pacsor_tasks.models import RunState, Step
from tests.support.admin import UID, Admin, client, new_admin, report


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


def test_healthz_says_ok_when_every_check_is(admin: Admin) -> None:
    answer = admin.client().get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["checks"]["redis"] == {
        "ok": True, "detail": "3 messages queued", "ingest": 0, "transfer": 3,
    }  # fmt: skip


def test_healthz_names_what_is_down(admin: Admin) -> None:
    answer = admin.client(health=report(redis="gone", disk="full")).get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["down"] == ["redis", "disk"]
    assert answer.json()["checks"]["redis"]["detail"] == "gone"


def test_a_page_of_studies_leads_to_the_next(admin: Admin) -> None:
    for n in range(5):
        admin.seed.receive(f"{UID}.{n}")
    with admin.client() as http:
        seen: list[str] = []
        cursor = None
        while True:
            params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = http.get("/api/studies", params=params).json()
            seen += [s["study_instance_uid"] for s in page["studies"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert seen == [f"{UID}.{n}" for n in (4, 3, 2, 1, 0)]


def test_a_study_has_the_public_shape(admin: Admin) -> None:
    admin.seed.done(UID)
    body = admin.client().get(f"/api/studies/{UID}").json()
    assert body["study_instance_uid"] == UID
    (run,) = body["runs"]
    assert run["state"] == "done"
    assert {"id", "core", "state", "waiting_for", "due_at", "deliveries"} <= set(run)
    assert [(d["destination"], d["state"], d["sent"], d["total"]) for d in run["deliveries"]] == [
        ("hl7", "delivered", 1, 1),
        ("storescu", "delivered", 3, 3),
    ]
    assert {"at", "kind", "message"} <= set(body["events"][0])


def test_the_state_filter_looks_at_the_latest_run_of_every_core(admin: Admin) -> None:
    first, _ = admin.seed.receive(UID, cores=("core", "core1"))
    admin.seed.fail(first, Step.FILTER, "unreadable")
    admin.seed.done(UID + ".1")
    http = admin.client()

    def found(state: RunState) -> list[str]:
        page = http.get("/api/studies", params={"state": state}).json()
        return [s["study_instance_uid"] for s in page["studies"]]

    assert found(RunState.FAILED) == [UID]  # of the core whose run is the older by microseconds
    assert found(RunState.QUEUED) == [UID]
    assert found(RunState.DONE) == [UID + ".1"]


def test_totals_count_studies_as_the_filter_finds_them(admin: Admin) -> None:
    (run,) = admin.seed.receive(UID)
    admin.seed.fail(run, Step.FILTER, "unreadable")
    admin.deps.relaunch(UID, Relaunch(), None)
    admin.seed.receive(UID + ".1", cores=("core", "core1"))
    totals = admin.ledger.studies.totals()
    assert totals["all"] == 2
    assert totals["failed"] == 0  # the relaunch is what counts now
    assert totals["queued"] == 2


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "limit"),
        ("state=lost", "queued|filtering"),
        ("cursor=x", "cursor"),
        ("cursor=1e999_1.2", "cursor"),
        ("cursor=nan_1.2", "cursor"),
        ("q=DOE", "StudyInstanceUID"),
        ("q=1.2%25", "StudyInstanceUID"),
    ],
)
def test_a_bad_query_is_refused_in_words(admin: Admin, query: str, said: str) -> None:
    answer = admin.client().get(f"/api/studies?{query}")
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_empty_parameters_mean_none(admin: Admin) -> None:
    admin.seed.receive(UID)
    page = admin.client().get("/api/studies?state=&q=&cursor=").json()
    assert len(page["studies"]) == 1


def test_studies_are_found_by_the_beginning_of_their_uid(admin: Admin) -> None:
    admin.seed.receive("1.2.3")
    admin.seed.receive("1.20.3")
    page = admin.client().get("/api/studies?q=1.2.").json()
    assert [s["study_instance_uid"] for s in page["studies"]] == ["1.2.3"]


@pytest.mark.parametrize("uid", ["1.2.3.4", "DOE^JOHN", "1" * 65, "1.2..3", "..%2f..%2fetc"])
@pytest.mark.parametrize("route", ["GET /api/studies/", "POST /relaunch/", "GET /studies/"])
def test_what_is_no_known_study_is_not_found(admin: Admin, route: str, uid: str) -> None:
    method, _, path = route.partition(" ")
    assert admin.client().request(method, path + uid).status_code == 404


def test_a_relaunch_answers_with_the_new_runs(admin: Admin) -> None:
    admin.seed.done(UID)
    answer = admin.client().post(f"/relaunch/{UID}")
    assert answer.status_code == 202
    (run_id,) = answer.json()["run_ids"]
    run = admin.ledger.runs.get(run_id)
    assert run is not None
    assert run.force


def test_a_ledger_that_is_away_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    made = new_admin(tmp_path)
    away = Ledger("sqlite:////nowhere/at/all/ledger.sqlite3")
    http = made.client(studies=away.studies)
    answer = http.get("/api/studies")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "ledger" in answer.json()["detail"]


def test_a_peer_that_is_away_during_a_relaunch_is_a_503(admin: Admin) -> None:
    def relaunch(*_: object) -> list[str]:
        raise PeerUnavailable("ledger: locked", retry_after_s=1.5)

    answer = admin.client(relaunch=relaunch).post(f"/relaunch/{UID}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_the_configuration_is_what_was_given(admin: Admin) -> None:
    assert admin.client(config={"settings": {"PORT": 1040}}).get("/config/").json() == {
        "settings": {"PORT": 1040}
    }


def test_every_answer_carries_the_protective_headers(admin: Admin) -> None:
    http = client(admin.deps)
    for path in ("/", "/healthz", "/api/studies", "/nowhere"):
        headers = http.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert http.get("/static/admin.css").headers["cache-control"] == "no-cache"


def test_a_large_body_is_refused(admin: Admin) -> None:
    assert admin.client().post("/login", content=b"x" * 100_000).status_code == 413


def test_the_interface_describes_itself(admin: Admin) -> None:
    paths = admin.client().get("/api/openapi.json").json()["paths"]
    assert {"/api/studies", "/api/studies/{study_uid}", "/relaunch/{study_uid}"} <= set(paths)

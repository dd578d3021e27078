"""Relaunches by route and by page, with and without JavaScript, and what the filters explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks.ledger import Decided
from pacsor_tasks.models import DeliveryState, InstanceOutcome, Run, RunState, Step
from tests.support.admin import HTML, TOKEN, UID, Admin, new_admin
from tests.support.ledger_seed import PACS, RIS

OTHER = f"{UID}.2"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HOUR = timedelta(hours=1)
BROWSER = {"Sec-Fetch-Site": "none", **HTML}


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


def run_of(admin: Admin, answer: Any) -> Run:
    assert answer.status_code == 202, answer.text
    (run_id,) = answer.json()["run_ids"]
    run = admin.ledger.runs.get(run_id)
    assert run is not None
    return run


def newest(admin: Admin, uid: str = UID) -> dict[str, Any]:
    detail = admin.ledger.studies.detail(uid)
    assert detail is not None
    found: dict[str, Any] = detail["runs"][0]
    return found


def last_event(admin: Admin, uid: str = UID) -> dict[str, Any]:
    detail = admin.ledger.studies.detail(uid)
    assert detail is not None
    found: dict[str, Any] = detail["events"][-1]
    return found


# --- PACSOR's route


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pacsors_route_works_from_curl_with_the_token(admin: Admin, method: str) -> None:
    admin.seed.done(UID)
    http = admin.client(token=TOKEN)
    assert http.request(method, f"/relaunch/{UID}").status_code == 401
    assert run_of(admin, http.request(method, f"/relaunch/{UID}", headers=BEARER)).force
    unknown = http.request(method, "/relaunch/1.2.3", headers=BEARER)
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "study 1.2.3: never received")
    assert http.request(method, "/relaunch/x", headers=BEARER).status_code == 404


def test_pacsors_route_works_from_curl_on_this_machine_without_a_token(admin: Admin) -> None:
    admin.seed.done(UID)
    assert run_of(admin, admin.client().get(f"/relaunch/{UID}?by=ada")).step is Step.FILTER
    assert last_event(admin)["by"] == "ada"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Referer": "http://127.0.0.1:7000/"},
        {"Cookie": "a=b"},
    ],
)
def test_a_browser_relaunches_by_get_only_where_the_site_says_so(
    admin: Admin, headers: dict[str, str]
) -> None:
    admin.seed.done(UID)
    refused = admin.client().get(f"/relaunch/{UID}", headers=headers)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    allowed = admin.client(allow_get_relaunch=True)
    assert allowed.get(f"/relaunch/{UID}", headers=headers).status_code == 202
    ahead = {**headers, "Sec-Purpose": "prefetch;prerender"}
    assert allowed.get(f"/relaunch/{UID}", headers=ahead).status_code == 405


def test_who_types_the_address_is_asked_first(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    answer = http.get(f"/relaunch/{UID}?from=download&only=storescu", headers=BROWSER)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/studies/{UID}/relaunch?from=download&only=storescu"
    page = http.get(answer.headers["location"]).text
    assert '<option value="download" selected>' in page
    assert '<option value="storescu" selected>' in page
    assert newest(admin)["relaunched"] is False


# --- from a step, for one destination


def test_from_a_step_and_for_one_destination(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    run = run_of(admin, http.post(f"/relaunch/{UID}?from=poll"))
    assert run.step is Step.POLL
    assert admin.ledger.runs.cancel(run.id, "test")
    body = {"from": "download", "only": "storescu", "core": "core", "by": "Ada"}
    run = run_of(admin, http.post(f"/relaunch/{UID}?from=poll", json=body))
    assert run.step is Step.DOWNLOAD
    shown = newest(admin)
    assert (shown["from"], shown["only"]) == ("download", "storescu")
    assert [d["destination"] for d in shown["deliveries"]] == ["storescu"]
    assert last_event(admin)["by"] == "Ada"
    assert last_event(admin)["message"] == (
        "relaunched on core from download, for storescu only: 2 instances"
    )


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("from=deliver", 409, "its results are no longer held; from download would do"),
        ("from=cleanup", 409, "'cleanup' is no step to begin at: there is filter, upload"),
        ("only=storescu-9", 404, "'storescu-9' is no destination of core"),
        ("core=core9", 404, "'core9' is no configured core: there is core"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_do(
    admin: Admin, query: str, status: int, said: str
) -> None:
    admin.seed.done(UID)
    answer = admin.client().post(f"/relaunch/{UID}?{query}")
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_the_same_key_relaunches_once(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    headers = {"Idempotency-Key": "again-1"}
    first = run_of(admin, http.post(f"/relaunch/{UID}", headers=headers))
    admin.seed.bring_to(first.id, Step.POLL)
    assert run_of(admin, http.post(f"/relaunch/{UID}", headers=headers)).id == first.id


def test_where_a_relaunch_can_begin_is_told(admin: Admin) -> None:
    admin.seed.done(UID)
    answer = admin.client().get(f"/api/studies/{UID}/relaunch").json()
    assert answer["cores"]["core"] == {
        "filter": None, "upload": None, "poll": None, "download": None,
        "deliver": "its results are no longer held",
    }  # fmt: skip
    assert admin.client().get("/api/studies/1.2.3/relaunch").status_code == 404


def test_the_form_offers_what_can_be_and_says_why_not_the_rest(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    assert f'href="/studies/{UID}/relaunch" data-ask' in http.get(f"/studies/{UID}").text
    page = http.get(f"/studies/{UID}/relaunch").text
    assert '<option value="download">' in page
    assert '<option value="deliver" disabled>' in page
    assert "Not at the deliveries: its results are no longer held." in page
    (key,) = re.findall(r'name="key" value="([^"]+)"', page)
    form = {"from": "download", "only": "storescu", "by": "Ada", "key": key}
    for _ in range(2):  # pressed twice
        answer = http.post(f"/studies/{UID}/relaunch", data=form)
        assert (answer.status_code, answer.headers["location"]) == (
            303, f"/studies/{UID}?relaunched=1",
        )  # fmt: skip
    detail = admin.ledger.studies.detail(UID)
    assert detail is not None
    assert len(detail["runs"]) == 2
    assert "relaunched from download for storescu only" in http.get(f"/studies/{UID}").text
    refused = http.post(f"/studies/{UID}/relaunch", data={"from": "deliver"}, headers=HTML)
    assert (refused.status_code, "from download would do" in refused.text) == (409, True)
    assert http.post(f"/studies/{UID}/relaunch", data={"only": "x" * 65}).status_code == 422


# --- many


@pytest.fixture
def two(admin: Admin) -> Admin:
    """A study that is done, and one whose PACS refused it."""
    admin.seed.done(UID)
    admin.clock.now += 3600
    (run_id,) = admin.seed.receive(OTHER, destinations=(PACS, RIS))
    admin.seed.bring_to(run_id, Step.DELIVER)
    admin.seed.delivered(run_id, "hl7", 1)
    admin.seed.end(run_id, "storescu", DeliveryState.QUARANTINED, "0xC000")
    return admin


def test_many_are_listed_then_relaunched_by_api(two: Admin) -> None:
    http = two.client()
    wish = {"state": "quarantined", "destination": "storescu", "only": "storescu", "by": "Ada"}
    listed = http.post("/api/relaunch", json=wish)
    assert listed.status_code == 200
    (study,) = listed.json()["studies"]
    assert study["study_instance_uid"] == OTHER
    assert study["runs"] == [{"core": "core", "from": "download", "destinations": ["storescu"]}]
    assert (listed.json()["possible"], study["run_ids"]) == (1, [])
    assert newest(two, OTHER)["relaunched"] is False
    done = http.post("/api/relaunch", json={**wish, "dry_run": False})
    assert (done.status_code, done.json()["relaunched"], done.json()["refused"]) == (202, 1, 0)
    assert newest(two, OTHER)["id"] == done.json()["studies"][0]["run_ids"][0]
    assert last_event(two, OTHER)["by"] == "Ada"
    assert newest(two)["relaunched"] is False


def test_studies_are_chosen_by_date(two: Admin) -> None:
    at = (datetime.fromisoformat(newest(two, OTHER)["created_at"]) - HOUR / 2).isoformat()
    http = two.client()

    def chosen(**wish: Any) -> list[str]:
        found = http.post("/api/relaunch", json=wish).json()["studies"]
        return [study["study_instance_uid"] for study in found]

    assert chosen(until=at) == [UID]
    assert chosen(since=at) == [OTHER]
    assert chosen(since="2020-01-01") == [UID, OTHER]
    assert chosen(study_uids=[OTHER]) == [OTHER]
    assert chosen(state="done") == [UID]


@pytest.mark.parametrize(
    ("wish", "status", "said"),
    [
        ({}, 409, "choose studies by"),
        ({"core": "core", "limit": 1}, 409, "more than 1 studies are meant"),
        ({"core": "core", "limit": 0}, 422, "limit"),
        ({"since": "yesterday"}, 422, "since"),
        ({"state": "well"}, 422, "state"),
        ({"core": "core", "only": "storescu-9"}, 404, "no destination"),
        ({"core": "core", "from": "cleanup"}, 409, "no step"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    two: Admin, wish: dict[str, Any], status: int, said: str
) -> None:
    answer = two.client().post("/api/relaunch", json=wish)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True)


def test_what_cannot_be_relaunched_is_told_beside_what_can(two: Admin) -> None:
    for revision in two.ledger.retention.removable(-1):
        assert two.ledger.retention.removed(revision)  # the done one's
    answer = two.client().post("/api/relaunch", json={"core": "core", "dry_run": False}).json()
    assert (answer["relaunched"], answer["refused"]) == (1, 1)
    gone = next(s for s in answer["studies"] if s["study_instance_uid"] == UID)
    assert "no longer held" in gone["refused"]


def hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))


def test_many_are_listed_then_relaunched_by_page(two: Admin) -> None:
    http = two.client()
    assert 'href="/relaunch?state=failed"' in http.get("/?state=failed").text
    assert "List them" in http.get("/relaunch").text
    page = http.get("/relaunch?state=failed&from=poll&since=2020-01-01T00:00").text
    assert "1 study would be relaunched" in page
    assert "from poll to storescu, hl7" in page
    form = hidden(page)
    assert form["expected"] == "1"
    done = http.post("/relaunch", data={**form, "by": "Ada"})
    assert "1 study is relaunched" in done.text
    assert newest(two, OTHER)["from"] == "poll"
    assert last_event(two, OTHER)["by"] == "Ada"
    changed = http.post("/relaunch", data=form, headers=HTML)  # it is failed no longer
    assert (changed.status_code, "0 studies are meant by now" in changed.text) == (409, True)
    assert "more than 1 studies" in http.get("/relaunch?core=core&limit=1").text
    assert http.get("/relaunch?limit=x").status_code == 422
    assert http.get("/relaunch?state=cancelled").text.count("0 studies would be relaunched") == 1


# --- what the filters explained


@pytest.fixture
def filtered(admin: Admin) -> str:
    (run_id,) = admin.seed.receive(UID)
    run = admin.seed.claim(run_id, Step.FILTER)
    first, second = admin.ledger.runs.instances(run_id, [InstanceOutcome.PENDING])
    why = "rule 2: Modality (0008,0060) does not match '^<SR>$'"
    admin.ledger.runs.set_outcomes(
        run_id, [Decided(first.id, InstanceOutcome.FILTERED, why, 2, "(0008,0060)")]
    )
    admin.ledger.runs.set_outcomes(run_id, [(second.id, InstanceOutcome.UNREADABLE, "no header")])
    admin.ledger.runs.finish(run, RunState.FILTERED, "all")
    return run_id


def test_the_page_says_which_rule_left_an_instance_out(admin: Admin, filtered: str) -> None:
    http = admin.client()
    page = http.get(f"/studies/{UID}").text
    assert "rule 2: Modality (0008,0060) does not match &#39;^&lt;SR&gt;$&#39;" in page
    assert f'href="/studies/{UID}/runs/{filtered}"' in page
    instances = http.get(f"/studies/{UID}/runs/{filtered}?outcome=filtered").text
    assert f"{UID}.1</th>" in instances
    assert f"{UID}.2</th>" not in instances
    assert http.get(f"/studies/{OTHER}/runs/{filtered}").status_code == 404


def test_the_api_says_which_rule_left_an_instance_out(admin: Admin, filtered: str) -> None:
    http = admin.client()
    shown = http.get(f"/api/studies/{UID}").json()["runs"][0]["left_out"]
    assert {"outcome": "unreadable", "rule": None, "tag": None, "reason": "no header",
            "instances": 1} in shown  # fmt: skip
    page = http.get(f"/api/runs/{filtered}/instances?limit=1").json()
    (one,) = page["instances"]
    assert (one["sop_instance_uid"], one["rule"], one["tag"]) == (f"{UID}.1", 2, "(0008,0060)")
    rest = http.get(f"/api/runs/{filtered}/instances?after={page['next_after']}").json()
    assert [i["outcome"] for i in rest["instances"]] == ["unreadable"]
    assert http.get("/api/runs/nope/instances").status_code == 404

"""What the doors of a relaunch tell, and what they refuse: cores, unknown studies, misspellings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks import relaunching
from tests.support.admin import HTML, UID, Admin, new_admin, unpublished
from tests.support.ledger_seed import PACS, RIS

BOTH = ("core", "core1")


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def pair(admin: Admin) -> Admin:
    """Two cores; the study is done on the first, and waits for the second."""
    (target,) = admin.deps.ports.targets
    ports = replace(admin.deps.ports, targets=[replace(target, core=core) for core in BOTH])
    admin.seed.receive(UID, cores=BOTH[1:], destinations=(PACS, RIS))
    admin.seed.done(UID)
    deps = replace(
        admin.deps,
        ports=ports,
        relaunch=lambda uid, wish, core: relaunching.relaunch(uid, ports, wish, core, unpublished),
    )
    return replace(admin, deps=deps)


def runs_of(admin: Admin) -> list[dict[str, Any]]:
    detail = admin.ledger.studies.detail(UID)
    assert detail is not None
    return [run for run in detail["runs"] if run["relaunched"]]


def test_the_answer_says_on_which_core_it_is_not_relaunched(pair: Admin) -> None:
    answer = pair.client().post(f"/relaunch/{UID}?only=storescu")
    assert answer.status_code == 202
    assert [run["id"] for run in runs_of(pair)] == answer.json()["run_ids"]
    assert [run["core"] for run in runs_of(pair)] == ["core"]
    assert "under way" in answer.json()["refused_on"]["core1"]


def test_the_page_says_on_which_core_it_is_not_relaunched(pair: Admin) -> None:
    http = pair.client()
    answer = http.post(f"/studies/{UID}/relaunch", data={"only": "storescu"})
    assert answer.headers["location"] == f"/studies/{UID}?relaunched=1&not_on=core1"
    assert "Not on core1, where" in http.get(answer.headers["location"]).text
    made_up = http.get(f"/studies/{UID}?relaunched=1&not_on=call+0800").text
    assert "0800" not in made_up
    assert "Not on" not in made_up


def test_the_list_says_on_which_core_it_is_not_relaunched(pair: Admin) -> None:
    page = pair.client().get("/relaunch?since=2020-01-01T00:00&only=storescu").text
    assert "1 study would be relaunched" in page
    assert '<span class="core-name">core1</span> <span class="error-text">not: storescu' in page


# --- studies that nobody knows


@pytest.mark.parametrize("dry_run", [True, False])
def test_studies_that_were_never_received_are_told(admin: Admin, dry_run: bool) -> None:
    admin.seed.done(UID)
    wish = {"study_uids": ["1.2.3", UID, "1.2.3"], "dry_run": dry_run}
    answer = admin.client().post("/api/relaunch", json=wish).json()
    assert (answer["possible" if dry_run else "relaunched"], answer["refused"]) == (1, 1)
    known, unknown = answer["studies"]
    assert (known["study_instance_uid"], known["refused"]) == (UID, None)
    assert unknown["study_instance_uid"] == "1.2.3"
    assert unknown["received_at"] is None
    assert unknown["refused"] == "study 1.2.3: never received, or not meant"


# --- what is misspelt would be a relaunch of everything


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_in_the_address_that_is_none_is_refused(admin: Admin, method: str) -> None:
    admin.seed.done(UID)
    answer = admin.client().request(method, f"/relaunch/{UID}?form=deliver")
    assert (answer.status_code, answer.json()["detail"]) == (
        422, "form: there is no such name here",
    )  # fmt: skip
    assert runs_of(admin) == []


@pytest.mark.parametrize(
    ("address", "body"),
    [
        (f"/relaunch/{UID}", {"fromm": "deliver"}),
        ("/api/relaunch", {"study_uids": [UID], "dry_run": False, "fromm": "deliver"}),
    ],
)
def test_a_name_in_the_body_that_is_none_is_refused(
    admin: Admin, address: str, body: dict[str, Any]
) -> None:
    admin.seed.done(UID)
    answer = admin.client().post(address, json=body)
    assert (answer.status_code, "fromm: " in answer.json()["detail"]) == (422, True)
    assert runs_of(admin) == []


def test_what_is_said_in_the_address_is_not_ignored_where_the_body_counts(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    wish = {"study_uids": [UID], "dry_run": False}
    answer = http.post("/api/relaunch?from=deliver", json=wish)
    said = "from: to be said in the body, not in the address"
    assert (answer.status_code, answer.json()["detail"]) == (422, said)
    assert http.post(f"/studies/{UID}/relaunch?from=deliver").status_code == 422
    assert http.post("/relaunch?from=deliver", data={"limit": "1"}).status_code == 422
    assert runs_of(admin) == []


def test_names_that_are_none_are_refused_by_the_pages_too(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    link = http.get(f"/relaunch/{UID}?form=deliver", headers={"Sec-Fetch-Site": "none", **HTML})
    assert link.status_code == 422
    assert http.post(f"/studies/{UID}/relaunch", data={"form": "poll"}).status_code == 422
    assert http.get(f"/studies/{UID}/relaunch?form=poll", headers=HTML).status_code == 422
    assert http.get("/relaunch?stat=failed", headers=HTML).status_code == 422
    assert runs_of(admin) == []

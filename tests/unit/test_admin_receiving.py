"""What is being received, on the pages, in the API, the metrics and the live changes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pacsor_tasks.admin.changes import Changes
from tests.support.admin import HTML, UID, Admin, new_admin
from tests.support.spools import Site, open_site
from tests.unit.test_admin_changes import Events, next_of, until
from tests.unit.test_admin_pages import shape

OTHER = UID + ".1"


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def site(admin: Admin) -> Iterator[Site]:
    with open_site(admin.spool) as made:
        yield made


def text_of(html: str) -> str:
    """What a person reads, in one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_nothing_is_shown_when_nothing_is_received(admin: Admin) -> None:
    assert "Being received</h2>" not in admin.client().get("/").text
    assert admin.client().get("/api/receiving").json() == []


def test_the_list_shows_what_is_received_above_the_studies(admin: Admin, site: Site) -> None:
    admin.seed.done("1.2.3")
    site.receive(UID, 12)
    site.received(OTHER)
    page = admin.client().get("/").text
    found = shape(page)
    assert (found.open, found.inline) == ([], [])
    assert len(set(found.ids)) == len(found.ids)
    assert "Being received <b" in page
    assert page.index(f'/studies/{UID}"') < page.index("/studies/1.2.3")
    shown = text_of(page)
    assert "12 instances since" in shown
    assert "an association that sent instances is open at the latest" in shown
    assert "1 instance since" in shown
    assert "30 s without another instance due" in shown
    (row,) = (a for a in admin.client().get("/api/receiving").json() if a["instances"] == 12)
    assert (row["study_instance_uid"], row["state"]) == (UID, "receiving")


def test_the_section_follows_the_search_and_leaves_filtered_pages_alone(
    admin: Admin, site: Site
) -> None:
    admin.seed.done("1.2.3")
    site.received(UID)
    http = admin.client()
    assert f'/studies/{UID}"' in http.get(f"/?q={UID[:10]}").text
    for query in ("q=1.9", "state=done", "cursor=1750000009_1.2"):
        assert f'/studies/{UID}"' not in http.get(f"/?{query}").text


def test_many_are_counted_and_the_first_of_them_shown(admin: Admin, site: Site) -> None:
    for n in range(60):
        site.received(f"{UID}.{n}")
    page = admin.client().get("/").text
    assert "60</b>" in page
    assert page.count("Complete now") == 50
    assert "50 latest are shown" in page
    assert len(admin.client().get("/api/receiving").json()) == 60


def test_a_study_that_is_only_in_the_spool_has_a_page(admin: Admin, site: Site) -> None:
    site.received(UID, 2)
    http = admin.client()
    page = http.get(f"/studies/{UID}", headers=HTML)
    assert page.status_code == 200
    assert "data-arriving" in page.text
    assert shape(page.text).open == []
    assert "2 instances" in text_of(page.text)
    token = site.close(UID).token
    assert "waiting for a worker: pacsor.ingest" in http.get(f"/studies/{UID}").text
    site.spool.acknowledge(token)
    assert http.get(f"/studies/{UID}", headers=HTML).status_code == 404


def test_a_known_study_says_that_more_is_arriving(admin: Admin, site: Site) -> None:
    admin.seed.done(UID)
    http = admin.client()
    assert "More was received" not in http.get(f"/studies/{UID}").text
    site.received(UID, 3)
    page = http.get(f"/studies/{UID}").text
    assert "More was received" in page
    assert "data-arriving" not in page
    assert shape(page).open == []


def test_completing_asks_the_receiver_to_close_the_study(admin: Admin, site: Site) -> None:
    site.receive(UID)
    http = admin.client()
    assert f'action="/studies/{UID}/complete"' in http.get("/").text
    answer = http.post(f"/complete/{UID}")
    assert (answer.status_code, answer.json()) == (202, {"study_instance_uid": UID})
    assert (site.spool.root / "requests" / UID).exists()
    page = http.get(f"/studies/{UID}").text
    assert "requested: closing" in page
    assert "Complete now" not in page


def test_the_complete_button_works_without_javascript(admin: Admin, site: Site) -> None:
    site.received(UID)
    http = admin.client()
    answer = http.post(f"/studies/{UID}/complete")
    assert (answer.status_code, answer.headers["location"]) == (
        303, f"/studies/{UID}?completed=true",
    )  # fmt: skip
    assert "Complete: it is closed now" in http.get(answer.headers["location"]).text
    admin.seed.done(UID)
    assert "Complete: it is closed now" in http.get(answer.headers["location"]).text


@pytest.mark.parametrize("path", ["/complete/1.2.3", "/studies/1.2.3/complete", "/complete/DOE"])
def test_what_is_not_being_received_cannot_be_completed(admin: Admin, path: str) -> None:
    answer = admin.client().post(path)
    assert answer.status_code == 404
    assert list((admin.spool.root / "requests").iterdir()) == []


def test_completing_from_another_site_is_refused(admin: Admin, site: Site) -> None:
    site.received(UID)
    answer = admin.client().post(f"/complete/{UID}", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_what_is_received_is_counted(admin: Admin, site: Site) -> None:
    site.received(UID)
    site.received(OTHER)
    site.close(OTHER)
    said = admin.client().get("/metrics").text
    assert "\npacsor_studies_receiving 1.0\n" in said
    assert "\npacsor_outbox_revisions 1.0\n" in said


def test_open_pages_hear_of_arrivals(admin: Admin, site: Site) -> None:
    async def test() -> None:
        events = Events()
        made = Changes(events, admin.deps.receiving.by_study, poll_s=0.005)
        task = asyncio.create_task(made.run())
        site.received(OTHER)
        stream = made.listen(after=0)
        assert (await next_of(stream)).studies == (OTHER,)  # since the page was made
        waiting = asyncio.create_task(next_of(stream))
        reads = events.reads
        await until(lambda: events.reads > reads + 3)
        assert not waiting.done()
        site.received(UID)
        assert (await waiting).studies == (UID,)
        site.close(UID)
        assert UID in (await next_of(stream)).studies
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(test())

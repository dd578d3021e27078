"""The pages for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pacsor_tasks.admin.deps import Flower
from pacsor_tasks.ledger import Ledger
from pacsor_tasks.models import DeliveryState, Step
from tests.support.admin import HTML, TOKEN, UID, Admin, new_admin, report
from tests.support.ledger_seed import PACS, PACS_2, RIS


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    yield made
    made.ledger.close()


class _Shape(HTMLParser):
    """Ids, inline code and unclosed elements of a page."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.inline: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.inline += [n for n in given if n.startswith("on") or n == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def shape(text: str) -> _Shape:
    return _Shape(text)


def every_state(admin: Admin) -> None:
    seed = admin.seed
    seed.done(UID + ".1")
    seed.filter_out(seed.receive(UID + ".2")[0])
    (failed,) = seed.receive(UID + ".3")
    seed.fail(failed, Step.FILTER, "<script>alert(1)</script>" + "long " * 200)
    seed.receive(UID + ".4", cores=("core", "core1"))
    (held,) = seed.receive(UID + ".5")
    seed.bring_to(held, Step.UPLOAD)
    seed.claim(held, Step.UPLOAD)
    (polled,) = seed.receive(UID + ".6")
    seed.bring_to(polled, Step.POLL)
    seed.park(polled, Step.POLL, 5, "the prediction (running)", failed=False)
    (retried,) = seed.receive(UID + ".7", destinations=(PACS, PACS_2, RIS))
    seed.bring_to(retried, Step.DELIVER)
    seed.delivered(retried, "storescu")
    seed.retry(retried, "storescu-2", 60, "storescu-2: connection refused", 1)
    (stopped,) = seed.receive(UID + ".8", destinations=(PACS, PACS_2))
    seed.bring_to(stopped, Step.DELIVER)
    seed.delivered(stopped, "storescu")
    seed.end(stopped, "storescu-2", DeliveryState.QUARANTINED, "0xC000: cannot understand", 1)
    (cancelled,) = seed.receive(UID + ".9")
    admin.ledger.runs.cancel(cancelled, "by an operator")
    seed.receive(UID + ".10", n_instances=0)


def test_all_states_are_shown_in_valid_pages_without_inline_code(admin: Admin) -> None:
    every_state(admin)
    http = admin.client()
    pages = [http.get("/")] + [http.get(f"/studies/{UID}.{n}") for n in range(1, 11)]
    for page in pages:
        assert page.status_code == 200
        found = shape(page.text)
        assert found.open == []
        assert found.inline == []
        assert len(set(found.ids)) == len(found.ids)
        assert "<script>alert" not in page.text
    states = set(re.findall(r'class="badge tone-\w+">.*?</svg>(\w+)</span>', pages[0].text))
    assert states == {
        "done", "filtered", "failed", "queued", "uploading", "predicting", "delivering",
        "cancelled", "received",
    }  # fmt: skip


def test_the_list_says_why_each_study_waits_and_until_when(admin: Admin) -> None:
    every_state(admin)
    text = admin.client().get("/").text
    assert "the prediction (running)" in text
    assert "a worker is at it" in text
    assert re.search(r"storescu-2</span>\s*<span class=\"reason\">connection refused</span>", text)
    assert re.search(r'next try <time datetime="[^"]+Z" data-rel="due">', text)
    assert "0xC000: cannot understand" in text
    assert "storescu-2 <b>1/3</b>" in text


def test_the_list_is_filtered_searched_and_paged(admin: Admin) -> None:
    for n in range(53):
        admin.seed.receive(f"1.2.{n}")
    (run,) = admin.seed.receive("1.3.1")
    admin.seed.fail(run, Step.FILTER, "unreadable")
    http = admin.client()
    first = http.get("/").text
    assert first.count('<tr id="s-') == 50
    assert "all <b>54</b>" in first
    older = re.search(r'href="([^"]+)">Older', first)
    assert older is not None
    second = http.get(older[1].replace("&amp;", "&")).text
    assert second.count('<tr id="s-') == 4
    assert ">Newest</a>" in second
    failed = http.get("/?state=failed").text
    assert failed.count('<tr id="s-') == 1
    assert 'href="/?q=' not in failed
    assert http.get("/?q=1.3").text.count('<tr id="s-') == 1
    nothing = http.get("/?state=failed&q=1.2").text
    assert "No such study" in nothing
    assert "<b>failed</b>" in nothing


def test_an_empty_gateway_says_where_to_send_studies(admin: Admin) -> None:
    text = admin.client(receiver="MILVUE, port 1040").get("/").text
    assert "No study yet" in text
    assert "MILVUE, port 1040" in text


def test_what_is_down_is_said_in_the_header(admin: Admin) -> None:
    text = admin.client(health=report(redis="the queue is away")).get("/").text
    assert "<strong>down:</strong> the queue is away" in text


def test_a_ledger_that_is_away_is_an_error_page_that_retries(admin: Admin) -> None:
    away = Ledger("sqlite:////nowhere/at/all/ledger.sqlite3")
    http = admin.client(studies=away.studies, health=report(ledger="cannot be opened"))
    for path in ("/", f"/studies/{UID}"):
        answer = http.get(path, headers=HTML)
        assert answer.status_code == 503
        assert "data-retry" in answer.text
        assert "Nothing is lost" in answer.text
        assert shape(answer.text).open == []


@pytest.mark.parametrize(
    ("path", "status"), [("/studies/1.2.3", 404), ("/nowhere", 404), ("/?state=lost", 422)]
)
def test_errors_are_pages_for_browsers(admin: Admin, path: str, status: int) -> None:
    answer = admin.client().get(path, headers=HTML)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert f"{status}</p>" in answer.text


def test_the_relaunch_button_works_without_javascript(admin: Admin) -> None:
    admin.seed.done(UID)
    http = admin.client()
    answer = http.post(f"/studies/{UID}/relaunch")
    assert (answer.status_code, answer.headers["location"]) == (
        303, f"/studies/{UID}?relaunched=1",
    )  # fmt: skip
    text = http.get(answer.headers["location"]).text
    assert "Relaunched: 1 new run." in text
    assert text.count("<details") == 1  # the run before it


def test_a_study_whose_images_are_gone_offers_no_relaunch(admin: Admin) -> None:
    admin.seed.done(UID)
    admin.clock.now += 100
    (held,) = admin.ledger.retention.removable(older_than_s=10)
    admin.ledger.retention.removed(held)
    text = admin.client().get(f"/studies/{UID}").text
    assert '<button type="submit" disabled>' in text
    assert "no longer held" in text
    assert admin.client().post(f"/relaunch/{UID}").status_code == 404


@pytest.mark.parametrize(
    ("flower", "link"),
    [
        (None, False),
        (Flower(port=5555, is_loopback=False), True),
        (Flower(port=5555, is_loopback=True), False),  # the test client is not on this machine
    ],
)
def test_flower_is_linked_where_the_browser_can_reach_it(
    admin: Admin, flower: Flower | None, link: bool
) -> None:
    text = admin.client(flower=flower).get("/").text
    assert ('href="http://127.0.0.1:5555/"' in text) is link


def test_logging_out_is_offered_only_with_a_token(admin: Admin) -> None:
    assert "Log out" not in admin.client().get("/").text
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert "Log out" in admin.client(token=TOKEN).get("/", headers=headers).text


def test_the_login_page_leads_on_when_there_is_nothing_to_log_in_to(admin: Admin) -> None:
    assert admin.client().get("/login").headers["location"] == "/"
    assert admin.client().post("/login", data={"next": "/x"}).headers["location"] == "/x"
    assert admin.client().post("/logout").status_code == 303

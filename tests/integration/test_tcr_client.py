"""The client of the TechCare Report API against its simulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.core_api import Outcome, StudyState, UnknownStudy, UploadItem
from pacsor_tasks.errors import (
    BadResponse,
    NotReady,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
)
from pacsor_tasks.routes import Route
from pacsor_tasks.tcr.client import TcrAccess, TcrClient, TcrRoutes
from simulators.tcr import TcrSimulator
from tests.support.net import free_port
from tests.support.studies import make_study, study_uid_of
from tests.unit.test_tcr_reports import TEXT

UID = "1.2.840.99.1"
ROUTES = TcrRoutes(
    report=Route("/report?study_instance_uid={study_instance_uid}"),
    upload=Route("/studies?organizationId={organization_id}"),
    status=Route("/studies/{study_instance_uid}/status"),
    access=Route("/webpubsub/access?providers={providers}"),
)


def client_of(url: str, **more: str) -> TcrClient:
    given = {"token": "key", "organization_id": "site-7", **more}
    return TcrClient(TcrAccess(url=url, routes=ROUTES, **given), timeouts_s=(2, 2))


@pytest.fixture
def api() -> Iterator[TcrSimulator]:
    """A TechCare Report API that knows what it was given."""
    with TcrSimulator(token="key", pubsub_port=None, known_only=True) as server:
        yield server


@pytest.fixture
def client(api: TcrSimulator) -> Iterator[TcrClient]:
    """Its client."""
    made = client_of(api.url)
    yield made
    made.close()


def test_a_report_is_read_with_the_token_and_the_study_in_the_query(
    api: TcrSimulator, client: TcrClient
):
    api.reports[UID] = {"report": TEXT}
    found = client.report(UID)
    assert found is not None
    assert found.text("conclusion") == TEXT["conclusion"]
    (asked,) = api.journal.events("report")
    assert (asked["path"], asked["token"]) == ("/report", "key")
    assert asked["query"] == {"study_instance_uid": UID}


def test_the_token_can_be_a_bearer_token(api: TcrSimulator):
    api.reports[UID] = {"report": TEXT}
    bearer = client_of(api.url, header="Authorization")
    assert bearer.report(UID) is not None
    bearer.close()
    (asked,) = api.journal.events("report")
    assert asked["headers"]["authorization"] == "Bearer key"
    assert "x-goog-meta-owner" not in asked["headers"]


@pytest.mark.parametrize(
    ("switches", "raised", "says"),
    [
        ({"status": "running"}, NotReady, "running"),
        ({"fault": 404}, UnknownStudy, "HTTP 404"),
        ({"fault": 403}, Rejected, "check TOKEN"),
        ({"fault": 429, "retry_after": "3"}, RateLimited, "HTTP 429"),
        ({"fault": 503}, PeerUnavailable, "HTTP 503"),
        ({"reset": True}, PeerUnavailable, "report of"),
        ({"delay_s": 4}, PeerUnavailable, "no answer in time"),
        ({"other_study": True}, BadResponse, "another study"),
        ({"body": "<html>"}, BadResponse, "not JSON"),
        ({"body": "[]"}, BadResponse, "not a JSON object"),
        ({"body": '{"report": 7}'}, BadResponse, "`report` is no object"),
        ({"body": '{"report": {"title": 7}}'}, BadResponse, "`title` is neither"),
        ({"body": '{"StudyInstanceUID": ["1"], "report": {}}'}, BadResponse, "another study"),
        ({"body": '{"format": ["html"], "title": "a"}'}, BadResponse, "`format` is neither"),
        ({"body": '{"format": {}, "title": "a"}'}, BadResponse, "`format` is neither"),
        ({"body": '{"more": ' + "[" * 100_000}, BadResponse, "not JSON"),
    ],
)
def test_every_other_answer_has_its_error(
    api: TcrSimulator,
    client: TcrClient,
    switches: dict[str, Any],
    raised: type[PacsorError],
    says: str,
):
    api.reports[UID] = {"report": TEXT}
    api.switches.set(**switches)
    with pytest.raises(raised, match=says) as caught:
        client.report(UID)
    assert "key" not in str(caught.value).replace("check TOKEN", "")
    assert TEXT["conclusion"] not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        '{"status": "empty"}',
        '{"status": "error"}',
        '{"status": ["done"], "title": "a"}',
        "{}",
        '{"report": {"title": "  "}}',
        '{"format": "html", "report": {"title": "<img src=x>"}}',
    ],
)
def test_there_may_be_no_report_to_come(api: TcrSimulator, client: TcrClient, body: str):
    api.switches.set(body=body)
    assert client.report(UID) is None


@pytest.mark.parametrize("status", ["null", '""', '"DONE"'])
def test_a_report_without_a_status_is_one(api: TcrSimulator, client: TcrClient, status: str):
    api.switches.set(body=f'{{"status": {status}, "report": {{"title": "Hand"}}}}')
    found = client.report(UID)
    assert found is not None
    assert found.text("title") == "Hand"


@pytest.mark.parametrize("html", ["<![foo[ x", "<p>a</p><![x]]>", f"&#{'9' * 5000};"])
def test_html_that_is_none_is_a_report_all_the_same(
    api: TcrSimulator, client: TcrClient, html: str
):
    api.reports[UID] = {"format": "html", "report": {"title": html}}
    assert client.report(UID) is not None


def test_a_part_that_shows_nothing_is_not_passed_over_in_silence(
    api: TcrSimulator, client: TcrClient
):
    api.reports[UID] = {"format": "html", "report": {"title": "<img alt='X'>", "results": "a"}}
    with capture_logs() as said:
        assert client.report(UID) is not None
    (line,) = (entry for entry in said if entry["event"] == "report.unshown")
    assert (line["log_level"], line["parts"]) == ("warning", ["title"])
    assert "alt" not in str(line)


def test_an_api_that_is_away_is_told_from_one_that_refuses(client: TcrClient):
    away = client_of(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(PeerUnavailable):
        away.report(UID)
    away.close()
    client.check()
    stranger = client_of("http://127.0.0.1:1", token_setting="PROVIDER_TOKEN")
    stranger.close()


def test_the_settings_of_a_provider_are_named_in_its_errors(api: TcrSimulator):
    wrong = client_of(api.url, token="other", token_setting="PROVIDER_TOKEN")
    with pytest.raises(Rejected, match="check PROVIDER_TOKEN"):
        wrong.check()
    wrong.close()


def test_a_provider_sends_a_study_and_waits_for_its_report(
    api: TcrSimulator, client: TcrClient, tmp_path: Path
):
    files = make_study(tmp_path / "study", 3)
    uid = study_uid_of(files)
    with pytest.raises(UnknownStudy):
        client.status(uid)
    items = [UploadItem(path=file, sop_instance_uid=file.stem) for file in files]
    sent: list[UploadItem] = []
    client.upload(uid, items, sent.append)
    assert sent == items
    assert len(api.studies[uid]) == 3
    (received,) = api.journal.events("received")
    assert received["of"] == "site-7"
    api.switches.set(study_status="running", status="running")
    assert client.status(uid).state is StudyState.RUNNING
    with pytest.raises(NotReady):
        client.results(uid, "report", tmp_path / "results")
    api.switches.set(study_status="done", status="done")
    assert client.status(uid).state is StudyState.DONE
    found = client.results(uid, "report", tmp_path / "results")
    assert (found.outcome, found.paths, found.message) == (Outcome.EMPTY, [], "")


def test_an_upload_that_is_refused_names_the_path_to_look_at(
    api: TcrSimulator, client: TcrClient, tmp_path: Path
):
    (file,) = make_study(tmp_path / "study", 1)
    api.switches.set(fault=404)
    with pytest.raises(Rejected, match="TCR_UPLOAD_PATH"):
        client.upload(UID, [UploadItem(path=file, sop_instance_uid="1")], lambda _: None)


def test_access_is_a_web_socket_url():
    with TcrSimulator(token="key") as server:
        asking = client_of(server.url)
        assert server.pubsub is not None
        url = asking.access_url(["radio-a", "radio-b"])
        assert url.startswith(f"ws://127.0.0.1:{server.pubsub.port}/client/hubs/")
        (asked,) = server.journal.events("access")
        assert asked["query"] == {"providers": "radio-a,radio-b"}
        asking.close()


def test_access_without_web_pubsub_names_the_path_to_look_at(client: TcrClient):
    with pytest.raises(Rejected, match="WEBPS_ACCESS_PATH"):
        client.access_url(["radio-a"])

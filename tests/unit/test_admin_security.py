"""Token, session cookie, login, and requests forged by other sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.requests import Request

from pacsor_tasks.admin import security
from pacsor_tasks.admin.security import SESSION_S, Sessions, is_this_machine, local_path
from tests.support.admin import HTML, TOKEN, UID, Admin, TestClient, new_admin

PROTECTED = ["/", f"/studies/{UID}", "/api/studies", f"/api/studies/{UID}", "/api/stream",
             "/metrics", "/config/", "/api/openapi.json", "/nowhere"]  # fmt: skip


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = new_admin(tmp_path)
    made.seed.done(UID)
    yield made
    made.ledger.close()


@pytest.fixture
def http(admin: Admin) -> TestClient:
    return admin.client(token=TOKEN, refusal_delay_s=0.0)


@pytest.mark.parametrize("path", PROTECTED)
def test_everything_asks_for_the_token(http: TestClient, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/login", "/static/admin.css"])
def test_what_needs_no_token(http: TestClient, path: str) -> None:
    assert http.get(path).status_code == 200


def test_nothing_is_relaunched_without_the_token(http: TestClient, admin: Admin) -> None:
    assert http.post(f"/relaunch/{UID}").status_code == 401
    assert http.post(f"/studies/{UID}/relaunch").status_code == 401
    detail = admin.ledger.studies.detail(UID)
    assert detail is not None
    assert len(detail["runs"]) == 1


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
def test_the_bearer_token_is_compared_whole(http: TestClient, header: str, status: int) -> None:
    answer = http.get("/api/studies", headers={"Authorization": header})
    assert answer.status_code == status


def test_a_browser_is_led_to_the_login_page_and_back(http: TestClient) -> None:
    away = http.get(f"/studies/{UID}", headers=HTML)
    assert (away.status_code, away.headers["location"]) == (303, f"/login?next=/studies/{UID}")
    form = http.get(away.headers["location"])
    assert f'value="/studies/{UID}"' in form.text
    back = http.post("/login", data={"token": TOKEN, "next": f"/studies/{UID}"})
    assert (back.status_code, back.headers["location"]) == (303, f"/studies/{UID}")
    cookie = back.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert http.get(f"/studies/{UID}", headers=HTML).status_code == 200
    assert http.get("/api/studies").status_code == 200


def test_the_cookie_is_secure_behind_tls(admin: Admin) -> None:
    with admin.client(token=TOKEN) as http:
        answer = http.post("https://127.0.0.1:7000/login", data={"token": TOKEN})
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_wrong_token_gets_the_form_again_and_no_cookie(http: TestClient) -> None:
    answer = http.post("/login", data={"token": "guess", "next": "/studies/1.2"})
    assert answer.status_code == 401
    assert "That is not the token" in answer.text
    assert "set-cookie" not in answer.headers
    assert "guess" not in answer.text


def test_logging_out_forgets_the_session(http: TestClient) -> None:
    http.post("/login", data={"token": TOKEN})
    assert http.post("/logout").headers["location"] == "/login"
    assert http.get("/api/studies").status_code == 401


@pytest.mark.parametrize("value", ["", ".", "0.0", "1750000000.", "x.y", "9" * 400 + ".é"])
def test_a_made_up_cookie_is_refused(http: TestClient, value: str) -> None:
    header = f"{Sessions(TOKEN).cookie}={value}".encode()
    assert http.get("/api/studies", headers=[(b"Cookie", header)]).status_code == 401


def test_a_session_ends_by_age_and_with_the_token() -> None:
    now = [1_750_000_000.0]
    sessions = Sessions(TOKEN, clock=lambda: now[0])
    cookie = sessions.new()
    assert sessions.is_valid(cookie)
    assert not Sessions("another", clock=lambda: now[0]).is_valid(cookie)
    now[0] += SESSION_S + 1
    assert not sessions.is_valid(cookie)


def test_gateways_with_different_tokens_have_different_cookies() -> None:
    assert Sessions("one").cookie != Sessions("two").cookie


@pytest.mark.parametrize("is_by_get", [False, True])
def test_a_link_to_pacsors_route_leads_through_the_login_to_the_question(
    admin: Admin, is_by_get: bool
) -> None:
    http = admin.client(token=TOKEN, allow_get_relaunch=is_by_get)
    away = http.get(f"/relaunch/{UID}?from=download&only=storescu", headers=HTML)
    form = f"/studies/{UID}/relaunch?from=download&only=storescu"
    assert away.status_code == 303
    assert away.headers["location"] == f"/login?next={quote(form, safe='/')}"
    login = http.get(away.headers["location"], headers=HTML)
    assert f'value="{form.replace("&", "&amp;")}"' in login.text
    back = http.post("/login", data={"token": TOKEN, "next": form})
    assert back.headers["location"] == form
    page = http.get(form, headers=HTML)
    assert (page.status_code, "Relaunch this study?" in page.text) == (200, True)
    assert len(http.get(f"/api/studies/{UID}").json()["runs"]) == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_link_on_another_site_only_asks(admin: Admin, site: str) -> None:
    http = admin.client(allow_get_relaunch=True)
    headers = {**HTML, "Sec-Fetch-Site": site}
    answer = http.get(f"/relaunch/{UID}", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{UID}/relaunch")
    assert http.post(f"/relaunch/{UID}", headers=headers).status_code == 403


def test_a_program_without_a_token_gets_no_login_page(http: TestClient) -> None:
    assert http.get(f"/relaunch/{UID}").status_code == 401
    wrong = {**HTML, "Authorization": "Bearer wrong"}
    assert http.get(f"/relaunch/{UID}", headers=wrong).status_code == 401
    assert http.post(f"/relaunch/{UID}", headers=HTML).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),  # curl and scripts name no site
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of the same host
        ({"Origin": "http://127.0.0.1:7000"}, 202),
        ({"Origin": "http://127.0.0.1:8000"}, 403),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_another_site_cannot_relaunch(admin: Admin, headers: dict[str, str], status: int) -> None:
    http = admin.client(allow_get_relaunch=True)
    assert http.post(f"/relaunch/{UID}", headers=headers).status_code == status
    assert http.get(f"/relaunch/{UID}", headers=headers).status_code == status


def test_the_session_cookie_does_not_help_another_site(http: TestClient) -> None:
    http.post("/login", data={"token": TOKEN})
    headers = {"Origin": "https://attacker.example"}
    assert http.post(f"/relaunch/{UID}", headers=headers).status_code == 403
    headers["Authorization"] = f"Bearer {TOKEN}"
    assert http.post(f"/relaunch/{UID}", headers=headers).status_code == 202


def test_without_a_token_a_name_rebound_to_this_machine_is_refused(admin: Admin) -> None:
    http = admin.client()
    assert http.get("/api/studies", headers={"Host": "attacker.example"}).status_code == 403
    assert http.get("/healthz", headers={"Host": "attacker.example"}).status_code == 200
    with_token = admin.client(token=TOKEN)
    headers = {"Host": "gateway.hospital", "Authorization": f"Bearer {TOKEN}"}
    assert with_token.get("/api/studies", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("localhost:7000", True),
        ("127.0.0.1:7000", True),
        ("127.8.8.8", True),
        ("[::1]:7000", True),
        ("127.0.0.1.attacker.example", False),
        ("10.0.0.4:7000", False),
        ("", False),
        ("[", False),
    ],
)
def test_names_of_this_machine(host: str, is_here: bool) -> None:
    assert is_this_machine(host) is is_here


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/studies/1.2", "/studies/1.2"),
        ("//attacker.example", "/"),
        ("/\\attacker.example", "/"),
        ("https://attacker.example", "/"),
        ("", "/"),
        ("/a\nSet-Cookie: x=1", "/"),
    ],
)
def test_login_leads_to_this_site_only(target: str, path: str) -> None:
    assert local_path(target) == path


@pytest.mark.parametrize(
    ("path", "accept", "is_page"),
    [
        ("/", "text/html", True),
        ("/studies/1.2", "text/html,*/*", True),
        ("/", "*/*", False),
        ("/api/studies", "text/html", False),
        ("/relaunch/1.2", "text/html", False),
    ],
)
def test_who_gets_a_page(path: str, accept: str, is_page: bool) -> None:
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": b"",
        "headers": [(b"accept", accept.encode()), (b"host", b"localhost")],
    }  # fmt: skip
    assert security.wants_page(Request(scope)) is is_page

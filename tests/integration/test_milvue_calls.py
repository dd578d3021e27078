"""The small calls, and what the client never does: leak, follow, hang.

Source: contract §1.1, §1.6.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import structlog

from pacsor_tasks.errors import (
    BadResponse,
    ConfigError,
    NotReady,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
)
from pacsor_tasks.milvue.client import (
    CommandForbidden,
    Detections,
    Measures,
    MilvueClient,
    StudyState,
    UnknownStudy,
    UploadItem,
)
from tests.support.http_script import Reply, answering
from tests.support.net import free_port, wait_until
from tests.support.peers import require_program

STUDY, TOKEN = "1.2.826.0.1.1", "8f14e45f-ceea-467f-a8cb-7b3a3c8b0d11"
DONE = b'{"StudyInstanceUID": "1.2.826.0.1.1", "status": "done", "version": "2", "instances": []'


def client_of(url: str, **how: float) -> MilvueClient:
    return MilvueClient(url, TOKEN, signed_url=False, **how)  # type: ignore[arg-type]


def test_status_reads_state_version_and_message() -> None:
    body = (
        b'{"StudyInstanceUID": "1.2.826.0.1.1", "status": "error", "version": "2", "message": "m"}'
    )
    with answering(Reply(body=body)) as server, client_of(server.url) as client:
        found = client.status(STUDY)
    assert (found.state, found.version, found.message) == (StudyState.ERROR, "2", "m")
    (call,) = server.calls
    assert (call.method, call.path) == ("GET", f"/v3/studies/{STUDY}/status")
    assert call.headers["x-goog-meta-owner"] == TOKEN
    assert "Authorization" not in call.headers


def test_polling_keeps_one_connection_over_answers_of_every_kind() -> None:
    replies = [
        Reply(body=b'{"status": "running"}'),
        Reply(status=404, body=b'{"message": "unknown"}'),
        Reply(body=b'{"status": "paused"}'),
        Reply(status=503, body=b"<html>" * 100, chunked=50),
        Reply(body=b'{"status": "done"}'),
    ]
    with answering(*replies) as server, client_of(server.url) as client:
        for _ in replies[:-1]:
            with suppress(UnknownStudy, BadResponse, PeerUnavailable):
                client.status(STUDY)
        assert client.status(STUDY).state is StudyState.DONE
    assert server.n_connections == 1


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    body = b'{"status": "running"}'
    closing = Reply(
        raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    with answering(closing, Reply(body=body)) as server, client_of(server.url) as client:
        client.status(STUDY)
        wait_until(lambda: server.n_closed == 1)
        client.status(STUDY)
    assert server.n_connections == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b'{"status": "paused"}'), BadResponse),
        (Reply(body=b'{"status": "done", "StudyInstanceUID": "9.9"}'), BadResponse),
        (Reply(body=b"no json"), BadResponse),
        (Reply(status=404, body=b'{"message": "unknown"}'), UnknownStudy),
        (Reply(status=403), Rejected),
        (Reply(status=429), RateLimited),
        (Reply(status=502, body=b"<html>"), PeerUnavailable),
        (Reply(raw=b""), PeerUnavailable),
        (Reply(body=b"{}", announced=99), PeerUnavailable),
        (Reply(body=b"x", headers={"Content-Encoding": "gzip"}), BadResponse),
        (Reply(status=301, headers={"Location": "http://127.0.0.1:1/"}), BadResponse),
    ],
)
def test_a_status_that_is_none_raises(reply: Reply, error: type[PacsorError]) -> None:
    with (
        answering(reply) as server,
        client_of(server.url) as client,
        pytest.raises(error) as caught,
    ):
        client.status(STUDY)
    assert STUDY in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_token_in_an_answer_is_not_repeated() -> None:
    body = f'{{"message": "key {TOKEN} is unknown"}}'.encode()
    with (
        answering(Reply(status=403, body=body)) as server,
        client_of(server.url) as client,
        pytest.raises(Rejected, match=r"key \*\*\* is unknown.*check TOKEN"),
    ):
        client.status(STUDY)


@pytest.mark.parametrize(
    ("command", "language", "query", "shape"),
    [
        ("smarturgences", "fr", {"language": "fr"}, Detections),
        ("detection", None, {}, Detections),
        ("trauma", "en", {"language": "en"}, Detections),
        ("smartchest", "en", {"language": "en"}, Detections),
        ("smartxpert", "fr", {}, Measures),
        ("measures", "fr", {}, Measures),
        ("of-tomorrow", "fr", {"language": "fr"}, Detections),
    ],
)
def test_findings_are_asked_by_command_with_a_language_where_there_are_words(
    command: str, language: str | None, query: dict[str, str], shape: type
) -> None:
    with answering(Reply(body=DONE + b"}")) as server, client_of(server.url) as client:
        assert type(client.findings(STUDY, command, language)) is shape
    (call,) = server.calls
    assert (call.path, call.query) == (f"/v3/{command}/{STUDY}", query)


def test_an_unknown_command_is_read_by_what_it_carries() -> None:
    body = (
        b'{"status": "done", "instances": [{"SOPInstanceUID": "1", "measures": [{"unit": "mm"}]}]}'
    )
    with answering(Reply(body=body)) as server, client_of(server.url) as client:
        found = client.findings(STUDY, "of-tomorrow")
    assert isinstance(found, Measures)
    assert found.instances[0].measures[0].unit == "mm"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b'{"status": "running"}'), NotReady),
        (Reply(body=b'{"status": "forbidden", "message": "licence"}'), CommandForbidden),
        (Reply(status=404, body=b'{"message": "unknown"}'), UnknownStudy),
        (Reply(body=b'{"status": "paused"}'), BadResponse),
        (Reply(body=b'{"status": "done", "StudyInstanceUID": "9.9"}'), BadResponse),
        (Reply(body=DONE + b', "findings": 3}'), BadResponse),
        (Reply(body=b"[]"), BadResponse),
    ],
)
def test_findings_that_are_none_raise(reply: Reply, error: type[PacsorError]) -> None:
    with answering(reply) as server, client_of(server.url) as client, pytest.raises(error):
        client.findings(STUDY, "smarturgences", "en")


def test_a_study_is_flagged_by_its_uid_in_the_path() -> None:
    with answering(Reply(body=b'{"anything": 1}')) as server, client_of(server.url) as client:
        client.mark_interesting(STUDY)
        client.mark_interesting(STUDY)
    assert {(c.method, c.path) for c in server.calls} == {("POST", f"/v3/interesting/{STUDY}")}
    assert server.n_connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=404, body=b'{"message": "no such study"}'),
        Reply(body=b'{"status": "running"}'),
    ],
)
def test_check_is_satisfied_by_an_api_that_does_not_know_the_study(reply: Reply) -> None:
    with answering(reply) as server, client_of(server.url) as client:
        client.check()
    assert server.calls[0].path.startswith("/v3/studies/2.25.")


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(status=403, body=b'{"message": "bad"}'), Rejected, "check TOKEN"),
        (Reply(status=404, body=b'{"detail": "Not Found"}'), BadResponse, "check API_URL"),
        (Reply(status=404, body=b"<html>", content_type="text/html"), BadResponse, "check API_URL"),
        (Reply(body=b"<html>", content_type="text/html"), BadResponse, "not JSON"),
        (Reply(body=b"[" * 200_000), BadResponse, "not JSON"),
        (Reply(status=301, headers={"Location": "/x"}), BadResponse, "check API_URL"),
        (Reply(status=503), PeerUnavailable, "503"),
    ],
)
def test_check_says_what_is_wrong(reply: Reply, error: type[PacsorError], said: str) -> None:
    with (
        answering(reply) as server,
        client_of(server.url) as client,
        pytest.raises(error, match=said),
    ):
        client.check()


def test_nothing_listening_is_a_peer_unavailable_that_says_so() -> None:
    with (
        client_of(f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(PeerUnavailable, match="Connection refused"),
    ):
        client.check()


def test_a_server_that_never_answers_is_given_up() -> None:
    release = threading.Event()
    reply = Reply(body=b"{}", before=lambda: release.wait(20))
    with answering(reply) as server, client_of(server.url, read_timeout_s=0.2) as client:
        with pytest.raises(PeerUnavailable, match="no answer in time"):
            client.status(STUDY)
        release.set()


def test_a_server_that_stops_reading_is_given_up_after_the_read_time_out(tmp_path: Path) -> None:
    """Not after the connect time-out, which urllib3 would use while it sends."""
    path = tmp_path / "large.dcm"
    with path.open("wb") as file:
        file.truncate(60_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            client_of(url, connect_timeout_s=30, read_timeout_s=0.3) as client,
            pytest.raises(PeerUnavailable, match="no answer in time"),
        ):
            client.upload(STUDY, [UploadItem(path, "1.2.3")], lambda _: None)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    openssl, directory = require_program("openssl"), tmp_path_factory.mktemp("tls")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return certificate, key


def test_a_tls_server_nobody_vouches_for_is_refused(tls: tuple[Path, Path]) -> None:
    with answering(Reply(), tls=tls) as server:
        assert server.url.startswith("https://")
        with (
            client_of(server.url) as client,
            pytest.raises(PeerUnavailable, match="TLS certificate not accepted: self-signed"),
        ):
            client.check()
    assert not server.calls, "no request, so no token, went out"


def test_a_site_can_name_its_own_certificate_authority(
    tls: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls[0]))
    with (
        answering(Reply(body=b'{"status": "running"}'), tls=tls) as server,
        client_of(server.url) as client,
    ):
        assert client.status(STUDY).state is StudyState.RUNNING


def test_a_site_can_name_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(Reply(body=b'{"status": "running"}')) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with client_of("http://predict.example") as client:
            assert client.status(STUDY).state is StudyState.RUNNING
    assert proxy.calls[0].headers["Host"] == "predict.example"


def test_a_server_without_tls_behind_an_https_address_is_unavailable() -> None:
    with answering(Reply()) as server:
        url = server.url.replace("http://", "https://")
        with client_of(url) as client, pytest.raises(PeerUnavailable):
            client.check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "predict.milvue.com",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h/?x=1",
        "http://[x",
    ],
)
def test_an_api_url_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="API_URL"):
        client_of(url)


@pytest.mark.parametrize("token", ["", " x", "x\n", "clé", "a\x00b"])
def test_a_token_that_fits_no_header_is_a_config_error_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigError, match="TOKEN") as caught:
        MilvueClient("http://h", token, signed_url=False)
    assert not token or token not in str(caught.value)


def test_a_base_path_is_kept_and_uids_cannot_leave_their_place() -> None:
    reply = Reply(body=b'{"status": "running"}')
    with answering(reply) as server, client_of(f"{server.url}/milvue/") as client:
        client.status("1.2/../x?y=1#z")
    assert server.calls[0].path == "/milvue/v3/studies/1.2%2F..%2Fx%3Fy%3D1%23z/status"


def test_a_signed_url_without_tls_is_refused_when_the_api_has_it(tmp_path: Path) -> None:
    with client_of("https://predict.example") as client, pytest.raises(BadResponse, match="https"):
        client._transport.check_signed("http://storage.example/x", "call")


def test_netrc_adds_no_authorization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with answering(Reply(body=b'{"status": "running"}')) as server:
        requests.get(server.url, timeout=5)
        with client_of(server.url) as client:
            client.status(STUDY)
    assert ["Authorization" in call.headers for call in server.calls] == [True, False]


def test_nothing_logged_holds_a_signature_or_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    urls = '["http://127.0.0.1:1/x?sig=SECRET"]'
    reply = Reply(body=DONE + f', "signed_urls": {urls}}}'.encode())
    with (
        answering(reply) as server,
        structlog.testing.capture_logs() as logs,
        MilvueClient(server.url, TOKEN, signed_url=True) as client,
        pytest.raises(PeerUnavailable) as caught,
    ):
        client.results(STUDY, "smarturgences", tmp_path)
    told = caplog.text + repr(logs) + "".join(traceback.format_exception(caught.value))
    assert "SECRET" not in told
    assert TOKEN not in told

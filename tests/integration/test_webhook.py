"""Events by HTTP POST: what is sent, how it is signed, what each answer means."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks.errors import BadResponse, PeerUnavailable, RateLimited, Rejected
from pacsor_tasks.http_out import Endpoint, exchange, session
from pacsor_tasks.tls import Tls
from pacsor_tasks.webhook import RESULTS, Webhook, encoded, post, probe
from tests.support.certificates import Authority
from tests.support.http_script import Reply, ScriptedServer, answering
from tests.support.net import free_port

BODY = encoded({"event": RESULTS, "id": "r:webhook", "note": "é"})


def hook(url: str, secret: bytes | None = None, **endpoint: Any) -> Webhook:
    settings = {"name": "webhook", "connect_timeout_s": 5, "timeout_s": 5, "setting": "WEBHOOK"}
    return Webhook(endpoint=Endpoint(**{**settings, "url": url, **endpoint}), secret=secret)


def is_genuine(headers: Any, body: bytes, secret: bytes, now: int) -> bool:
    """As docs/destinations.md tells receivers to check a signature."""
    parts = dict(part.split("=", 1) for part in headers["X-Pacsor-Signature"].split(","))
    expected = hmac.new(secret, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["v1"]) and abs(now - int(parts["t"])) <= 300


def test_an_event_is_posted_as_it_is_with_its_names_in_headers():
    with answering(Reply(status=204)) as server:
        to = hook(f"{server.url}/hooks/ai?site=3", authorization="Bearer k")
        assert post(to, RESULTS, "r:webhook", BODY) == 204
        (call,) = server.calls
    assert (call.method, call.path, call.query) == ("POST", "/hooks/ai", {"site": "3"})
    assert call.body == BODY
    assert json.loads(call.body)["note"] == "é"
    assert call.headers["Content-Type"] == "application/json"
    assert call.headers["X-Pacsor-Event"] == "results.ready"
    assert call.headers["X-Pacsor-Delivery"] == "r:webhook"
    assert call.headers["Authorization"] == "Bearer k"
    assert call.headers["User-Agent"].startswith("pacsor-tasks/")
    assert "X-Pacsor-Signature" not in call.headers


def test_a_signature_tells_a_genuine_event_from_a_changed_or_an_old_one():
    secret = b"a secret of 16 bytes or more"
    with answering(Reply()) as server:
        post(hook(server.url, secret), RESULTS, "1", BODY, clock=lambda: 1_780_000_000.9)
        (call,) = server.calls
    now = 1_780_000_000
    assert is_genuine(call.headers, call.body, secret, now)
    assert not is_genuine(call.headers, call.body + b" ", secret, now)
    assert not is_genuine(call.headers, call.body, b"another secret of theirs", now)
    assert not is_genuine(call.headers, call.body, secret, now + 3600)


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply(status=302, headers={"Location": "/x"}), BadResponse, "check WEBHOOK_URL"),
        (Reply(status=400, body=b'{"message": "no such field"}'), Rejected, "no such field"),
        (Reply(status=401), Rejected, "check the credentials of WEBHOOK_URL"),
        (Reply(status=404), Rejected, "nothing to post to; check WEBHOOK_URL"),
        (Reply(status=410), Rejected, "nothing to post to"),
        (Reply(status=408), PeerUnavailable, "HTTP 408"),
        (Reply(status=429, headers={"Retry-After": "7"}), RateLimited, "HTTP 429"),
        (Reply(status=500), PeerUnavailable, "HTTP 500"),
        (Reply(status=503), PeerUnavailable, "HTTP 503"),
        (Reply(raw=b"", reset=True), PeerUnavailable, "webhook"),
    ],
)
def test_an_answer_that_is_no_success_is_retried_or_quarantined(
    reply: Reply, error: type[Exception], says: str
):
    with answering(reply) as server:
        with pytest.raises(error, match=says):
            post(hook(server.url), RESULTS, "1", BODY)
        assert len(server.calls) == 1


def test_a_plain_callback_s_errors_name_its_setting():
    with answering(Reply(status=404)) as server, pytest.raises(Rejected, match="CALLBACK_URLS"):
        post(hook(server.url, setting=""), RESULTS, "1", BODY)


def test_a_huge_answer_is_not_read_to_its_end():
    def blocks() -> Any:
        while True:
            yield b"x" * 65536

    endless = Reply(stream=blocks, announced=1 << 40)
    with answering(endless) as server:
        assert post(hook(server.url), RESULTS, "1", BODY) == 200


def trickle(piece: bytes) -> Any:
    """This for ever, faster than any time limit for a block."""

    def blocks() -> Any:
        while True:
            yield piece
            time.sleep(0.02)

    return blocks


TRICKLES = {
    "status line": Reply(raw=b"HTTP/1.1 2", stream=trickle(b"0")),
    "headers": Reply(raw=b"HTTP/1.1 200 OK\r\n", stream=trickle(b"x")),
    "interim answers": Reply(raw=b"", stream=trickle(b"HTTP/1.1 100 Continue\r\n\r\n")),
    "body": Reply(stream=trickle(b"x"), announced=1 << 20),
    "body of no length": Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n", stream=trickle(b"x")),
    "chunks": Reply(stream=trickle(b"1\r\nx\r\n"), chunked=1),
    "one chunk's head": Reply(stream=trickle(b"0"), chunked=1),
}


@pytest.mark.parametrize("reply", TRICKLES.values(), ids=TRICKLES.keys())
def test_an_answer_that_trickles_ends_by_the_time_limit(reply: Reply):
    with answering(reply) as server, pytest.raises(PeerUnavailable, match="no answer in time"):
        post(hook(server.url, timeout_s=0.5), RESULTS, "1", BODY)


def test_over_tls_it_ends_as_well(tmp_path: Path):
    authority = Authority(tmp_path / "ca")
    mine = authority.issue("localhost")
    with (
        answering(TRICKLES["body"], tls=(mine.certificate, mine.key)) as server,
        pytest.raises(PeerUnavailable, match="no answer in time"),
    ):
        post(hook(server.url, timeout_s=0.5, tls=Tls(ca=authority.certificate)), RESULTS, "1", BODY)


def test_each_answer_on_a_kept_connection_has_its_own_time():
    """Three answers that take less than half of it: all of them would be too late."""
    slow = Reply(body=b"{}", before=lambda: time.sleep(0.8))
    with answering(slow) as server:
        to = hook(server.url, timeout_s=2).endpoint
        with session(to) as opened:
            found = [exchange(opened, to, "GET", server.url).body for _ in range(3)]
        assert server.n_connections == 1
    assert found == [b"{}"] * 3


def test_its_certificate_is_checked(tmp_path: Path):
    authority = Authority(tmp_path / "ca")
    certified, mine = authority.issue("localhost"), authority.issue("gateway")
    with ScriptedServer(lambda _: Reply(), tls=(certified.certificate, certified.key)) as server:
        ours = Tls(ca=authority.certificate, cert=mine.certificate, key=mine.key)
        assert post(hook(server.url, tls=ours), RESULTS, "1", BODY) == 200
        with pytest.raises(PeerUnavailable, match="certificate"):
            post(hook(server.url), RESULTS, "1", BODY)


def test_a_probe_asks_for_nothing_and_takes_any_answer_but_a_failure():
    for status in (200, 404, 405, 501):
        with answering(Reply(status=status)) as server:
            probe(hook(server.url))
    with answering(Reply(status=502)) as server, pytest.raises(PeerUnavailable):
        probe(hook(server.url))
    with pytest.raises(PeerUnavailable, match="refused"):
        probe(hook(f"http://127.0.0.1:{free_port()}"))

"""STOW-RS against Orthanc and against a server that answers as it is told."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsor_tasks.dicom.scu import StoreItem
from pacsor_tasks.dicomweb.stow import probe, store
from pacsor_tasks.errors import BadResponse, PeerUnavailable, RateLimited, Rejected, Retryable
from pacsor_tasks.http_out import basic, bearer
from pacsor_tasks.tls import Tls
from tests.support.certificates import Authority
from tests.support.dicomweb_peers import (
    orthanc_dicomweb,
    parts_of,
    server_at,
    stored,
)
from tests.support.http_script import Call, Reply, ScriptedServer, answering
from tests.support.net import free_port
from tests.support.pacs_peers import Answers, item_of
from tests.support.studies import make_study, study_uid_of


def items_in(tmp_path: Path, n: int, **options: Any) -> list[StoreItem]:
    files = make_study(tmp_path / "study", n, side=options.pop("side", 8), **options)
    return [item_of(file, key) for key, file in enumerate(files)]


def taking() -> Callable[[Call], Reply]:
    """Stores everything it gets."""

    def script(call: Call) -> Reply:
        return stored(dict.fromkeys(uids(call)))

    return script


def uids(call: Call) -> list[str]:
    return [str(dcmread(BytesIO(part)).SOPInstanceUID) for part in parts_of(call)]


# --- Orthanc


def test_orthanc_has_what_was_sent_byte_by_byte(tmp_path: Path):
    files = make_study(tmp_path / "study", 5, side=32)
    items, answers = [item_of(f, i) for i, f in enumerate(files)], Answers()
    with orthanc_dicomweb(tmp_path / "orthanc") as peer:
        store(server_at(peer.url, batch=2), items, answers)
        found = peer.instances(study_uid_of(files))
        (series,) = {str(dcmread(f).SeriesInstanceUID) for f in files}
        first = peer.client.retrieve_instance(
            study_uid_of(files), series, items[0].sop_instance_uid
        )
    assert answers.statuses == [0] * 5
    assert found == {item.sop_instance_uid for item in items}
    assert first.PixelData == dcmread(files[0]).PixelData


def test_orthanc_takes_the_same_instances_twice(tmp_path: Path):
    items = items_in(tmp_path, 2)
    with orthanc_dicomweb(tmp_path / "orthanc") as peer:
        for _ in range(2):
            answers = Answers()
            store(server_at(peer.url), items, answers)
            assert answers.statuses == [0, 0]


def test_orthanc_says_which_file_is_none(tmp_path: Path):
    items = items_in(tmp_path, 3)
    items[1].path.write_bytes(b"\0" * 128 + b"DICM nothing of the kind")
    answers = Answers()
    with orthanc_dicomweb(tmp_path / "orthanc") as peer:
        with pytest.raises((Rejected, PeerUnavailable)):
            store(server_at(peer.url), items, answers)
        found = peer.client.search_for_instances()
    good = {items[0].sop_instance_uid, items[2].sop_instance_uid}
    assert {item["00080018"]["Value"][0] for item in found} == good
    assert {item.key: status == 0 for item, status, _ in answers.given} == {
        0: True, 1: False, 2: True,
    }  # fmt: skip


def test_orthanc_lets_in_who_has_the_password(tmp_path: Path):
    items = items_in(tmp_path, 1)
    accounts = {"AuthenticationEnabled": True, "RegisteredUsers": {"gate": "pässword"}}
    with orthanc_dicomweb(tmp_path / "orthanc", **accounts) as peer:
        right = server_at(peer.url, authorization=basic("gate", "pässword"))
        probe(right)
        answers = Answers()
        store(right, items, answers)
        assert answers.statuses == [0]
        wrong = server_at(peer.url, authorization=basic("gate", "guess"))
        with pytest.raises(Rejected, match="check the credentials of STOW_URL"):
            probe(wrong)
        with pytest.raises(Rejected, match="HTTP 401"):
            store(wrong, items, Answers())


# --- requests and answers


def test_a_request_is_multipart_related_with_the_files_as_they_are(tmp_path: Path):
    items = items_in(tmp_path, 3)
    with ScriptedServer(taking()) as server:
        store(server_at(f"{server.url}/web", batch=2, authorization=bearer("k")), items, Answers())
        first, second = server.calls
    assert (first.method, first.path) == ("POST", "/web/studies")
    assert first.headers["Authorization"] == "Bearer k"
    assert first.headers["Accept"] == "application/dicom+json"
    assert 'multipart/related; type="application/dicom"' in first.headers["Content-Type"]
    assert parts_of(first) == [items[0].path.read_bytes(), items[1].path.read_bytes()]
    assert parts_of(second) == [items[2].path.read_bytes()]
    assert first.connection == second.connection


def test_each_instance_gets_its_own_status(tmp_path: Path):
    items, answers = items_in(tmp_path, 3), Answers()
    a, b, c = (item.sop_instance_uid for item in items)
    with answering(stored({a: None, b: 0xB006}, {c: 0xA900}, 202)) as server:
        with pytest.raises(Rejected, match="1 of 3 not stored; first 0xA900"):
            store(server_at(server.url), items, answers)
        assert len(server.calls) == 1
    assert answers.statuses == [0, 0xB006, 0xA900]


def test_out_of_resources_is_tried_again_and_a_duplicate_is_delivered(tmp_path: Path):
    items, answers = items_in(tmp_path, 2), Answers()
    a, b = (item.sop_instance_uid for item in items)
    with (
        answering(stored({}, {a: 0x0111, b: 0xA700}, 409)) as server,
        pytest.raises(PeerUnavailable, match="1 of 2 not stored; first 0xA700"),
    ):
        store(server_at(server.url), items, answers)
    assert answers.statuses == [0x0111, 0xA700]


def test_a_failure_at_what_the_server_has_is_a_delivery(tmp_path: Path):
    items, answers = items_in(tmp_path, 3), Answers()
    there, new, lost = (item.sop_instance_uid for item in items)

    def script(call: Call) -> Reply:
        if call.method == "POST":
            return stored({new: None}, {there: 0x0110, lost: 0x0110}, 202)
        of = call.query["SOPInstanceUID"]
        found = [{"00080018": {"vr": "UI", "Value": [of]}}] if of == there else []
        return Reply(body=json.dumps(found).encode(), content_type="application/dicom+json")

    with ScriptedServer(script) as server:
        with pytest.raises(PeerUnavailable, match=rf"1 of 3 not stored; first 0x0110 .*{lost}"):
            store(server_at(server.url), items, answers)
        assert server.calls[1].path == (
            f"/studies/{study_uid_of([item.path for item in items])}/instances"
        )
    assert answers.statuses == [0x0111, 0, 0x0110]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=204),
        Reply(body=b'{"00080018": 5}'),
        Reply(body=b"[[], {}]"),
        Reply(body=b"<html>", content_type="text/html"),
        Reply(status=404),
        Reply(raw=b"", reset=True),
    ],
)
def test_a_failure_stays_one_where_a_search_finds_nothing(tmp_path: Path, reply: Reply):
    items, answers = items_in(tmp_path, 2), Answers()
    failed = {item.sop_instance_uid: 0x0110 for item in items}

    def script(call: Call) -> Reply:
        return stored({}, failed, 409) if call.method == "POST" else reply

    with ScriptedServer(script) as server:
        with pytest.raises(PeerUnavailable, match="2 of 2 not stored"):
            store(server_at(server.url), items, answers)
        assert len(server.calls) == (2 if reply.reset else 3)
    assert answers.statuses == [0x0110, 0x0110]


@pytest.mark.parametrize("status", [202, 400, 409, 413, 500])
def test_where_the_answer_does_not_say_which_they_are_sent_one_by_one(tmp_path: Path, status: int):
    items, answers = items_in(tmp_path, 3), Answers()
    bad = items[1].sop_instance_uid

    def script(call: Call) -> Reply:
        sent = uids(call)
        if bad in sent:
            kind = "text/plain" if status == 202 else "text/html"
            return Reply(status=status, body=b"<html>no</html>", content_type=kind)
        return stored(dict.fromkeys(sent))

    with ScriptedServer(script) as server:
        if status == 202:
            store(server_at(server.url), items, answers)
        else:
            with pytest.raises((Rejected, PeerUnavailable), match="1 of 3 not stored"):
                store(server_at(server.url), items, answers)
        assert [len(uids(call)) for call in server.calls] == [3, 1, 1, 1]
    expected = {202: 0xB000, 500: 0x0110}.get(status, 0xC000)
    assert answers.statuses == [0, expected, 0]


def test_a_server_that_fails_at_each_instance_is_left_alone(tmp_path: Path):
    items = items_in(tmp_path, 20)
    with answering(Reply(status=500)) as server:
        with pytest.raises(PeerUnavailable, match="HTTP 500"):
            store(server_at(server.url), items, Answers())
        assert len(server.calls) == 4


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply(status=401), Rejected, "check the credentials of STOW_URL_2"),
        (Reply(status=403), Rejected, "check the credentials of STOW_URL_2"),
        (Reply(status=404), Rejected, "there is nothing to post to; check STOW_URL_2"),
        (Reply(status=501), Rejected, "there is nothing to post to"),
        (Reply(status=302, headers={"Location": "/x"}), BadResponse, "check STOW_URL_2"),
        (Reply(status=503, headers={"Retry-After": "77"}), PeerUnavailable, "HTTP 503; 0 of 2"),
        (Reply(status=429, headers={"Retry-After": "9"}), RateLimited, "HTTP 429"),
        (Reply(status=507), PeerUnavailable, "HTTP 507"),
        (Reply(body=b"<html>Log in", content_type="text/html; charset=utf-8"), BadResponse,
         "HTTP 200 with a web page: check STOW_URL_2"),
        (Reply(raw=b"", reset=True), PeerUnavailable, "0 of 2 stored"),
        (Reply(raw=b"not HTTP\r\n\r\n"), PeerUnavailable, "0 of 2 stored"),
    ],
)  # fmt: skip
def test_an_answer_about_no_instance_is_retried_or_quarantined(
    tmp_path: Path, reply: Reply, error: type[Exception], says: str
):
    items, answers = items_in(tmp_path, 2), Answers()
    with answering(reply) as server:
        with pytest.raises(error, match=says) as caught:
            store(server_at(server.url, suffix="_2"), items, answers)
        assert len(server.calls) == 1
    assert answers.given == []
    wish = reply.headers.get("Retry-After")
    if wish and isinstance(caught.value, Retryable):
        assert caught.value.retry_after_s == float(wish)


def test_what_a_server_says_is_for_the_ledger_and_not_for_logs(tmp_path: Path):
    said = Reply(status=503, body=b'{"message": "no room for DOE^JOHN"}')
    with answering(said) as server, pytest.raises(PeerUnavailable) as caught:
        store(server_at(server.url), items_in(tmp_path, 1), Answers())
    assert "DOE^JOHN" in str(caught.value)
    assert not caught.value.is_loggable


def test_nobody_there_is_retried(tmp_path: Path):
    with pytest.raises(PeerUnavailable, match="Connection refused"):
        store(server_at(f"http://127.0.0.1:{free_port()}"), items_in(tmp_path, 1), Answers())


def test_what_was_answered_before_the_connection_broke_is_told(tmp_path: Path):
    items, answers = items_in(tmp_path, 4), Answers()
    replies = iter([None, Reply(raw=b"", reset=True)])

    def script(call: Call) -> Reply:
        return next(replies) or stored(dict.fromkeys(uids(call)))

    with (
        ScriptedServer(script) as server,
        pytest.raises(PeerUnavailable, match="2 of 4 stored"),
    ):
        store(server_at(server.url, batch=2), items, answers)
    assert [item.key for item, _, _ in answers.given] == [0, 1]


def test_a_file_that_is_gone_holds_up_no_other(tmp_path: Path):
    items, answers = items_in(tmp_path, 3), Answers()
    items[1].path.unlink()
    with ScriptedServer(taking()) as server, pytest.raises(Rejected, match="1 of 3 not stored"):
        store(server_at(server.url), items, answers)
    assert sorted((item.key, status) for item, status, _ in answers.given) == [
        (0, 0), (1, 0x0117), (2, 0),
    ]  # fmt: skip


def test_a_file_that_became_shorter_while_it_was_sent_holds_up_no_other(tmp_path: Path):
    items, answers = items_in(tmp_path, 3, side=512), Answers()
    turns = iter([False, False, True])  # the third's comes once the second's size is known

    def turn() -> None:
        if next(turns):
            file = items[1].path
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with ScriptedServer(taking()) as server, pytest.raises(Rejected, match="1 of 3 not stored"):
        store(server_at(server.url), items, answers, turn)
    assert sorted((item.key, status) for item, status, _ in answers.given) == [
        (0, 0), (1, 0x0117), (2, 0),
    ]  # fmt: skip


def test_who_is_out_of_turn_sends_what_had_its_turn(tmp_path: Path):
    items, answers = items_in(tmp_path, 4), Answers()
    turns = iter([None, None, RateLimited("used up", 5)])

    def turn() -> None:
        if (error := next(turns)) is not None:
            raise error

    with ScriptedServer(taking()) as server, pytest.raises(RateLimited, match="used up"):
        store(server_at(server.url, batch=3), items, answers, turn)
    assert [item.key for item, _, _ in answers.given] == [0, 1]


def test_memory_does_not_grow_with_the_instance(tmp_path: Path):
    items = items_in(tmp_path, 2, side=4096)  # 32 MiB each
    with ScriptedServer(lambda _: Reply(), keep=False) as server:
        store(server_at(server.url), items[:1], Answers())
        tracemalloc.start()
        try:
            store(server_at(server.url), items, Answers())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20


# --- TLS


def test_over_tls_a_server_of_the_sites_own_ca_is_trusted_and_no_other(tmp_path: Path):
    authority = Authority(tmp_path / "ca")
    certified = authority.issue("localhost")
    items = items_in(tmp_path, 1)
    with ScriptedServer(taking(), tls=(certified.certificate, certified.key)) as server:
        answers = Answers()
        store(server_at(server.url, tls=Tls(ca=authority.certificate)), items, answers)
        assert answers.statuses == [0]
        with pytest.raises(PeerUnavailable, match="certificate"):
            store(server_at(server.url), items, Answers())


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_unverified_tls_trusts_whoever_answers(tmp_path: Path):
    certified = Authority(tmp_path / "ca").issue("localhost")
    answers = Answers()
    with ScriptedServer(taking(), tls=(certified.certificate, certified.key)) as server:
        store(server_at(server.url, tls=Tls(verify=False)), items_in(tmp_path, 1), answers)
    assert answers.statuses == [0]


# --- the probe


@pytest.mark.parametrize("status", [200, 204, 400, 404, 405, 501])
def test_any_answer_that_is_no_failure_proves_a_server(status: int):
    with answering(Reply(status=status)) as server:
        probe(server_at(server.url))
        assert server.calls[0].path == "/studies"
        assert server.calls[0].query["StudyInstanceUID"] == "2.25.0"


@pytest.mark.parametrize(
    ("status", "error"), [(401, Rejected), (500, Rejected), (503, PeerUnavailable)]
)
def test_a_probe_that_is_turned_away_says_so(status: int, error: type[Exception]):
    with answering(Reply(status=status)) as server, pytest.raises(error):
        probe(server_at(server.url))

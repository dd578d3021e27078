"""Both ways of uploading, over real HTTP. Source: contract §1.4."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from pacsor_tasks.errors import (
    BadResponse,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
)
from pacsor_tasks.milvue import upload as upload_module
from pacsor_tasks.milvue.client import ExpiredUrl, MilvueClient, UnreadableInstance, UploadItem
from tests.support.http_script import Call, Reply, ScriptedServer, answering
from tests.support.studies import make_study, study_uid_of

TOKEN = "8f14e45f-ceea-467f-a8cb-7b3a3c8b0d11"


class Study:
    """A study on disk as upload items."""

    def __init__(self, directory: Path, n: int = 3, side: int = 64) -> None:
        files = make_study(directory, n, side=side)
        self.uid = study_uid_of(files)
        self.items = [UploadItem(path, uid_of(path)) for path in files]

    def posted(self, **more: object) -> Reply:
        return Reply(body=json.dumps({"StudyInstanceUID": self.uid, **more}).encode())


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def uid_of(path: Path | BytesIO) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def parts_of(call: Call) -> list[bytes]:
    head = f"Content-Type: {call.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + call.body)
    assert (message.get_content_type(), message.get_param("type")) == (
        "multipart/related",
        "application/dicom",
    )
    boundary = str(message.get_boundary()).encode()
    payload = message.get_payload()
    assert all(
        isinstance(p, Message) and p.get_content_type() == "application/dicom" for p in payload
    )
    # `email` decodes line ends; the bytes are taken as they came.
    pieces = call.body.split(b"--" + boundary)
    assert pieces[-1] == b"--\r\n"
    return [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces[1:-1]]


def send(
    url: str,
    study: Study,
    *,
    signed_url: bool,
    items: Sequence[UploadItem] | None = None,
    done: list[str] | None = None,
) -> list[str]:
    uploaded = [] if done is None else done
    with MilvueClient(
        url, TOKEN, signed_url=signed_url, connect_timeout_s=5, read_timeout_s=5, parallel=3
    ) as client:
        client.upload(
            study.uid,
            study.items if items is None else items,
            lambda item: uploaded.append(item.sop_instance_uid),
            None,
        )
    return uploaded


def test_direct_upload_is_one_request_with_every_file_as_it_is(study: Study) -> None:
    with answering(study.posted(message="ok")) as server:
        uploaded = send(server.url, study, signed_url=False)
    (call,) = server.calls
    assert (call.method, call.path, call.query) == ("POST", "/v3/studies", {"signed_url": "false"})
    assert call.headers["x-goog-meta-owner"] == TOKEN
    assert int(call.headers["Content-Length"]) == len(call.body)
    assert parts_of(call) == [item.path.read_bytes() for item in study.items]
    assert uploaded == [item.sop_instance_uid for item in study.items]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<NativeDicomModel/>", content_type="application/dicom+xml"),
        Reply(body=b"[]", content_type="application/dicom+json"),
        Reply(body=b"", content_type="", status=204),
        Reply(body=b"{}"),
    ],
)
def test_other_forms_of_yes_are_taken(reply: Reply, study: Study) -> None:
    with answering(reply) as server:
        assert len(send(server.url, study, signed_url=False)) == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b"<html>log in</html>", content_type="text/html"), BadResponse),
        (Reply(body=b"["), BadResponse),
        (Reply(body=b'{"StudyInstanceUID": "9.9"}'), BadResponse),
        (Reply(status=400, body=b'{"message": "mixed studies"}'), Rejected),
        (Reply(status=403, body=b'{"message": "bad key"}'), Rejected),
        (Reply(status=404, body=b'{"detail": "Not Found"}'), Rejected),
        (Reply(status=422, body=b'{"detail": []}'), Rejected),
        (Reply(status=429, headers={"Retry-After": "2"}), RateLimited),
        (Reply(status=500), PeerUnavailable),
        (Reply(status=308, headers={"Location": "http://127.0.0.1:1/"}), BadResponse),
        (Reply(raw=b""), PeerUnavailable),
        (Reply(reset=True, raw=b""), PeerUnavailable),
    ],
)
@pytest.mark.parametrize("signed_url", [False, True])
def test_a_refused_post_uploads_nothing(
    reply: Reply, error: type[PacsorError], signed_url: bool, study: Study
) -> None:
    done: list[str] = []
    with answering(reply) as server, pytest.raises(error):
        send(server.url, study, signed_url=signed_url, done=done)
    assert done == []
    assert len(server.calls) == 1, "nothing is repeated, and no redirect followed"


def test_a_connection_reset_in_the_middle_of_the_body_is_worth_a_retry(tmp_path: Path) -> None:
    large = Study(tmp_path / "large", 4, side=1500)
    script = ScriptedServer(lambda _: Reply(reset=True, raw=b""), unread=True)
    with script as server, pytest.raises(PeerUnavailable):
        send(server.url, large, signed_url=False)


def test_an_early_refusal_of_a_large_body_is_still_read(tmp_path: Path) -> None:
    large = Study(tmp_path / "large", 4, side=1500)
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    script = ScriptedServer(lambda _: Reply(raw=refusal), unread=True)
    # Whether the answer is seen before the broken pipe is the network's choice.
    with script as server, pytest.raises((Rejected, PeerUnavailable)):
        send(server.url, large, signed_url=False)


def test_no_items_ask_nothing(study: Study) -> None:
    for signed_url in (False, True):
        assert send("http://127.0.0.1:1", study, signed_url=signed_url, items=[]) == []


@pytest.mark.parametrize("signed_url", [False, True])
def test_a_missing_file_names_its_instance_and_posts_nothing(
    signed_url: bool, study: Study
) -> None:
    gone = study.items[1]
    gone.path.unlink()
    with answering(study.posted()) as server, pytest.raises(UnreadableInstance) as caught:
        send(server.url, study, signed_url=signed_url)
    assert caught.value.sop_instance_uid == gone.sop_instance_uid
    assert not server.calls


class Cloud:
    """The API with signed URLs, and the storage they lead to on another port."""

    def __init__(self, study: Study, **puts: Reply) -> None:
        self.study = study
        self.puts = puts
        self.omitted: set[str] = set()
        self.refusing: dict[str, Reply] = {}
        self.running = self.max_running = 0
        self.lock = threading.Lock()
        self.api = ScriptedServer(self._api)
        self.storage = ScriptedServer(self._storage)

    def __enter__(self) -> Cloud:
        self.storage.__enter__()
        self.api.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.api.__exit__(None, None, None)
        self.storage.__exit__(None, None, None)

    def _api(self, call: Call) -> Reply:
        uids = [uid_of(BytesIO(part)) for part in parts_of(call)]
        urls = {
            uid: f"{self.storage.url}/bucket/{uid}?sig=SECRET{uid}"
            for uid in uids
            if uid not in self.omitted
        }
        return self.study.posted(signed_urls=urls)

    def _storage(self, call: Call) -> Reply:
        with self.lock:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        threading.Event().wait(0.01)
        with self.lock:
            self.running -= 1
        return self.refusing.get(call.path.rpartition("/")[2], Reply(status=201, content_type=""))


def test_signed_upload_posts_pruned_copies_and_puts_whole_files(study: Study) -> None:
    with Cloud(study) as cloud:
        uploaded = send(cloud.api.url, study, signed_url=True)
    (post,) = cloud.api.calls
    assert post.query == {"signed_url": "true"}
    for item, part in zip(study.items, parts_of(post), strict=True):
        pruned, whole = pydicom.dcmread(BytesIO(part)), pydicom.dcmread(item.path)
        assert pruned["PixelData"].value in {b"", None}
        del pruned.PixelData, whole.PixelData
        assert pruned == whole
    assert sorted(uploaded) == sorted(item.sop_instance_uid for item in study.items)
    files = {item.sop_instance_uid: item.path.read_bytes() for item in study.items}
    assert len(cloud.storage.calls) == len(files)
    for put in cloud.storage.calls:
        uid = put.path.rpartition("/")[2]
        assert (put.method, put.body, put.query["sig"]) == ("PUT", files[uid], f"SECRET{uid}")
        assert put.headers["Content-Type"] == "application/dicom"
        assert put.headers["x-goog-meta-owner"] == TOKEN
        assert put.headers["x-ms-blob-type"] == "BlockBlob"
        assert int(put.headers["Content-Length"]) == len(files[uid])


def test_puts_share_a_few_connections(tmp_path: Path) -> None:
    study = Study(tmp_path / "many", 30, side=8)
    with Cloud(study) as cloud:
        assert len(send(cloud.api.url, study, signed_url=True)) == 30
    assert cloud.max_running <= 3
    assert cloud.storage.n_connections <= 3
    assert cloud.api.n_connections == 1


def test_many_pruned_copies_go_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "many", 10, side=8)
    monkeypatch.setattr(upload_module, "BATCH_BYTES", 3000)
    with Cloud(study) as cloud:
        assert len(send(cloud.api.url, study, signed_url=True)) == 10
    assert len(cloud.api.calls) > 2
    assert sum(len(parts_of(call)) for call in cloud.api.calls) == 10


def test_a_uid_without_a_url_is_named_before_anything_is_put(tmp_path: Path) -> None:
    study = Study(tmp_path / "many", 6, side=8)
    cloud = Cloud(study)
    cloud.omitted = {item.sop_instance_uid for item in study.items[:4]}
    with cloud, pytest.raises(BadResponse) as caught:
        send(cloud.api.url, study, signed_url=True)
    assert "4 of 6" in str(caught.value)
    assert str(caught.value).endswith(", …")
    assert study.items[0].sop_instance_uid in str(caught.value)
    assert not cloud.storage.calls


@pytest.mark.parametrize("url", ["", None, "not a url"])
def test_an_empty_url_in_the_map_is_no_url(url: str | None, study: Study) -> None:
    urls = {item.sop_instance_uid: url for item in study.items}
    with answering(study.posted(signed_urls=urls)) as server, pytest.raises(BadResponse):
        send(server.url, study, signed_url=True)


def test_an_api_without_signed_urls_is_told_with_its_setting(study: Study) -> None:
    with (
        answering(study.posted(message="ok")) as server,
        pytest.raises(BadResponse, match="SIGNED_URL"),
    ):
        send(server.url, study, signed_url=True)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=403, body=b"<Code>AuthenticationFailed</Code>"), ExpiredUrl),
        (Reply(status=503, headers={"Retry-After": "4"}), PeerUnavailable),
        (Reply(status=411), Rejected),
        (Reply(status=307, headers={"Location": "http://127.0.0.1:1/"}), BadResponse),
        (Reply(reset=True, raw=b""), PeerUnavailable),
    ],
)
def test_a_put_that_fails_stops_the_rest_and_a_repeat_sends_only_them(
    reply: Reply, error: type[PacsorError], tmp_path: Path
) -> None:
    study = Study(tmp_path / "many", 20, side=8)
    bad = study.items[5].sop_instance_uid
    done: list[str] = []
    with Cloud(study) as cloud:
        cloud.refusing[bad] = reply
        with pytest.raises(error) as caught:
            send(cloud.api.url, study, signed_url=True, done=done)
        assert "SECRET" not in str(caught.value)
        assert bad in str(caught.value)
        asked = [call.path.rpartition("/")[2] for call in cloud.storage.calls]
        assert set(asked) == {*done, bad}, "every instance put is reported"
        assert len(asked) < 20
        cloud.refusing.clear()
        rest = [item for item in study.items if item.sop_instance_uid not in done]
        send(cloud.api.url, study, signed_url=True, items=rest, done=done)
        puts = [call.path.rpartition("/")[2] for call in cloud.storage.calls]
    assert sorted(done) == sorted(item.sop_instance_uid for item in study.items)
    assert {uid: puts.count(uid) for uid in done} == {**dict.fromkeys(done, 1), bad: 2}


@pytest.mark.parametrize("signed_url", [False, True])
def test_the_rate_limit_is_asked_once_per_instance(signed_url: bool, study: Study) -> None:
    asked: list[int] = []
    with Cloud(study) as cloud, MilvueClient(cloud.api.url, TOKEN, signed_url=signed_url) as client:
        client.upload(study.uid, study.items, lambda _: None, lambda: asked.append(1))
    assert len(asked) == 3


@pytest.mark.parametrize("signed_url", [False, True])
def test_a_rate_limit_that_refuses_comes_out_as_it_is(signed_url: bool, study: Study) -> None:
    def refuse() -> None:
        raise RateLimited("later", 9)

    with (
        Cloud(study) as cloud,
        MilvueClient(cloud.api.url, TOKEN, signed_url=signed_url) as client,
        pytest.raises(RateLimited, match="later"),
    ):
        client.upload(study.uid, study.items, lambda _: None, refuse)
    assert not cloud.storage.calls


def test_an_instance_without_pixels_is_uploaded_too(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", 1)
    path = study.items[0].path
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.SOPInstanceUID = generate_uid()
    dataset.save_as(path)
    study.items = [UploadItem(path, str(dataset.SOPInstanceUID))]
    with Cloud(study) as cloud:
        assert send(cloud.api.url, study, signed_url=True) == [str(dataset.SOPInstanceUID)]

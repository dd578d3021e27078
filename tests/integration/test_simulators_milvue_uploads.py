"""The simulated AI service over real HTTP: keys, uploads of both kinds, faults while uploading."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from simulators.milvue import MilvueSimulator
from tests.support.net import wait_until
from tests.support.radiographs import radiographs
from tests.support.simulators import (
    BOUNDARY,
    HEADERS,
    KEY,
    PYTHON_PART,
    TYPE,
    get,
    multipart,
    no_threads_left,
    post,
    pruned,
    sop_uid,
    upload,
)
from tests.support.studies import make_study, study_uid_of

GO_TYPE = f'multipart/related; boundary={BOUNDARY}; type="application/dicom"'
CURL_TYPE = f'multipart/related; type=application/dicom; boundary="{BOUNDARY}"'
PUT = {**HEADERS, "Content-Type": "application/dicom", "x-ms-blob-type": "BlockBlob"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[MilvueSimulator]:
    with MilvueSimulator(token=KEY, running_times=0) as running:
        yield running


@pytest.fixture
def api(simulator: MilvueSimulator) -> MilvueSimulator:
    simulator.reset()
    return simulator


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 2)


def kept(api: MilvueSimulator) -> Path:
    """Where uploads go."""
    assert api._folder is not None
    return api._folder


def signed_urls(api: MilvueSimulator, files: list[Path]) -> dict[str, str]:
    answer = post(api, [pruned(file) for file in files], signed_url="True")
    assert answer.status_code == 200, answer.text
    urls: dict[str, str] = answer.json()["signed_urls"]
    return urls


def put(url: str, file: Path, **headers: str) -> requests.Response:
    return requests.put(url, data=file.read_bytes(), headers={**PUT, **headers}, timeout=10)


def test_it_leaves_no_thread_and_no_file_behind(study: list[Path]) -> None:
    with no_threads_left():
        with MilvueSimulator(running_times=0) as api:
            uid = upload(api, study)
            assert get(api, f"/v3/studies/{uid}?inference_command=trauma").status_code == 200
            folder = kept(api)
            assert any(folder.iterdir())
        assert not folder.exists()


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_without_the_right_key_everything_is_forbidden(
    api: MilvueSimulator, study: list[Path], key: str | None
) -> None:
    answers = [
        get(api, "/v3/studies/1.2/status", key=key),
        get(api, "/v3/studies/1.2", key=key),  # before 422 for the missing parameter
        get(api, "/v3/smarturgences/1.2", key=key),
        post(api, [study[0].read_bytes()], key=key),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert all(set(answer.json()) == {"message"} for answer in answers)
    assert len(api.journal.events("refused")) == 4


@pytest.mark.parametrize("signed_url", ["False", "false", "0"])
@pytest.mark.parametrize(
    ("content_type", "part_head"),
    [
        (f"multipart/related; boundary={BOUNDARY}", PYTHON_PART),
        (GO_TYPE, TYPE),
        (CURL_TYPE, PYTHON_PART),
    ],
    ids=["python", "go", "curl"],
)
def test_every_client_s_upload_is_taken(
    api: MilvueSimulator, study: list[Path], signed_url: str, content_type: str, part_head: str
) -> None:
    answer = post(
        api,
        [file.read_bytes() for file in study],
        signed_url=signed_url,
        content_type=content_type,
        part_head=part_head,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["StudyInstanceUID"] == study_uid_of(study)
    assert [api.journal.posts(sop_uid(file)) for file in study] == [1, 1]
    assert [api.journal.uploads(sop_uid(file)) for file in study] == [1, 1]
    assert api.journal.tokens(study_uid_of(study)) == {KEY}


def test_bodies_that_cannot_be_taken_are_400(
    api: MilvueSimulator, study: list[Path], tmp_path: Path
) -> None:
    other = make_study(tmp_path / "other", 1)
    whole = [file.read_bytes() for file in study]
    answers = [
        post(api, [whole[0], other[0].read_bytes()]),  # two studies
        post(api, []),  # no parts
        post(api, [b"this is no DICOM"]),
        post(api, whole, content_type="application/json"),
        post(api, [pruned(study[0])]),  # pruned, sent as whole
        post(api, whole, signed_url="true"),  # whole, sent as pruned
    ]
    assert [answer.status_code for answer in answers] == [400] * 6
    assert all(answer.json()["message"] for answer in answers)
    assert get(api, f"/v3/studies/{study_uid_of(study)}/status").status_code == 404
    assert list(kept(api).iterdir()) == []


def test_a_bad_boolean_is_422(api: MilvueSimulator, study: list[Path]) -> None:
    answer = post(api, [study[0].read_bytes()], signed_url="perhaps")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "signed_url"]


def test_a_client_that_goes_away_leaves_nothing(api: MilvueSimulator, study: list[Path]) -> None:
    body = multipart([study[0].read_bytes()])
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        head = (
            f"POST /v3/studies HTTP/1.1\r\nHost: x\r\nx-goog-meta-owner: {KEY}\r\n"
            f"Content-Type: multipart/related; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body[:-100])
    event = wait_until(lambda: api.journal.events("upload"))[0]
    assert event["status"] == 499
    assert list(kept(api).iterdir()) == []


def test_a_signed_upload_starts_when_all_are_put(api: MilvueSimulator, study: list[Path]) -> None:
    uid = study_uid_of(study)
    urls = signed_urls(api, study)
    assert set(urls) == {sop_uid(file) for file in study}
    assert all(url.startswith(f"http://127.0.0.1:{api.storage_port}/") for url in urls.values())
    assert api.storage_port != api.port
    for n_put, file in enumerate(study, 1):
        answer = put(urls[sop_uid(file)], file)
        assert (answer.status_code, answer.content) == (201, b"")
        expected = "done" if n_put == len(study) else "running"
        assert get(api, f"/v3/studies/{uid}/status").json()["status"] == expected
    first = sop_uid(study[0])
    counts = api.journal.posts(first), api.journal.puts(first), api.journal.uploads(first)
    assert counts == (1, 1, 1)


def test_encapsulated_instances_are_pruned_to_a_native_empty_element(api: MilvueSimulator) -> None:
    files = radiographs("RG1_J2KR")
    urls = signed_urls(api, files)
    assert put(urls[sop_uid(files[0])], files[0]).status_code == 201


def test_azure_wants_its_blob_type(api: MilvueSimulator, study: list[Path]) -> None:
    url = signed_urls(api, study)[sop_uid(study[0])]
    answer = put(url, study[0], **{"x-ms-blob-type": ""})
    assert answer.status_code == 400
    assert api.journal.puts(sop_uid(study[0])) == 0


def test_gcs_answers_200_and_wants_the_key(api: MilvueSimulator, study: list[Path]) -> None:
    api.switches.set(storage="gcs")
    url = signed_urls(api, study)[sop_uid(study[0])]
    assert put(url, study[0], **{"x-goog-meta-owner": ""}).status_code == 403
    assert put(url, study[0], **{"x-ms-blob-type": ""}).status_code == 200


def test_a_put_without_content_length_is_411(api: MilvueSimulator, study: list[Path]) -> None:
    url = signed_urls(api, study)[sop_uid(study[0])]
    answer = requests.put(url, data=iter([study[0].read_bytes()]), headers=PUT, timeout=10)
    assert answer.status_code == 411


def test_a_put_of_something_else_is_400(api: MilvueSimulator, study: list[Path]) -> None:
    url = signed_urls(api, study)[sop_uid(study[0])]
    assert put(url, study[1]).status_code == 400  # another instance
    answer = requests.put(url, data=pruned(study[0]), headers=PUT, timeout=10)
    assert answer.status_code == 400  # still without pixels


def test_signed_urls_expire(api: MilvueSimulator, study: list[Path]) -> None:
    api.switches.set(signed_url_ttl_s=0, times=1)
    url = signed_urls(api, study)[sop_uid(study[0])]
    assert put(url, study[0]).status_code == 403
    url = signed_urls(api, study)[sop_uid(study[0])]
    api.switches.set(expired=True, times=1)
    assert put(url, study[0]).status_code == 403
    assert put(url, study[0]).status_code == 201
    assert put(url.replace("sig=", "sig=0"), study[0]).status_code == 403


def test_a_uid_can_be_missing_from_the_map(api: MilvueSimulator, study: list[Path]) -> None:
    api.switches.set(omit_uids=1, times=1)
    assert set(signed_urls(api, study)) == {sop_uid(study[1])}


def test_uploads_need_not_be_kept(api: MilvueSimulator, study: list[Path]) -> None:
    api.switches.set(keep_files=False)
    uid = upload(api, study)
    assert list(kept(api).iterdir()) == []
    answer = get(api, f"/v3/studies/{uid}?inference_command=trauma")
    assert answer.content.count(b"Content-Type: application/dicom") == 2  # recaps, no copy


@pytest.mark.parametrize(
    ("retry_after", "header"), [(None, None), ("2", "2")], ids=["without", "with"]
)
def test_429_with_and_without_retry_after(
    api: MilvueSimulator, study: list[Path], retry_after: str | None, header: str | None
) -> None:
    api.switches.set(fault=429, retry_after=retry_after, operation="upload", times=1)
    answer = post(api, [study[0].read_bytes()])
    assert (answer.status_code, answer.headers.get("Retry-After")) == (429, header)
    assert api.journal.posts(sop_uid(study[0])) == 0
    assert post(api, [study[0].read_bytes()]).status_code == 200


def test_a_fault_can_hit_one_study_only(
    api: MilvueSimulator, study: list[Path], tmp_path: Path
) -> None:
    api.switches.set(fault=500, study_uid=study_uid_of(study))
    other = make_study(tmp_path / "other", 1)
    assert post(api, [study[0].read_bytes()]).status_code == 500
    assert post(api, [other[0].read_bytes()]).status_code == 200


@pytest.mark.parametrize("fault", ["reset", "reset_after"])
def test_a_connection_reset_before_or_after_the_upload_took_effect(
    api: MilvueSimulator, study: list[Path], fault: str
) -> None:
    api.switches.set(fault=fault, reset_after_bytes=4000, operation="upload", times=1)
    with pytest.raises(requests.ConnectionError):
        post(api, [study[0].read_bytes()])
    assert api.journal.posts(sop_uid(study[0])) == (fault == "reset_after")


def test_a_reset_in_the_middle_of_a_put(api: MilvueSimulator, study: list[Path]) -> None:
    url = signed_urls(api, study)[sop_uid(study[0])]
    api.switches.set(fault="reset", reset_after_bytes=1000, operation="put", times=1)
    with pytest.raises(requests.ConnectionError):
        put(url, study[0])
    assert api.journal.puts(sop_uid(study[0])) == 0
    assert put(url, study[0]).status_code == 201


def test_stopping_does_not_wait_for_an_answer_held_back(study: list[Path]) -> None:
    with no_threads_left(), MilvueSimulator() as api:
        api.switches.set(delay_s=3600)
        client = socket.create_connection(("127.0.0.1", api.port))
        request = b"GET /v3/studies/1/status HTTP/1.1\r\nHost: x\r\nx-goog-meta-owner: k\r\n\r\n"
        client.sendall(request)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.close()

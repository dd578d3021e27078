"""Every shape a results answer can have, over real HTTP. Source: contract §1.5."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.errors import (
    BadResponse,
    NotReady,
    PacsorError,
    PeerUnavailable,
    RateLimited,
    Rejected,
)
from pacsor_tasks.milvue.client import (
    ExpiredUrl,
    FormattingError,
    MilvueClient,
    Outcome,
    Results,
    UnknownStudy,
)
from tests.support.http_script import Call, Reply, ScriptedServer, answering

STUDY, TOKEN = "1.2.826.0.1.1", "8f14e45f-ceea-467f-a8cb-7b3a3c8b0d11"
DICOM = bytes(128) + b"DICM" + b"\r\n--almost\r\n\r\n" * 3000
OTHER = bytes(128) + b"DICM" + bytes(range(256)) * 300
BOUNDARY = "0f" * 16


def body(*parts: tuple[str, bytes], boundary: str = BOUNDARY) -> bytes:
    head = f"--{boundary}\r\nContent-Type: ".encode()
    framed = (head + media.encode() + b"\r\n\r\n" + data + b"\r\n" for media, data in parts)
    return b"".join(framed) + f"--{boundary}--\r\n".encode()


def multipart(
    *parts: tuple[str, bytes], media: str = f"multipart/related; boundary={BOUNDARY}"
) -> Reply:
    return Reply(body=body(*parts), content_type=media)


def status(word: str, **more: object) -> bytes:
    answer = {"StudyInstanceUID": STUDY, "status": word, "version": "2.3.1", **more}
    return json.dumps(answer).encode()


def wrapped(word: str) -> Reply:
    return multipart(("application/json; charset=utf-8", status(word, message="m")))


def fetch(reply: Reply, into: Path, *, signed_url: bool = False) -> Results:
    with (
        answering(reply) as server,
        MilvueClient(server.url, TOKEN, signed_url=signed_url) as client,
    ):
        return client.results(STUDY, "smarturgences", into)


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Path]:
    """The directory, with what an earlier try left; no temporary file may stay in it."""
    directory = tmp_path / "results"
    directory.mkdir()
    (directory / "stale.dcm").write_bytes(b"stale")
    (directory / "stale.dcm.part").write_bytes(b"stale")
    yield directory
    assert not list(directory.glob("stale*"))
    assert not list(directory.glob("*.part"))


QUOTED = f'Multipart/Related; type="application/dicom"; Boundary="{BOUNDARY}"; charset=utf-8'


@pytest.mark.parametrize(
    ("reply", "files"),
    [
        pytest.param(
            multipart(("application/dicom", DICOM), ("application/dicom", OTHER)),
            [DICOM, OTHER],
            id="DICOM parts",
        ),
        pytest.param(
            multipart(("application/dicom", DICOM), media=QUOTED), [DICOM], id="quoted boundary"
        ),
        pytest.param(
            multipart(("Application/DICOM; transfer-syntax=*", DICOM)), [DICOM], id="parameters"
        ),
        pytest.param(
            multipart(
                ("application/dicom+gzip", gzip.compress(DICOM)), ("application/dicom", OTHER)
            ),
            [DICOM, OTHER],
            id="gzipped part",
        ),
        pytest.param(
            Reply(
                body=body(("application/dicom", DICOM)),
                content_type=f"multipart/related; boundary={BOUNDARY}",
                chunked=1000,
            ),
            [DICOM],
            id="chunked",
        ),
        pytest.param(
            Reply(
                body=f"--{BOUNDARY}\r\nContent-Disposition: x\r\n\r\n".encode()
                + DICOM
                + f"\r\n--{BOUNDARY}--".encode(),
                content_type=QUOTED,
            ),
            [DICOM],
            id="part without a type",
        ),
        pytest.param(
            multipart(("application/dicom", DICOM), ("application/json", status("done"))),
            [DICOM],
            id="with a status part",
        ),
    ],
)
def test_dicom_results_end_up_as_files_in_order(
    reply: Reply, files: list[bytes], into: Path
) -> None:
    results = fetch(reply, into)
    assert results.outcome is Outcome.DONE
    assert [path.read_bytes() for path in results.paths] == files
    assert results.paths == sorted(into.iterdir())


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(multipart(), id="closing delimiter, 38 bytes"),
        pytest.param(
            Reply(body=b"--x--\r\n", content_type="multipart/related; boundary=x"), id="short"
        ),
        pytest.param(
            Reply(body=b"--" + b"b" * 70 + b"--\r\n", content_type="multipart/related"),
            id="no boundary named",
        ),
        pytest.param(Reply(body=status("empty")), id="status empty"),
        pytest.param(wrapped("empty"), id="status empty in a part"),
        pytest.param(Reply(body=status("done")), id="status done without results"),
        pytest.param(Reply(body=status("done", signed_urls=[])), id="an empty list"),
        pytest.param(Reply(body=status("empty", signed_urls=None)), id="no list"),
        pytest.param(
            Reply(body=status("Empty"), content_type="Application/JSON; charset=UTF-8"), id="case"
        ),
    ],
)
@pytest.mark.parametrize("signed_url", [False, True])
def test_nothing_to_return_is_an_empty_outcome(reply: Reply, signed_url: bool, into: Path) -> None:
    results = fetch(reply, into, signed_url=signed_url)
    assert (results.outcome, results.paths) == (Outcome.EMPTY, [])
    assert not list(into.iterdir())


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(body=status("running")), id="raw"),
        pytest.param(wrapped("running"), id="in a part"),
        pytest.param(Reply(body=status("running", signed_urls=["http://h/x"])), id="with a list"),
        pytest.param(Reply(body=status("running", signed_urls={"odd": 1})), id="with an odd list"),
        pytest.param(Reply(body=status("RUNNING"), status=202), id="as 202"),
        pytest.param(Reply(body=b'{"status": "running"}'), id="with nothing else"),
        pytest.param(
            multipart(("application/dicom", DICOM), ("application/json", status("running"))),
            id="after a DICOM part",
        ),
    ],
)
@pytest.mark.parametrize("signed_url", [False, True])
def test_running_is_never_read_as_no_results(reply: Reply, signed_url: bool, into: Path) -> None:
    with pytest.raises(NotReady):
        fetch(reply, into, signed_url=signed_url)
    assert not list(into.iterdir())


@pytest.mark.parametrize(
    "reply", [Reply(body=status("forbidden", message="m")), wrapped("forbidden")]
)
def test_forbidden_is_an_outcome_of_its_command(reply: Reply, into: Path) -> None:
    results = fetch(reply, into)
    assert (results.outcome, results.paths, results.message) == (Outcome.FORBIDDEN, [], "m")


WHOLE = multipart(("application/dicom", DICOM), ("application/dicom", OTHER))
FORMATTING = b'{"message":"Error formatting study"}'


def cut_to(length: int, **how: int | bool) -> Reply:
    return Reply(body=WHOLE.body[:length], content_type=WHOLE.content_type, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(cut_to(0), PeerUnavailable, id="no body"),
        pytest.param(cut_to(20), PeerUnavailable, id="cut in a delimiter"),
        pytest.param(cut_to(5000), PeerUnavailable, id="cut in a part"),
        pytest.param(cut_to(len(WHOLE.body) - 4), PeerUnavailable, id="cut in the closer"),
        pytest.param(
            cut_to(5000, announced=len(WHOLE.body)), PeerUnavailable, id="shorter than announced"
        ),
        pytest.param(
            cut_to(50_000, announced=len(WHOLE.body), reset=True), PeerUnavailable, id="reset"
        ),
        pytest.param(
            Reply(
                raw=b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related; boundary=x\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n5\r\n--x\r\n\r\n"
            ),
            PeerUnavailable,
            id="chunks cut off",
        ),
        pytest.param(Reply(raw=b"rubbish\r\n\r\n"), PeerUnavailable, id="no HTTP"),
        pytest.param(
            multipart(("application/dicom+gzip", gzip.compress(DICOM)[:-9])),
            PeerUnavailable,
            id="gzip cut off",
        ),
        pytest.param(multipart(("application/dicom", b"")), PeerUnavailable, id="empty part"),
        pytest.param(
            multipart(("application/dicom+gzip", DICOM)), BadResponse, id="gzip in name only"
        ),
        pytest.param(
            Reply(body=b"<html>", content_type="text/html"), BadResponse, id="wrong content type"
        ),
        pytest.param(Reply(body=DICOM, content_type=""), BadResponse, id="no content type"),
        pytest.param(multipart(("text/plain", b"x")), BadResponse, id="wrong part type"),
        pytest.param(multipart(("application/json", b"")), BadResponse, id="empty status part"),
        pytest.param(
            multipart(("application/json", b" " * 1_100_000)), BadResponse, id="endless status part"
        ),
        pytest.param(Reply(body=b"{"), BadResponse, id="broken JSON"),
        pytest.param(Reply(body=b"[]"), BadResponse, id="JSON of another kind"),
        pytest.param(Reply(body=b"{}"), BadResponse, id="JSON without a status"),
        pytest.param(Reply(body=status("exploded")), BadResponse, id="unknown status"),
        pytest.param(
            Reply(body=status("done", StudyInstanceUID="9.9")), BadResponse, id="another study"
        ),
        pytest.param(
            Reply(body=WHOLE.body, content_type="multipart/related"), BadResponse, id="no boundary"
        ),
        pytest.param(Reply(status=400, body=FORMATTING), FormattingError, id="formatting 400"),
        pytest.param(Reply(status=500, body=FORMATTING), FormattingError, id="formatting 500"),
        pytest.param(Reply(body=FORMATTING), FormattingError, id="formatting 200"),
        pytest.param(Reply(status=404, body=b'{"message":"?"}'), UnknownStudy, id="404"),
        pytest.param(Reply(status=403, body=b'{"message":"?"}'), Rejected, id="403"),
        pytest.param(Reply(status=422, body=b"{}"), Rejected, id="422"),
        pytest.param(Reply(status=429, headers={"Retry-After": "3"}), RateLimited, id="429"),
        pytest.param(Reply(status=503), PeerUnavailable, id="503"),
        pytest.param(
            Reply(status=302, headers={"Location": "http://127.0.0.1:9/"}), BadResponse, id="302"
        ),
    ],
)
def test_what_is_no_result_raises_and_leaves_nothing(
    reply: Reply, error: type[PacsorError], into: Path
) -> None:
    with pytest.raises(error):
        fetch(reply, into)
    assert not list(into.iterdir())


def test_the_direct_call_asks_for_dicom_and_for_json(into: Path) -> None:
    with (
        answering(multipart()) as server,
        MilvueClient(server.url + "/", TOKEN, signed_url=False) as client,
    ):
        client.results(STUDY, "smartxpert", into, {"language": "fr", "signed_url": "true"})
    (call,) = server.calls
    assert (call.method, call.path) == ("GET", f"/v3/studies/{STUDY}")
    assert call.query == {
        "inference_command": "smartxpert",
        "signed_url": "false",
        "language": "fr",
    }
    assert call.headers["x-goog-meta-owner"] == TOKEN
    assert "application/json" in call.headers["Accept"]
    assert "multipart/related" in call.headers["Accept"]


def test_asking_again_replaces_what_was_there(into: Path) -> None:
    with (
        answering(WHOLE) as server,
        MilvueClient(server.url, TOKEN, signed_url=False) as client,
    ):
        first = client.results(STUDY, "smarturgences", into).paths
        again = client.results(STUDY, "smarturgences", into).paths
    assert sorted(into.iterdir()) == again
    assert not set(first) & set(again)
    assert server.n_connections == 1, "the connection is kept"


class Storage:
    """The API and its storage host in one script, by path."""

    def __init__(self, urls: list[str], files: dict[str, Reply], word: str = "done") -> None:
        self.urls, self.files, self.word = urls, files, word
        self.server = ScriptedServer(self.answer)

    def answer(self, call: Call) -> Reply:
        if call.path.startswith("/v3/"):
            urls = [url.replace("HOST", self.server.url) for url in self.urls]
            return Reply(body=status(self.word, signed_urls=urls))
        return self.files[call.path]

    def fetch(self, into: Path) -> Results:
        with (
            self.server,
            MilvueClient(self.server.url, TOKEN, signed_url=True, parallel=2) as client,
        ):
            return client.results(STUDY, "smarturgences", into)


def blob(data: bytes, media: str = "application/octet-stream", **how: object) -> Reply:
    return Reply(body=data, content_type=media, **how)  # type: ignore[arg-type]


def test_signed_results_are_fetched_in_the_order_of_the_list(into: Path) -> None:
    files = {f"/{n}": blob(b"file %d" % n) for n in range(12)}
    storage = Storage([f"HOST/{n}?sig=S{n}" for n in range(12)], files)
    results = storage.fetch(into)
    assert [p.read_bytes() for p in results.paths] == [b"file %d" % n for n in range(12)]
    api, *gets = storage.server.calls
    assert (api.query["signed_url"], api.headers["Accept"]) == ("true", "application/json")
    for call in gets:
        assert call.headers["x-goog-meta-owner"] == TOKEN
        assert call.headers["Content-Type"] == "application/dicom"
        assert call.headers["Accept-Encoding"] == "identity"
        assert call.query["sig"].startswith("S")


def test_a_url_listed_twice_is_one_result_and_gzip_is_unfolded(into: Path) -> None:
    files = {"/a": blob(gzip.compress(DICOM), "application/dicom+gzip")}
    results = Storage(["HOST/a", "HOST/a"], files).fetch(into)
    assert [p.read_bytes() for p in results.paths] == [DICOM]


def test_a_list_beside_status_empty_is_not_thrown_away(into: Path) -> None:
    results = Storage(["HOST/a"], {"/a": blob(DICOM)}, word="empty").fetch(into)
    assert results.outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (blob(b"<Code>AuthenticationFailed</Code>", status=403), ExpiredUrl),
        (blob(b"", status=404), ExpiredUrl),
        (blob(b"<Code>ExpiredToken</Code>", status=400), ExpiredUrl),
        (blob(b"<Code>Other</Code>", status=400), Rejected),
        (blob(b"", status=503), PeerUnavailable),
        (blob(b"x", status=206), BadResponse),
        (blob(b"", status=302, headers={"Location": "/a"}), BadResponse),
        (blob(b"short", announced=50), PeerUnavailable),
        (blob(b""), PeerUnavailable),
        (blob(DICOM, reset=True, announced=10**6), PeerUnavailable),
    ],
)
def test_one_url_that_fails_leaves_nothing(
    reply: Reply, error: type[PacsorError], into: Path
) -> None:
    storage = Storage(
        ["HOST/good?sig=SECRET", "HOST/a?sig=SECRET"], {"/good": blob(DICOM), "/a": reply}
    )
    with pytest.raises(error) as caught:
        storage.fetch(into)
    assert "SECRET" not in str(caught.value)
    assert not list(into.iterdir())


@pytest.mark.parametrize(
    "url", ["", "relative/path", "ftp://h/x", "file:///etc/passwd", "http://[x"]
)
def test_a_url_that_is_none_is_a_bad_response(url: str, into: Path) -> None:
    with pytest.raises(BadResponse, match="signed URL"):
        Storage([url], {}).fetch(into)

"""Bodies read from disk, and the directory results arrive in."""

from __future__ import annotations

import gzip
import resource
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from pacsor_tasks.errors import BadResponse, RateLimited, Retryable
from pacsor_tasks.milvue.bodies import FileBody, RelatedBody, Span, batches
from pacsor_tasks.milvue.inbox import Inbox
from pacsor_tasks.milvue.multipart import Truncated
from pacsor_tasks.milvue.outcomes import UnreadableInstance, UploadItem


def item(tmp_path: Path, name: str = "a.dcm", data: bytes = b"0123456789") -> UploadItem:
    path = tmp_path / name
    path.write_bytes(data)
    return UploadItem(path, f"1.2.{len(data)}")


def test_a_body_is_spans_of_its_file_and_bytes_between(tmp_path: Path) -> None:
    body = FileBody(item(tmp_path), [Span(0, 3), b"--", Span(7, 10)])
    assert (b"".join(body), len(body)) == (b"012--789", 8)
    assert b"".join(body) == b"012--789", "can be sent again"


def test_a_large_file_comes_in_blocks(tmp_path: Path) -> None:
    body = FileBody.whole(item(tmp_path, data=bytes(1_000_000)))
    assert max(map(len, body)) < 300_000
    assert sum(map(len, body)) == len(body) == 1_000_000


def test_a_file_that_shrinks_while_it_is_sent_is_unreadable(tmp_path: Path) -> None:
    upload = item(tmp_path)
    body = FileBody.whole(upload)
    upload.path.write_bytes(b"012")
    with pytest.raises(UnreadableInstance, match="shorter"):
        b"".join(body)


def test_a_file_that_vanishes_is_unreadable_and_no_network_error(tmp_path: Path) -> None:
    upload = item(tmp_path)
    body = FileBody.whole(upload)
    upload.path.unlink()
    with pytest.raises(UnreadableInstance, match="cannot be read: No such file"):
        b"".join(body)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInstance, match="empty"):
        FileBody.whole(item(tmp_path, data=b""))


def test_a_related_body_parses_as_mime_and_knows_its_length(tmp_path: Path) -> None:
    parts = [FileBody.whole(item(tmp_path, n, n.encode() * 9)) for n in ("a", "b", "c")]
    body = RelatedBody(parts)
    data = b"".join(body)
    assert len(data) == len(body)
    head = f"Content-Type: {body.content_type}\r\n\r\n".encode()
    mime = message_from_bytes(head + data)
    assert mime.get_content_type() == "multipart/related"
    assert mime.get_param("type") == "application/dicom"
    payload = mime.get_payload()
    assert isinstance(payload, list)
    found = [(p.get_content_type(), p.get_payload()) for p in payload if isinstance(p, Message)]
    assert found == [("application/dicom", letter * 9) for letter in "abc"]


def test_the_limit_is_asked_before_each_part_while_the_body_is_sent(tmp_path: Path) -> None:
    asked: list[int] = []
    body = RelatedBody([FileBody.whole(item(tmp_path))] * 3, lambda: asked.append(1))
    assert not asked
    b"".join(body)
    assert len(asked) == 3


def test_a_limit_that_refuses_comes_out_of_the_body(tmp_path: Path) -> None:
    def refuse() -> None:
        raise RateLimited("later", 1)

    with pytest.raises(RateLimited):
        b"".join(RelatedBody([FileBody.whole(item(tmp_path))], refuse))


@pytest.mark.parametrize(
    ("sizes", "limit", "groups"),
    [
        ([], 10, []),
        ([4, 4], 10, [[4, 4]]),
        ([4, 4, 4], 10, [[4, 4], [4]]),
        ([50], 10, [[50]]),
        ([1, 50, 1], 10, [[1], [50], [1]]),
        ([10, 1], 10, [[10], [1]]),
    ],
)
def test_batches_stay_below_the_limit_or_hold_one(
    tmp_path: Path, sizes: list[int], limit: int, groups: list[list[int]]
) -> None:
    bodies = [FileBody.whole(item(tmp_path, f"{n}", bytes(size))) for n, size in enumerate(sizes)]
    assert [[len(body) for body in group] for group in batches(bodies, limit)] == groups


def deliver(inbox: Inbox, data: bytes, *, gzipped: bool = False, size: int = 7) -> None:
    sink = inbox.sink(inbox.reserve(), gzipped=gzipped)
    for at in range(0, len(data), size):
        sink.write(memoryview(data)[at : at + size])
    sink.finish()


def test_results_appear_together_under_names_that_keep_their_order(tmp_path: Path) -> None:
    into = tmp_path / "run" / "command"
    with Inbox(into) as inbox:
        for n in range(12):
            deliver(inbox, b"file %d" % n)
        assert not list(into.glob("*.dcm"))
        paths = inbox.publish()
    assert [p.read_bytes() for p in paths] == [b"file %d" % n for n in range(12)]
    assert paths == sorted(into.iterdir())
    assert all(len(p.stem) == 32 and int(p.stem, 16) >= 0 for p in paths)


def test_the_same_bytes_twice_are_one_result(tmp_path: Path) -> None:
    with Inbox(tmp_path) as inbox:
        for data in (b"aa", b"bb", b"aa", b"c", b"bb"):
            deliver(inbox, data)
        assert [p.read_bytes() for p in inbox.publish()] == [b"aa", b"bb", b"c"]
    assert len(list(tmp_path.iterdir())) == 3


def test_entering_sweeps_out_what_an_earlier_try_left(tmp_path: Path) -> None:
    (tmp_path / "old.dcm").write_bytes(b"x")
    (tmp_path / "old.dcm.part").write_bytes(b"x")
    with Inbox(tmp_path) as inbox:
        deliver(inbox, b"new")
        assert [p.read_bytes() for p in inbox.publish()] == [b"new"]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    def fail(inbox: Inbox) -> None:
        deliver(inbox, b"whole")
        inbox.sink(inbox.reserve(), gzipped=False).write(b"half")
        raise Truncated("cut off")

    with pytest.raises(Truncated), Inbox(tmp_path) as inbox:
        fail(inbox)
    assert not list(tmp_path.iterdir())


def test_what_is_not_published_does_not_stay(tmp_path: Path) -> None:
    with Inbox(tmp_path) as inbox:
        deliver(inbox, b"whole")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 2, 13, 100_000])
def test_gzipped_results_are_unfolded_however_they_are_cut(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * 2000
    bodies = [
        gzip.compress(b"1" + data),
        gzip.compress(b"2" + data[:1000]) + gzip.compress(data[1000:]),
        gzip.compress(b"3" + data) + bytes(5),
    ]
    with Inbox(tmp_path) as inbox:
        for body in bodies:
            deliver(inbox, body, gzipped=True, size=size)
        assert [p.read_bytes() for p in inbox.publish()] == [n + data for n in (b"1", b"2", b"3")]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(gzip.compress(bytes(5000))[:-1], Truncated, id="cut in its trailer"),
        pytest.param(gzip.compress(bytes(5000))[:15], Truncated, id="cut in its data"),
        pytest.param(gzip.compress(b""), Truncated, id="nothing inside"),
        pytest.param(b"", Truncated, id="nothing at all"),
        pytest.param(b"DICM, not gzip", BadResponse, id="not gzip"),
        pytest.param(
            gzip.compress(bytes(50))[:-6] + b"\1\2\3\4\5\6", BadResponse, id="wrong checksum"
        ),
        pytest.param(gzip.compress(b"x") + b"rubbish", BadResponse, id="rubbish behind"),
    ],
)
def test_broken_gzip_is_told_apart(tmp_path: Path, body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error), Inbox(tmp_path) as inbox:
        deliver(inbox, body, gzipped=True)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_worth_a_retry(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"x")
    with pytest.raises(Retryable, match="cannot be written"), Inbox(blocked / "sub"):
        pass


def test_a_disk_that_refuses_more_is_worth_a_retry(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(Retryable, match="File too large"), Inbox(tmp_path) as inbox:
            deliver(inbox, bytes(2_000_000), size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())

"""The spool's tree: names, paths, revisions, results."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pacsor_tasks.errors import Permanent
from pacsor_tasks.spool import Manifest, Spool, write_durably
from tests.support.net import wait_until

STUDY = "1.2.3"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool."""
    made = Spool(tmp_path / "spool")
    made.prepare()
    made.prepare()
    return made


def make_revision(spool: Spool, token: str, *names: str) -> Path:
    directory = spool.revision_dir(STUDY, token)
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_bytes(b"x")
    manifest = Manifest(
        study_uid=STUDY,
        token=token,
        reason="quiet",
        first_at="a",
        last_at="b",
        n_instances=len(names),
        size_bytes=len(names),
        calling_aets=("CR1",),
        events=({"kind": "duplicate.same", "count": 2},),
    )
    (directory / "revision.json").write_text(manifest.to_json())
    return directory


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "", "a\0b", ".."])
def test_no_path_leaves_the_spool(spool: Spool, relative: str) -> None:
    with pytest.raises(Permanent):
        spool.path(relative)


def test_a_relative_path_means_a_file_and_back(spool: Spool) -> None:
    path = spool.path("ready/1.2/t/1.2.3.dcm")
    assert path == spool.root / "ready" / "1.2" / "t" / "1.2.3.dcm"
    assert spool.relative(path) == "ready/1.2/t/1.2.3.dcm"


def test_a_revision_is_listed_read_and_removed(spool: Spool) -> None:
    make_revision(spool, "t1", "1.2.dcm", "1.1.dcm")
    (spool.root / "ready" / STUDY / ".t2").mkdir()  # in the making
    assert list(spool.all_ready()) == [(STUDY, "t1")]
    assert spool.instance_paths(STUDY, "t1") == [
        f"ready/{STUDY}/t1/1.1.dcm",
        f"ready/{STUDY}/t1/1.2.dcm",
    ]
    assert spool.manifest(STUDY, "t1").calling_aets == ("CR1",)
    assert spool.manifest(STUDY, "t1").events == ({"kind": "duplicate.same", "count": 2},)
    spool.remove_revision(STUDY, "t1")
    spool.remove_revision(STUDY, "t1")
    assert list(spool.all_ready()) == []
    with pytest.raises(Permanent, match="t1 is not in the spool"):
        spool.instance_paths(STUDY, "t1")
    with pytest.raises(Permanent, match=r"t1 has no revision\.json"):
        spool.manifest(STUDY, "t1")


def test_the_last_revision_takes_the_studys_directory_with_it(spool: Spool) -> None:
    make_revision(spool, "t1")
    spool.remove_revision(STUDY, "t1")
    assert not any((spool.root / "ready").iterdir())
    assert not any((spool.root / "tmp").iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"study_uid": 1', "null"])
def test_a_damaged_manifest_is_said_to_be_one(spool: Spool, text: str) -> None:
    (make_revision(spool, "t1") / "revision.json").write_text(text)
    with pytest.raises(Permanent, match="cannot be read"):
        spool.manifest(STUDY, "t1")


def test_a_manifest_of_a_newer_release_is_read(spool: Spool) -> None:
    path = make_revision(spool, "t1") / "revision.json"
    path.write_text(path.read_text().replace("{", '{"colour": "blue",', 1))
    assert spool.manifest(STUDY, "t1").n_instances == 0


def test_the_outbox_tells_only_what_is_complete(spool: Spool) -> None:
    for token in ("t2", "t1", "t3"):
        write_durably(spool.root / "outbox" / token, b'{"study_uid": "1.2.3"}')
    (spool.root / "outbox" / "t4").write_bytes(b"rubbish")
    (spool.root / "outbox" / ".t5.1.tmp").write_bytes(b"")
    make_revision(spool, "t1")
    make_revision(spool, "t2")
    assert spool.outbox() == [(STUDY, "t1"), (STUDY, "t2")]
    spool.acknowledge("t1")
    spool.acknowledge("t1")
    assert spool.outbox() == [(STUDY, "t2")]


def test_names_that_could_lead_elsewhere_are_refused(spool: Spool) -> None:
    for bad in ("..", ".hidden", "a/b", "", "a\0", "x" * 200):
        with pytest.raises(Permanent):
            spool.results_dir("run", bad)
        with pytest.raises(Permanent):
            spool.acknowledge(bad)
        with pytest.raises(Permanent):
            spool.incoming_dir(bad)


def test_results_come_and_go(spool: Spool) -> None:
    directory = spool.results_dir("run-1", "smarturgences")
    assert directory.is_dir()
    (directory / "1.dcm").write_bytes(b"x")
    spool.remove_results("run-1")
    spool.remove_results("run-1")
    assert not directory.exists()


def test_what_is_quarantined_keeps_what_was_there(spool: Spool) -> None:
    moved = []
    for content in (b"first", b"second"):
        path = spool.results_dir("run-1", "x") / "1.dcm"
        path.write_bytes(content)
        moved.append(spool.quarantine("run-1", path))
        assert not path.exists()
    assert moved == ["quarantine/run-1/1.dcm", "quarantine/run-1/1-1.dcm"]
    assert [spool.path(p).read_bytes() for p in moved] == [b"first", b"second"]


def test_a_request_needs_a_study_that_is_coming_in(spool: Spool) -> None:
    assert not spool.request_stable(STUDY)
    spool.incoming_dir(STUDY).mkdir()
    assert spool.request_stable(STUDY)
    assert [p.name for p in (spool.root / "requests").iterdir()] == [STUDY]
    with pytest.raises(Permanent):
        spool.request_stable("../x")


def test_there_is_room(spool: Spool) -> None:
    assert spool.free_bytes() > 0


def test_many_hold_a_study_together_and_one_alone(spool: Spool) -> None:
    entered = threading.Event()

    def close() -> None:
        with spool.study_lock(STUDY, exclusive=True):
            entered.set()

    with spool.study_lock(STUDY, exclusive=False), spool.study_lock(STUDY, exclusive=False):
        closing = threading.Thread(target=close)
        closing.start()
        assert not entered.wait(0.05)
    closing.join(10)
    assert entered.is_set()


def test_senders_without_a_pause_do_not_starve_the_one_who_closes(spool: Spool) -> None:
    stop, closed = threading.Event(), threading.Event()

    def send() -> None:
        while not stop.is_set():
            with spool.study_lock(STUDY, exclusive=False):
                stop.wait(0.002)

    def close() -> None:
        with spool.study_lock(STUDY, exclusive=True):
            closed.set()

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    closing = threading.Thread(target=close)
    closing.start()
    try:
        wait_until(closed.is_set)
    finally:
        stop.set()
        for thread in (*senders, closing):
            thread.join(10)

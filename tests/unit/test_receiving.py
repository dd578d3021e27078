"""Studies between the first instance and the ledger, on a real spool."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsor_tasks.arrivals import Arrival
from pacsor_tasks.receiving import JOURNAL, Receiving
from pacsor_tasks.spool import Spool
from receiver import journal
from receiver.processes import LOCK_SUFFIX
from tests.support.spools import Site, open_site

UID, OTHER = "1.2.3", "1.2.4"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(Spool(tmp_path / "spool")) as made:
        yield made


@pytest.fixture
def receiving(site: Site) -> Receiving:
    return Receiving(site.spool, quiet_s=30, max_wait_s=600)


def only(arrivals: list[Arrival]) -> Arrival:
    (arrival,) = arrivals
    return arrival


def test_names_are_those_of_the_receiver() -> None:
    assert JOURNAL == journal.NAME
    assert LOCK_SUFFIX == ".lock"


def test_an_empty_spool_and_one_that_is_not_there_hold_nothing(
    receiving: Receiving, tmp_path: Path
) -> None:
    assert receiving.arrivals() == []
    nowhere = Receiving(Spool(tmp_path / "nowhere"), quiet_s=1, max_wait_s=2)
    assert nowhere.arrivals() == nowhere.of(UID) == nowhere.of("../x") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_study_is_followed_from_its_first_instance_to_the_ledger(
    site: Site, receiving: Receiving
) -> None:
    began = time.time()
    association = site.receive(UID, 3)
    seen = only(receiving.arrivals())
    assert (seen.study_uid, seen.state, seen.n_instances) == (UID, "receiving", 3)
    assert seen.n_associations == 1
    assert seen.first_at is not None
    assert seen.first_at == pytest.approx(began, abs=5)
    assert seen.due_at == seen.first_at + 600

    association.close()
    seen = only(receiving.arrivals())
    assert (seen.state, seen.n_associations) == ("settling", 0)
    assert seen.last_at is not None
    assert seen.due_at is not None
    assert seen.due_at >= seen.last_at + 30

    site.spool.request_stable(UID)
    assert only(receiving.arrivals()).reason == "requested: closing"

    token = site.close(UID).token
    seen = only(receiving.arrivals())
    assert (seen.state, seen.n_instances, seen.token) == ("stable", 3, token)
    assert "pacsor.ingest is not done yet" in seen.reason
    assert seen.since_at is not None

    site.spool.acknowledge(token)
    assert receiving.arrivals() == []


def test_one_study_may_wait_in_several_places(site: Site, receiving: Receiving) -> None:
    site.received(UID)
    site.close(UID)
    site.received(UID, first=2)
    site.received(OTHER)
    assert {a.state for a in receiving.of(UID)} == {"stable", "settling"}
    assert len(receiving.of(OTHER)) == 1
    assert set(receiving.by_study()) == {UID, OTHER}


def test_the_count_follows_what_arrives_and_is_not_made_again_for_nothing(
    site: Site, receiving: Receiving
) -> None:
    site.received(UID)
    directory = site.spool.incoming_dir(UID)
    assert only(receiving.arrivals()).n_instances == 1
    site.received(UID, 4, first=2)
    assert only(receiving.arrivals()).n_instances == 5
    long_ago = time.time() - 10
    os.utime(directory, (long_ago, long_ago))
    assert only(receiving.arrivals()).n_instances == 5
    (directory / "1.9.dcm").write_bytes(b"x")
    os.utime(directory, (long_ago, long_ago))  # unseen: the count stands
    assert only(receiving.arrivals()).n_instances == 5


def test_an_instance_that_came_twice_is_an_arrival(site: Site, receiving: Receiving) -> None:
    site.received(UID)
    long_ago = time.time() - 20
    for path in (site.spool.incoming_dir(UID), site.spool.incoming_dir(UID) / JOURNAL):
        os.utime(path, (long_ago, long_ago))
    assert only(receiving.arrivals()).last_at == pytest.approx(long_ago)
    site.again(UID)
    assert only(receiving.arrivals()).last_at == pytest.approx(time.time(), abs=5)


def test_marks_of_dead_processes_do_not_count(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with open_site(spool) as site:
        site.receive(UID)
    dead = spool.root / "processes" / f"{site.process.id}{LOCK_SUFFIX}"
    dead.touch()  # as a crash leaves it
    seen = only(Receiving(spool, quiet_s=30, max_wait_s=600).arrivals())
    assert (seen.n_associations, seen.reason) == (0, "the receiver is not running")


def test_a_revision_in_the_making_is_shown_as_closing(site: Site, receiving: Receiving) -> None:
    site.received(UID, 2)
    assert receiving.arrivals()
    study_dir = site.spool.root / "ready" / UID
    study_dir.mkdir()
    hidden = site.spool.incoming_dir(UID).rename(study_dir / ".t1")
    fresh = Receiving(site.spool, quiet_s=30, max_wait_s=600)
    for looks in (receiving, fresh):
        for found in (looks.arrivals(), looks.of(UID)):
            seen = only(found)
            assert (seen.state, seen.n_instances, seen.token) == ("closing", 2, "t1")
    (site.spool.root / "outbox" / "t1").write_text(f'{{"study_uid": "{UID}"}}')
    assert only(receiving.arrivals()).state == "closing"
    hidden.rename(study_dir / "t1")
    assert only(receiving.arrivals()).state == "stable"  # without a manifest, too
    shutil.rmtree(study_dir)
    assert Receiving(site.spool, quiet_s=30, max_wait_s=600).arrivals() == []


def test_damage_hides_nothing_else(site: Site, receiving: Receiving) -> None:
    site.received(UID)
    (site.spool.incoming_dir(UID) / JOURNAL).write_bytes(b"\n[1]\n")
    (site.spool.root / "incoming" / "not a uid").mkdir()
    (site.spool.root / "incoming" / "1.9").write_bytes(b"a file")
    (site.spool.root / "outbox" / "t0").write_bytes(b"{")
    (site.spool.root / "processes" / "x").write_bytes(b"")
    seen = next(a for a in receiving.arrivals() if a.study_uid == UID)
    assert seen.first_at is None


def test_the_public_json_has_the_names_of_the_ledgers(site: Site, receiving: Receiving) -> None:
    site.received(UID)
    said = only(receiving.arrivals()).to_json()
    assert set(said) == {
        "study_instance_uid", "state", "reason", "due_at", "since_at", "instances", "first_at",
        "last_at", "associations", "token",
    }  # fmt: skip
    assert said["last_at"].endswith("Z")
    assert said["since_at"] is None


def test_a_study_that_moves_on_during_the_look_is_in_the_spool_or_the_ledger(
    site: Site, receiving: Receiving
) -> None:
    present: list[str] = []
    known: set[str] = set()
    missed: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for uid in present[-1:]:
                if not receiving.of(uid) and uid not in known:
                    missed.append(uid)

    looking = threading.Thread(target=look)
    looking.start()
    for n in range(60):
        uid = f"{UID}.{n}"
        site.received(uid)
        present.append(uid)
        token = site.close(uid).token
        known.add(uid)
        site.spool.acknowledge(token)
    stop.set()
    looking.join()
    assert missed == []

"""What a start makes of the partial files it finds, with DURABILITY=group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pacsor_tasks.dicom.headers import data_set_offset, read_header
from pacsor_tasks.spool import Spool
from receiver import journal
from receiver.associations import OpenAssociation
from receiver.closing import Closer
from receiver.durability import Durability
from receiver.incoming import Incoming, Outcome
from receiver.processes import Process, alive
from receiver.rescue import Rescuer
from receiver.stabilisation import Sweeper
from tests.support.instances import write_instance


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty one."""
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """A DICOM file."""
    return write_instance(tmp_path / "sent", n_pixel_bytes=50_000)


def store(process: Process, path: Path) -> Outcome:
    association = OpenAssociation(process, "CR1", "10.0.0.1:4711")
    incoming = Incoming(process, "keep-first", durability=Durability.GROUP)
    data_set = path.read_bytes()[data_set_offset(path)[1] :]
    try:
        return incoming.store(read_header(path), data_set, association)
    finally:
        association.close()


def stored(spool: Spool) -> list[Path]:
    return sorted(spool.root.glob("incoming/*/*.dcm"))


def lose_the_name(spool: Spool) -> Path:
    """As after a crash of the machine: the directory's change did not reach the disk."""
    (path,) = stored(spool)
    partial = spool.root / "tmp" / "1-dead.1.part"
    path.rename(partial)
    (path.parent / journal.NAME).unlink()
    path.parent.rmdir()
    return partial


def start(spool: Spool) -> None:
    Sweeper(
        Closer(spool, "keep-first"), quiet_s=60, max_wait_s=60, on_closed=lambda _: None
    ).recover()


def test_an_instance_whose_name_was_lost_gets_it_again(spool: Spool, instance: Path) -> None:
    assert store(Process(spool, "1-dead"), instance) is Outcome.STORED
    content = stored(spool)[0].read_bytes()
    lose_the_name(spool)
    start(spool)
    (path,) = stored(spool)
    header = read_header(path)
    assert path == spool.incoming_dir(header.study_uid) / f"{header.sop_instance_uid}.dcm"
    assert path.read_bytes() == content
    assert [path for path in (spool.root / "tmp").rglob("*") if path.is_file()] == []
    assert list((spool.root / "associations").iterdir()) == []


def test_it_is_rescued_once_when_its_name_is_there_after_all(spool: Spool, instance: Path) -> None:
    store(Process(spool, "1-dead"), instance)
    (path,) = stored(spool)
    os.link(path, spool.root / "tmp" / "1-dead.1.part")
    start(spool)
    assert stored(spool) == [path]
    assert [path for path in (spool.root / "tmp").rglob("*") if path.is_file()] == []
    assert "duplicate.same" not in (path.parent / journal.NAME).read_text()


def test_what_was_sent_again_meanwhile_is_not_there_twice(spool: Spool, instance: Path) -> None:
    store(Process(spool, "1-dead"), instance)
    lose_the_name(spool)
    store(Process(spool, "2-dead"), instance)
    start(spool)
    assert len(stored(spool)) == 1
    assert [path for path in (spool.root / "tmp").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("n_bytes", [0, 100, 4096, 50_000])
def test_an_instance_that_was_never_whole_is_deleted(
    spool: Spool, instance: Path, n_bytes: int
) -> None:
    store(Process(spool, "1-dead"), instance)
    os.truncate(lose_the_name(spool), n_bytes)
    start(spool)
    assert stored(spool) == []
    assert [path for path in (spool.root / "tmp").rglob("*") if path.is_file()] == []


def test_what_cannot_be_rescued_now_stays_for_later(spool: Spool, instance: Path) -> None:
    store(Process(spool, "1-dead"), instance)
    partial = lose_the_name(spool)
    in_the_way = spool.incoming_dir(read_header(partial).study_uid)
    in_the_way.touch()  # where a directory must be
    start(spool)
    assert partial.exists()
    in_the_way.unlink()
    start(spool)
    assert not partial.exists()
    assert len(stored(spool)) == 1


def test_the_partial_files_of_the_living_are_left_alone(spool: Spool, instance: Path) -> None:
    with alive(spool) as process:
        store(process, instance)
        partial = lose_the_name(spool)
        own = partial.rename(partial.with_name(f"{process.new_name()}.part"))
        assert Rescuer(spool, "keep-first").rescue() == set()
        assert own.exists()


@pytest.mark.parametrize("level", Durability)
def test_what_is_stored_is_the_same_at_each_level(
    spool: Spool, instance: Path, level: Durability
) -> None:
    process = Process(spool, "1-dead")
    association = OpenAssociation(process, "CR1", "10.0.0.1:4711")
    data_set = instance.read_bytes()[data_set_offset(instance)[1] :]
    incoming = Incoming(process, "keep-first", durability=level)
    assert incoming.store(read_header(instance), data_set, association) is Outcome.STORED
    assert incoming.store(read_header(instance), data_set, association) is Outcome.SAME
    (path,) = stored(spool)
    syntax, start_ = data_set_offset(path)
    assert syntax == read_header(instance).transfer_syntax_uid
    assert path.read_bytes()[start_:] == data_set
    assert [path for path in (spool.root / "tmp").rglob("*") if path.is_file()] == []

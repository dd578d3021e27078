"""Refused associations: counted, bounded, told without flooding the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pacsor_tasks.refusals import MANY, MAX_KEPT, MAX_PENDING, NAME, Reason, Refusal, Refusals, read
from pacsor_tasks.spool import Spool


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Spool(tmp_path).prepare()
    return tmp_path


class Clock:
    """A time of day the test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def refusal(calling_aet: str = "CT1", address: str = "10.0.0.1") -> Refusal:
    return Refusal(
        address=address, reason=Reason.CALLING_AET, calling_aet=calling_aet, called_aet="MILVUE"
    )


def test_the_same_refusal_is_counted_over_processes(root: Path) -> None:
    clock = Clock()
    one, other = Refusals(root, clock), Refusals(root, clock)
    one.add(refusal())
    clock.now += 5
    one.add(refusal())
    other.add(refusal())
    other.add(refusal("CT2"))
    one.flush()
    other.flush()
    other.flush()
    found = read(root)
    assert found.totals == {"calling_aet": 4}
    counts = {kind.refusal.calling_aet: kind.count for kind in found.kinds}
    assert counts == {"CT1": 3, "CT2": 1}
    first = next(kind for kind in found.kinds if kind.count == 3)
    assert (first.first_at, first.last_at) == (1_000_000.0, 1_000_005.0)
    assert first.to_json() == {
        "address": "10.0.0.1", "reason": "calling_aet", "calling_aet": "CT1",
        "called_aet": "MILVUE", "detail": "", "count": 3,
        "text": "the calling AE title is not in the allow list",
        "first_at": "1970-01-12T13:46:40.000+00:00", "last_at": "1970-01-12T13:46:45.000+00:00",
    }  # fmt: skip


def test_many_names_at_once_do_not_fill_memory_or_disk(root: Path) -> None:
    clock = Clock()
    refusals = Refusals(root, clock)
    for batch in range(4):
        for n in range(MAX_PENDING * 3):
            clock.now += 0.001
            refusals.add(refusal(f"X{batch}_{n}"))
        refusals.flush()
    found = read(root)
    assert len(found.kinds) == MAX_KEPT
    assert found.totals == {"calling_aet": 4 * 3 * MAX_PENDING}, "nobody is left out of the count"
    assert found.kinds[0].refusal.address == MANY
    assert found.kinds[0].last_at == max(kind.last_at for kind in found.kinds)


def test_a_peer_that_insists_gets_one_line_a_minute(root: Path) -> None:
    clock = Clock()
    refusals = Refusals(root, clock)
    with capture_logs() as lines:
        for _ in range(50):
            refusals.add(refusal())
        refusals.add(refusal(address="10.0.0.2"))
        clock.now += 61
        refusals.add(refusal())
    assert [(line["address"], line["n_more_since_last_line"]) for line in lines] == [
        ("10.0.0.1", 0), ("10.0.0.2", 0), ("10.0.0.1", 49),
    ]  # fmt: skip
    assert {line["event"] for line in lines} == {"association.refused"}


def test_what_cannot_be_written_is_kept_for_the_next_time(root: Path) -> None:
    refusals = Refusals(root)
    refusals.add(refusal())
    (root / "locks").rename(root / "away")
    refusals.flush()
    assert read(root).totals == {}
    (root / "away").rename(root / "locks")
    refusals.add(refusal())
    refusals.flush()
    assert read(root).totals == {"calling_aet": 2}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kinds": [{}], "totals": {}}', '{"kinds": 3, "totals": {}}']
)
def test_a_damaged_file_is_begun_anew(root: Path, text: str) -> None:
    (root / NAME).write_text(text)
    assert read(root).kinds == ()
    refusals = Refusals(root)
    refusals.add(refusal())
    refusals.flush()
    assert read(root).totals == {"calling_aet": 1}

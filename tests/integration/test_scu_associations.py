"""Several associations to one PACS that answers slowly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import evt

from pacsor_tasks.dicom.scu import StoreItem, store
from pacsor_tasks.dicom.senders import SAMPLE
from pacsor_tasks.errors import PeerUnavailable
from tests.support.pacs_peers import Answers, Script, item_of, scripted, write_instance

CONTEXTS = [(SecondaryCaptureImageStorage, [ExplicitVRLittleEndian])]
N = 60


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[StoreItem]:
    directory = tmp_path_factory.mktemp("instances")
    return [item_of(write_instance(directory), n) for n in range(N)]


def slowly(_event: evt.Event, _n: int) -> int:
    time.sleep(0.03)  # as a PACS with Nagle's algorithm on
    return 0


def delivered_once(pacs: Script, answers: Answers, items: list[StoreItem]) -> None:
    assert answers.statuses == [0] * N
    assert Counter(pacs.stored) == Counter(item.sop_instance_uid for item in items)


def test_a_slow_pacs_gets_more_associations(items: list[StoreItem]) -> None:
    answers, threads = Answers(), threading.active_count()
    with scripted(CONTEXTS, slowly) as pacs:
        store(replace(pacs.pacs, associations=3), items, answers)
        assert len(pacs.proposals) == 3
    delivered_once(pacs, answers, items)
    assert threading.active_count() <= threads


def test_no_more_than_are_allowed(items: list[StoreItem]) -> None:
    answers = Answers()
    with scripted(CONTEXTS, slowly) as pacs:
        store(pacs.pacs, items, answers)
        assert len(pacs.proposals) == 1
    delivered_once(pacs, answers, items)


def test_a_pacs_that_takes_no_second_association_gets_everything_over_the_first(
    items: list[StoreItem],
) -> None:
    answers = Answers()
    with scripted(CONTEXTS, slowly, maximum_associations=1) as pacs:
        store(replace(pacs.pacs, associations=4), items, answers)
    delivered_once(pacs, answers, items)


def test_what_a_lost_association_had_goes_over_another(items: list[StoreItem]) -> None:
    answers, lock = Answers(), threading.Lock()
    helpers: set[object] = set()

    def abort_the_second(event: evt.Event, n: int) -> int:
        if n > SAMPLE:
            with lock:
                if n > SAMPLE + 6 and not helpers and event.assoc is not first[0]:
                    helpers.add(event.assoc)
                    event.assoc.abort()
        elif not first:
            first.append(event.assoc)
        return slowly(event, n)

    first: list[object] = []  # by identity: names repeat within a second
    with scripted(CONTEXTS, abort_the_second) as pacs:
        store(replace(pacs.pacs, associations=2), items, answers)
    assert helpers
    assert answers.statuses == [0] * N
    assert set(pacs.stored) == {item.sop_instance_uid for item in items}


def test_whoever_settles_can_stop_all_of_them(items: list[StoreItem]) -> None:
    n_settled = 0

    def stop(*_: object) -> None:
        nonlocal n_settled
        n_settled += 1
        if n_settled > 20:
            raise KeyError("cancelled")

    threads = threading.active_count()
    with scripted(CONTEXTS, slowly) as pacs:
        with pytest.raises(KeyError, match="cancelled"):
            store(replace(pacs.pacs, associations=3), items, stop)
        n_stored = len(pacs.stored)
    assert n_stored < N
    assert threading.active_count() <= threads


def test_a_pacs_that_goes_away_ends_all_of_them(items: list[StoreItem]) -> None:
    def vanish(event: evt.Event, n: int) -> int:
        if n > 2 * SAMPLE:
            event.assoc.abort()
        return slowly(event, n)

    answers = Answers()
    with scripted(CONTEXTS, vanish) as pacs, pytest.raises(PeerUnavailable, match=f"of {N} stored"):
        store(replace(pacs.pacs, associations=3), items, answers)
    assert set(answers.statuses) == {0}


def test_refused_instances_are_told_one_by_one_whatever_sent_them(items: list[StoreItem]) -> None:
    refused = {item.sop_instance_uid for item in items[::7]}

    def answer(event: evt.Event, n: int) -> int:
        slowly(event, n)
        uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        return 0xA700 if uid in refused else 0

    answers = Answers()
    with scripted(CONTEXTS, answer) as pacs, pytest.raises(PeerUnavailable, match="not stored"):
        store(replace(pacs.pacs, associations=3), items, answers)
    told = {item.sop_instance_uid for item, status, _ in answers.given if status == 0xA700}
    assert told == refused


def test_a_missing_file_stops_nothing(tmp_path: Path, items: list[StoreItem]) -> None:
    gone = replace(items[0], path=tmp_path / "gone.dcm", sop_instance_uid="1.2.3")
    answers = Answers()
    with scripted(CONTEXTS, slowly) as pacs, pytest.raises(Exception, match="0x0117"):
        store(replace(pacs.pacs, associations=2), [*items[1:], gone], answers)
    assert Counter(answers.statuses) == {0: N - 1, 0x0117: 1}

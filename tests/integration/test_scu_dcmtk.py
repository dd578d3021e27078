"""Deliveries to DCMTK's storescp and dcmqrscp: what arrives is what was there."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacsor_tasks.dicom.scu import StoreItem, echo, store
from pacsor_tasks.errors import PeerUnavailable, Rejected
from tests.support.pacs_peers import (
    Answers,
    data_set_bytes,
    dcmqrscp,
    item_of,
    received,
    storescp,
    write_instance,
)


def test_instances_arrive_byte_by_byte(tmp_path: Path) -> None:
    items = [
        item_of(write_instance(tmp_path, transfer_syntax_uid=syntax), key)
        for key, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian) * 3)
    ]
    answers = Answers()
    with storescp(tmp_path / "in") as pacs:
        store(pacs, items, answers)
    arrived = received(tmp_path / "in")
    assert answers.given == [(item, 0, "Success") for item in items]
    for item in items:
        assert data_set_bytes(arrived[item.sop_instance_uid]) == data_set_bytes(item.path)


def test_an_empty_delivery_does_not_even_connect(tmp_path: Path) -> None:
    with storescp(tmp_path / "in") as pacs:
        pass
    store(pacs, [], Answers())


def test_echo_answers(tmp_path: Path) -> None:
    with storescp(tmp_path / "in") as pacs:
        echo(pacs)


@pytest.mark.parametrize("pdu", ["4096", "16384", "131072"])
def test_data_is_cut_to_the_peers_pdu(tmp_path: Path, pdu: str) -> None:
    item = item_of(write_instance(tmp_path))
    with storescp(tmp_path / "in", "-pdu", pdu) as pacs:
        store(pacs, [item], Answers())
    assert data_set_bytes(received(tmp_path / "in")[item.sop_instance_uid]) == data_set_bytes(
        item.path
    )


def test_an_archive_takes_them(tmp_path: Path) -> None:
    items = [item_of(write_instance(tmp_path, ComputedRadiographyImageStorage)) for _ in range(3)]
    with dcmqrscp(tmp_path / "qr") as pacs:
        echo(pacs)
        answers = Answers()
        store(pacs, items, answers)
    assert answers.statuses == [0, 0, 0]
    assert len(list((tmp_path / "qr" / "db").glob("*[!x]"))) >= 3


def test_an_unknown_called_ae_title_is_named_with_its_setting(tmp_path: Path) -> None:
    with (
        dcmqrscp(tmp_path / "qr") as pacs,
        pytest.raises(Rejected, match="'NOBODY' is not its AE title: set PACS_AET_2"),
    ):
        echo(replace(pacs, name="storescu-2", called_aet="NOBODY"))


def test_a_refusing_pacs_is_a_permanent_error(tmp_path: Path) -> None:
    with (
        storescp(tmp_path / "in", "--refuse") as pacs,
        pytest.raises(Rejected, match="rejected the association: no reason given"),
    ):
        store(pacs, [item_of(write_instance(tmp_path))], Answers())


@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_an_abort_stops_the_delivery_for_now(tmp_path: Path, option: str) -> None:
    items = [item_of(write_instance(tmp_path)) for _ in range(2)]
    answers = Answers()
    with (
        storescp(tmp_path / "in", option) as pacs,
        pytest.raises(PeerUnavailable, match="0 of 2 stored"),
    ):
        store(pacs, items, answers)
    assert answers.given == []


def test_memory_is_flat_for_a_large_instance(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    small = write_instance(tmp_path)
    n_bytes = 500 << 20
    with path.open("wb") as out:
        content = small.read_bytes()
        out.write(content[: content.rindex(b"OW\0\0") + 4] + n_bytes.to_bytes(4, "little"))
        out.truncate(out.tell() + n_bytes)  # sparse
    with storescp(tmp_path / "in", "--ignore") as pacs:
        store(pacs, [item_of(small)], Answers())  # what is imported on the way is not counted
        tracemalloc.start()
        try:
            store(pacs, [item_of(path)], Answers())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 << 20


def test_a_big_endian_instance_is_offered_as_it_is_first(tmp_path: Path) -> None:
    item: StoreItem = item_of(write_instance(tmp_path, transfer_syntax_uid=ExplicitVRBigEndian))
    with storescp(tmp_path / "in") as pacs:
        store(pacs, [item], Answers())
    arrived = received(tmp_path / "in")[item.sop_instance_uid]
    assert item_of(arrived).transfer_syntax_uid == ExplicitVRBigEndian

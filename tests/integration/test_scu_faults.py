"""PACSs that answer badly, late or not at all: what the SCU says, and that it always ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import StoragePresentationContexts, evt
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from pacsor_tasks.dicom.association import associate
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.scu import echo, store
from pacsor_tasks.errors import BadResponse, PeerUnavailable, Permanent, Rejected
from tests.support.net import free_port, wait_until
from tests.support.pacs_peers import (
    Answers,
    data_set_bytes,
    item_of,
    pacs_at,
    raw_server,
    read_pdu,
    scripted,
    write_instance,
)

SC = SecondaryCaptureImageStorage
CONTEXTS = [(SC, [ExplicitVRLittleEndian])]


def answer(*statuses: int) -> Callable[[evt.Event, int], int]:
    return lambda _event, n: statuses[n - 1]


def accept(connection: socket.socket, max_pdu: int = 16384, result: int = 0) -> None:
    """Answer the association request and its first context."""
    request = read_pdu(connection)

    def element(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    syntax = ExplicitVRLittleEndian if str(SC).encode() in request else ImplicitVRLittleEndian
    body = (
        struct.pack(">HH", 1, 0)
        + request[10:74]
        + element(0x10, b"1.2.840.10008.3.1.1.1")
        + element(0x21, bytes((1, 0, result, 0)) + element(0x40, syntax.encode()))
        + element(0x50, element(0x51, struct.pack(">L", max_pdu)) + element(0x52, b"1.2.3"))
    )
    connection.sendall(struct.pack(">BBL", 2, 0, len(body)) + body)


def response(
    message_id: int = 1, field: int = 0x8001, context_id: int = 1, status: int = 0
) -> bytes:
    """A C-STORE response as a P-DATA PDU."""
    pairs = ((0x0100, field), (0x0120, message_id), (0x0800, 0x0101), (0x0900, status))
    body = b"".join(struct.pack("<HHLH", 0, element, 2, value) for element, value in pairs)
    return struct.pack(">BBLLBB", 4, 0, len(body) + 6, len(body) + 2, context_id, 3) + body


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def test_one_refused_instance_does_not_stop_the_others(tmp_path: Path) -> None:
    items = [item_of(write_instance(tmp_path), key) for key in range(4)]
    answers = Answers()
    with (
        scripted(CONTEXTS, answer(0, 0xC000, 0xB000, 0x0111)) as pacs,
        pytest.raises(
            Rejected, match=r"1 of 4 not stored; first 0xC000 \(Cannot Understand\)"
        ) as e,
    ):
        store(pacs.pacs, items, answers)
    assert answers.given == [
        (items[0], 0, "Success"),
        (items[1], 0xC000, "Cannot Understand"),
        (items[2], 0xB000, "Coercion of Data Elements"),
        (items[3], 0x0111, "Duplication SOP Instance"),
    ]
    assert items[1].sop_instance_uid in str(e.value)
    assert (len(pacs.proposals), pacs.released, pacs.aborted) == (1, 1, 0)


def test_what_may_succeed_later_wins_over_what_may_not(tmp_path: Path) -> None:
    items = [item_of(write_instance(tmp_path)) for _ in range(3)]
    with (
        scripted(CONTEXTS, answer(0xA900, 0xA700, 0)) as pacs,
        pytest.raises(PeerUnavailable, match="2 of 3 not stored; first 0xA700"),
    ):
        store(pacs.pacs, items, Answers())


def test_an_error_names_no_patient(tmp_path: Path) -> None:
    with (
        scripted(CONTEXTS, answer(0xC000)) as pacs,
        pytest.raises(Rejected) as e,
    ):
        store(pacs.pacs, [item_of(write_instance(tmp_path))], Answers())
    assert "Test^Only" not in str(e.value)
    assert "T1" not in str(e.value)


def test_an_abort_in_the_middle_tells_what_was_stored(tmp_path: Path) -> None:
    items = [item_of(write_instance(tmp_path)) for _ in range(3)]

    def abort_second(event: evt.Event, n: int) -> int:
        if n == 2:
            event.assoc.abort()
        return 0

    answers = Answers()
    with (
        scripted(CONTEXTS, abort_second) as pacs,
        pytest.raises(PeerUnavailable, match="1 of 3 stored"),
    ):
        store(pacs.pacs, items, answers)
    assert answers.statuses == [0]


def test_an_unknown_calling_ae_title_is_named_with_its_setting(tmp_path: Path) -> None:
    with (
        scripted(CONTEXTS, require_calling_aet=["OTHER"]) as pacs,
        pytest.raises(Rejected, match=r"calling AE title 'MILVUE': .* or set MILVUE_AET$"),
    ):
        echo(pacs.pacs)


def test_a_full_pacs_is_tried_again() -> None:
    with (
        scripted(CONTEXTS, maximum_associations=1) as pacs,
        associate(pacs.pacs, [Pair(SC, ExplicitVRLittleEndian)]),
        pytest.raises(PeerUnavailable, match="limit of associations"),
    ):
        echo(pacs.pacs)


def test_a_class_nobody_wants_is_named_per_instance(tmp_path: Path) -> None:
    wanted, other = (
        item_of(write_instance(tmp_path)),
        item_of(write_instance(tmp_path, "1.2.840.10008.5.1.4.1.1.1")),
    )
    answers = Answers()
    with (
        scripted(CONTEXTS) as pacs,
        pytest.raises(
            Rejected, match="accepted for Computed Radiography Image Storage in Explicit VR"
        ),
    ):
        store(pacs.pacs, [other, wanted], answers)
    assert [(item, status) for item, status, _ in answers.given] == [(wanted, 0), (other, 0x0122)]
    # The second association asked for the other native syntax, which the PACS has to take.
    assert pacs.proposals[1] == [(other.sop_class_uid, [ImplicitVRLittleEndian])]


def test_a_missing_file_does_not_stop_the_others(tmp_path: Path) -> None:
    items = [item_of(write_instance(tmp_path)) for _ in range(3)]
    items[1].path.unlink()
    answers = Answers()
    with scripted(CONTEXTS) as pacs, pytest.raises(Rejected, match="1 of 3 not stored"):
        store(pacs.pacs, items, answers)
    assert answers.statuses == [0, 0x0117, 0]


def test_a_file_of_another_syntax_than_said_is_not_sent(tmp_path: Path) -> None:
    item = replace(
        item_of(write_instance(tmp_path, transfer_syntax_uid=ImplicitVRLittleEndian)),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    answers = Answers()
    with scripted(CONTEXTS) as pacs, pytest.raises(Rejected):
        store(pacs.pacs, [item], answers)
    assert pacs.stored == []
    assert (
        answers.given[0][2]
        == "the file is Implicit VR Little Endian, not Explicit VR Little Endian"
    )


def test_200_pairs_go_over_several_associations(tmp_path: Path) -> None:
    known = (str(context.abstract_syntax) for context in StoragePresentationContexts)
    classes = [uid for uid in known if uid_to_service_class(uid) is StorageServiceClass][:100]
    items = [
        item_of(write_instance(tmp_path, sop_class, syntax))
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        for sop_class in classes
    ]
    answers = Answers()
    with scripted([(sop_class, [ExplicitVRLittleEndian]) for sop_class in classes]) as pacs:
        store(pacs.pacs, items, answers)
    # 100 explicit and 28 implicit ones; the other 72 implicit ones, refused; those re-encoded.
    assert [len(proposal) for proposal in pacs.proposals] == [128, 72, 72]
    assert answers.statuses == [0] * 200
    assert sorted(pacs.stored) == sorted(item.sop_instance_uid for item in items)


def test_a_callers_error_aborts_the_association(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise KeyError

    with scripted(CONTEXTS) as pacs:
        with pytest.raises(KeyError):
            store(pacs.pacs, [item_of(write_instance(tmp_path))], fail)
        wait_until(lambda: pacs.aborted)


def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(PeerUnavailable, match=rf"storescu \(127.0.0.1:{port}\): no TCP connection"):
        echo(pacs_at(port))


def test_no_such_host() -> None:
    with pytest.raises(PeerUnavailable, match=r"pacs\.invalid:104"):
        echo(pacs_at(104, host="pacs.invalid"))


def test_a_listener_that_never_accepts_is_left_after_the_connect_timeout() -> None:
    # A full backlog drops the SYN: the connection is never made.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)),
            pytest.raises(PeerUnavailable, match=r"within 0\.3 s"),
        ):
            echo(pacs_at(port, connect_timeout_s=0.3))


def test_silence_after_the_connection_is_left_after_the_connect_timeout() -> None:
    with raw_server(until_closed) as pacs, pytest.raises(PeerUnavailable, match=r"within 0\.2 s"):
        echo(replace(pacs, connect_timeout_s=0.2))


def test_a_trickled_answer_does_not_prolong_the_wait() -> None:
    def trickle(connection: socket.socket) -> None:
        read_pdu(connection)
        stop = threading.Event()
        while not stop.wait(0.05):
            connection.sendall(b"\2")

    with raw_server(trickle) as pacs, pytest.raises((PeerUnavailable, BadResponse)):
        echo(replace(pacs, connect_timeout_s=0.3))


def test_silence_after_an_instance_is_left_after_the_timeout(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        until_closed(connection)

    threads = threading.active_count()
    with (
        raw_server(serve) as pacs,
        pytest.raises(PeerUnavailable, match=r"did not answer within 0\.2 s; 0 of 1 stored"),
    ):
        store(replace(pacs, timeout_s=0.2), [item_of(write_instance(tmp_path))], Answers())
    assert threading.active_count() == threads


def test_a_peer_that_stops_reading_is_left_after_the_timeout(tmp_path: Path) -> None:
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        accept(connection)
        done.wait(20)

    path = write_instance(tmp_path)
    with path.open("ab") as out:
        out.truncate(64 << 20)  # more than any socket buffer
    with raw_server(serve) as pacs:
        with pytest.raises(PeerUnavailable, match=r"did not take data within 0\.3 s"):
            store(replace(pacs, timeout_s=0.3), [item_of(path)], Answers())
        done.set()


def test_a_connection_lost_while_waiting_for_an_answer(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        connection.recv(10)

    with raw_server(serve) as pacs, pytest.raises(PeerUnavailable, match="0 of 1 stored"):
        store(pacs, [item_of(write_instance(tmp_path))], Answers())


def test_a_provider_abort_tells_its_reason() -> None:
    def serve(connection: socket.socket) -> None:
        read_pdu(connection)
        connection.sendall(bytes.fromhex("0700 00000004 00 00 02 06"))
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(PeerUnavailable, match="invalid PDU parameter"):
        echo(pacs)


@pytest.mark.parametrize(
    ("result", "source", "reason", "error"),
    [
        (1, 1, 1, Rejected),  # permanent, no reason
        (1, 1, 3, Rejected),  # calling AE title not recognised
        (1, 1, 7, Rejected),  # called AE title not recognised
        (1, 2, 2, Rejected),  # protocol version
        (2, 1, 1, PeerUnavailable),  # transient
        (2, 3, 1, PeerUnavailable),  # congestion
        (2, 3, 2, PeerUnavailable),  # local limit
        (1, 3, 2, PeerUnavailable),  # … which some call permanent
    ],
)
def test_a_rejection_is_for_good_or_for_now(
    result: int, source: int, reason: int, error: type[Exception]
) -> None:
    def serve(connection: socket.socket) -> None:
        read_pdu(connection)
        connection.sendall(b"\3\0\0\0\0\4\0" + bytes((result, source, reason)))
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(error, match="rejected the association"):
        echo(pacs)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",  # not DICOM at all
        b"\2\0\xff\xff\xff\xff",  # a PDU of 4 GB
        b"\2\0\0\0\0\4\0\1\0\0",  # an acceptance cut short
        b"\4\0\0\0\0\0",  # data before the association
    ],
)
def test_what_is_not_dicom_is_a_bad_response(words: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        read_pdu(connection)
        connection.sendall(words)
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises((BadResponse, Rejected)):
        echo(pacs)


@pytest.mark.parametrize(
    "words",
    [
        response(message_id=77),  # to another message
        response(field=0x8030),  # to another command
        response(context_id=3),  # in another context
        bytes.fromhex("0400 00000006 00000002 01 03"),  # an empty command set
        bytes.fromhex("0400 00000006 000000ff 01 03"),  # an item past the PDU
        bytes.fromhex("0600 00000004 00000000"),  # a release response
    ],
    ids=["message id", "command", "context", "empty", "malformed", "release"],
)
def test_a_wrong_answer_is_a_bad_response(tmp_path: Path, words: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        read_pdu(connection), read_pdu(connection)
        connection.sendall(words)
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(BadResponse):
        store(pacs, [item_of(write_instance(tmp_path))], Answers())


def test_an_answer_in_crumbs_with_a_data_set_is_understood(tmp_path: Path) -> None:
    """Fragments of one byte each, and a data set that a C-STORE response should not have."""
    whole = response()
    command = bytearray(whole[12:])
    at = command.index(b"\0\0\0\x08\2\0\0\0") + 8
    command[at : at + 2] = b"\0\0"
    crumbs = b"".join(
        struct.pack(">BBLLBB", 4, 0, 7, 3, 1, 1 | (2 if i == len(command) - 1 else 0))
        + command[i : i + 1]
        for i in range(len(command))
    )
    data_set = struct.pack(">BBLLBB", 4, 0, 8, 4, 1, 2) + b"\0\0"
    released = threading.Event()

    def serve(connection: socket.socket) -> None:
        accept(connection)
        read_pdu(connection), read_pdu(connection)
        connection.sendall(crumbs + data_set)
        assert read_pdu(connection)[0] == 5
        # A release of its own at the same time: both answer.
        connection.sendall(bytes.fromhex("0500 00000004 00000000"))
        assert read_pdu(connection)[0] == 6
        connection.sendall(bytes.fromhex("0600 00000004 00000000"))
        released.set()

    answers = Answers()
    with raw_server(serve) as pacs:
        store(pacs, [item_of(write_instance(tmp_path))], answers)
    assert answers.statuses == [0]
    assert released.is_set()


def test_a_release_that_is_not_answered_does_not_spoil_the_delivery(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        read_pdu(connection), read_pdu(connection)
        connection.sendall(response())
        until_closed(connection)

    with raw_server(serve) as pacs:
        store(replace(pacs, connect_timeout_s=0.2), [item_of(write_instance(tmp_path))], Answers())


def test_a_release_instead_of_an_answer_is_tried_again(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        read_pdu(connection), read_pdu(connection)
        connection.sendall(bytes.fromhex("0500 00000004 00000000"))
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(PeerUnavailable, match="released"):
        store(pacs, [item_of(write_instance(tmp_path))], Answers())


def test_an_echo_that_fails_is_a_rejection() -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection)
        read_pdu(connection)
        connection.sendall(response(field=0x8030, status=0x0122))
        until_closed(connection)

    with (
        raw_server(serve) as pacs,
        pytest.raises(Rejected, match=r"C-ECHO with 0x0122 \(Refused: SOP Class Not Supported\)"),
    ):
        echo(replace(pacs, connect_timeout_s=0.2))


def test_a_pacs_without_verification_is_a_rejection() -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection, result=3)
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(Rejected, match="does not accept C-ECHO"):
        echo(replace(pacs, connect_timeout_s=0.2))


@pytest.mark.parametrize("max_pdu", [1, 7])
def test_a_pdu_too_small_for_anything_is_a_bad_response(max_pdu: int) -> None:
    def serve(connection: socket.socket) -> None:
        accept(connection, max_pdu)
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(BadResponse, match=f"PDUs of {max_pdu} bytes"):
        echo(pacs)


def test_the_smallest_pdus_and_no_limit_carry_an_instance(tmp_path: Path) -> None:
    item = item_of(write_instance(tmp_path))
    for max_pdu in (8, 0):
        data = bytearray()

        def serve(
            connection: socket.socket, max_pdu: int = max_pdu, data: bytearray = data
        ) -> None:
            accept(connection, max_pdu)
            while True:
                pdu = read_pdu(connection)
                assert not max_pdu or len(pdu) <= 6 + max_pdu
                if not pdu[11] & 1:
                    data += pdu[12:]
                    if pdu[11] & 2:
                        break
            connection.sendall(response())
            until_closed(connection)

        with raw_server(serve) as pacs:
            store(replace(pacs, connect_timeout_s=0.2), [item], Answers())
        assert bytes(data) == data_set_bytes(item.path)


def test_a_file_that_shrinks_while_it_is_sent_aborts_the_association(tmp_path: Path) -> None:
    path = write_instance(tmp_path)
    with (
        scripted(CONTEXTS) as pacs,
        path.open("rb") as data,
        pytest.raises(Permanent, match="ends inside its data set"),
        associate(pacs.pacs, [Pair(SC, ExplicitVRLittleEndian)]) as association,
    ):
        association.store(Pair(SC, ExplicitVRLittleEndian), "1.2.3", data, path.stat().st_size + 1)
    assert pacs.stored == []


def test_an_acceptance_that_cannot_be_decoded_is_a_bad_response() -> None:
    def serve(connection: socket.socket) -> None:
        read_pdu(connection)
        body = struct.pack(">HH", 1, 0) + bytes(64) + b"\xee\0\0\4junk"
        connection.sendall(struct.pack(">BBL", 2, 0, len(body)) + body)
        until_closed(connection)

    with raw_server(serve) as pacs, pytest.raises(BadResponse, match="cannot be decoded"):
        echo(pacs)

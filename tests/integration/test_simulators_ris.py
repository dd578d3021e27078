"""The simulated RIS over raw sockets."""

from __future__ import annotations

from collections.abc import Iterator

import hl7
import pytest

from simulators.ris import RisSimulator
from tests.support.net import wait_until
from tests.support.simulators import Mllp, no_threads_left


def message(control_id: str, text: str = "Fracture déplacée") -> bytes:
    """A small ORU^R01."""
    segments = [
        f"MSH|^~\\&|GW|MILVUE|RIS|SITE|20260619143015||ORU^R01|{control_id}|P|2.5.1",
        "ZDS|2.25.3321457788990011^milvue^Application^DICOM|",
        f"OBX||ST|milvue^SmartUrgences^LN||{text}||||||F",
    ]
    return ("\r".join(segments) + "\r").encode()


@pytest.fixture
def ris() -> Iterator[RisSimulator]:
    with no_threads_left(), RisSimulator() as running:
        yield running


def msa(answer: bytes) -> list[str]:
    """The fields of the MSA of one framed ACK."""
    assert answer.startswith(b"\x0b")
    assert answer.endswith(b"\x1c\x0d")
    parsed = hl7.parse(answer[1:-2].decode())
    return [str(field) for field in parsed.segment("MSA")][1:]


@pytest.mark.parametrize("code", ["AA", "CA", "AE", "CE", "AR", "CR"])
def test_each_code_is_answered_for_the_right_message(ris: RisSimulator, code: str) -> None:
    ris.switches.set(answer=code)
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        assert msa(client.read()) == [code, "GW1"]
    assert ris.messages == [message("GW1")]


def test_one_connection_carries_many_messages_also_glued_together(ris: RisSimulator) -> None:
    with Mllp(ris.port) as client:
        client.socket.sendall(
            b"\x0b" + message("GW1") + b"\x1c\x0d\x0b" + message("GW2") + b"\x1c\x0d"
        )
        answers = b""
        while answers.count(b"\x1c\x0d") < 2:
            answers += client.read()
        client.send(message("GW3"))
        assert msa(client.read())[1] == "GW3"
    assert [event["control_id"] for event in ris.journal.events("message")] == ["GW1", "GW2", "GW3"]


def test_a_silent_connection_does_not_hold_the_next_one(ris: RisSimulator) -> None:
    ris.switches.set(answer="none", control_id="GW1")
    with Mllp(ris.port, timeout_s=0.2) as silent, Mllp(ris.port) as other:
        silent.send(message("GW1"))
        wait_until(lambda: ris.messages)
        other.send(message("GW2"))
        assert msa(other.read()) == ["AA", "GW2"]
        with pytest.raises(TimeoutError):
            silent.read()


def test_an_ack_for_another_message(ris: RisSimulator) -> None:
    ris.switches.set(answer="wrong_id", times=1)
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        assert msa(client.read())[1] != "GW1"
        client.send(message("GW1"))
        assert msa(client.read())[1] == "GW1"


@pytest.mark.parametrize(("answer", "n_frames"), [("two_frames", 2), ("wrong_id_first", 2)])
def test_two_frames_at_once(ris: RisSimulator, answer: str, n_frames: int) -> None:
    ris.switches.set(answer=answer, close_after=True)
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        frames = client.read_all()
    assert frames.count(b"\x0b") == frames.count(b"\x1c\x0d") == n_frames
    assert frames.count(b"GW1") == (2 if answer == "two_frames" else 1)


def test_garbage_is_a_frame_without_hl7(ris: RisSimulator) -> None:
    ris.switches.set(answer="garbage")
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        answer = client.read()
    assert answer.startswith(b"\x0b")
    assert b"MSA" not in answer


@pytest.mark.parametrize("answer", ["half", "close", "unframed"])
def test_an_answer_that_is_no_frame(ris: RisSimulator, answer: str) -> None:
    ris.switches.set(answer=answer, close_after=True)
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        received = client.read_all()
    assert b"\x1c" not in received
    assert bool(received) == (answer != "close")


def test_a_reset(ris: RisSimulator) -> None:
    ris.switches.set(answer="reset")
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        with pytest.raises(ConnectionResetError):
            client.read()


def test_an_ack_in_many_packets_without_its_last_cr_and_late(ris: RisSimulator) -> None:
    ris.switches.set(split=True, final_cr=False, delay_s=0.1)
    with Mllp(ris.port) as client:
        client.send(message("GW1"))
        answer = client.read()
    assert answer.endswith(b"MSA|AA|GW1\x1c\x0d")


def test_a_message_of_three_megabytes_in_pieces(ris: RisSimulator) -> None:
    big = message("GW1", "é" * 1_500_000)
    with Mllp(ris.port) as client:
        frame = b"\x0b" + big + b"\x1c\x0d"
        for start in range(0, len(frame), 99_991):
            client.socket.sendall(frame[start : start + 99_991])
        assert msa(client.read()) == ["AA", "GW1"]
    assert ris.messages == [big]


def test_half_a_message_is_no_message(ris: RisSimulator) -> None:
    with Mllp(ris.port) as client:
        client.socket.sendall(b"\x0b" + message("GW1")[:20])
    wait_until(lambda: ris.journal.events("disconnected"))
    assert ris.messages == []


def test_it_stops_with_a_client_connected_and_an_answer_due() -> None:
    with no_threads_left(), RisSimulator(delay_s=3600) as ris:
        client = Mllp(ris.port)
        client.send(message("GW1"))
        wait_until(lambda: ris.messages)
    assert client.read() == b""
    client.socket.close()

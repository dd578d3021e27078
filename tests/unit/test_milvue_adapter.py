"""Answers are read until a deadline, whatever the pace they come at."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pacsor_tasks.milvue.adapter import BoundedReader


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        yield ours, theirs


def test_what_comes_is_read_until_the_deadline_and_nothing_after_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    now = [0.0]
    reader = BoundedReader(ours, 10.0, clock=lambda: now[0])
    for now[0], byte in ((1.0, b"a"), (9.9, b"b")):
        assert reader.read(1) == byte
    now[0] = 10.0
    with pytest.raises(TimeoutError):
        reader.read(1)


@pytest.mark.parametrize("own_s", [30.0, None])
def test_a_block_that_does_not_come_is_waited_for_until_the_deadline(
    pair: tuple[socket.socket, socket.socket], own_s: float | None
) -> None:
    ours, _ = pair
    ours.settimeout(own_s)
    with pytest.raises(TimeoutError):
        BoundedReader(ours, 0.05, clock=lambda: 0.0).read(1)
    assert ours.gettimeout() == own_s  # what was set for the next request stays


def test_the_sockets_own_time_limit_counts_too(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        BoundedReader(ours, 1e6, clock=lambda: 0.0).read(1)


def test_the_end_is_the_end_and_closing_lets_go(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"last")
    theirs.close()
    with BoundedReader(ours, 1.0, clock=lambda: 0.0) as reader:
        assert reader.readall() == b"last"
        ours.close()  # the file keeps it open, as of any socket
        assert ours.fileno() != -1
    assert ours.fileno() == -1

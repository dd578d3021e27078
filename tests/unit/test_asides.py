"""Questions that are waited for only so long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pacsor_tasks import asides as module
from pacsor_tasks.asides import Asides, Late
from pacsor_tasks.errors import PeerUnavailable
from tests.support.net import wait_until


class Silence:
    """A peer that says nothing until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        assert self.let_go.wait(60)
        return "at last"


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Broken at the end at the latest."""
    peer = Silence()
    yield peer
    peer.let_go.set()


def refuse() -> str:
    raise PeerUnavailable("no")


def test_an_answer_or_an_error_in_time_is_the_callers():
    asides = Asides()
    assert asides.ask("core", 1, lambda: "yes") == "yes"
    with pytest.raises(PeerUnavailable, match="no"):
        asides.ask("core", 1, refuse)
    assert asides.ask("core", 1, lambda: "again") == "again"


def test_a_late_answer_is_there_at_the_next_try(silence: Silence):
    asides = Asides(patience_s=0.01)
    for _ in range(3):
        with pytest.raises(Late):
            asides.ask("core", "a", silence)
    assert silence.asked == 1
    silence.let_go.set()

    def comes() -> bool:
        try:
            return asides.ask("core", "a", lambda: "new") == "at last"
        except Late:
            return False

    assert wait_until(comes)


def test_who_is_silent_is_asked_nothing_else_and_others_are(silence: Silence):
    asides = Asides(patience_s=0.01)
    with pytest.raises(Late, match="did not answer within"):
        asides.ask("core", "a", silence)
    with pytest.raises(Late, match="core is silent"):
        asides.ask("core", "b", lambda: pytest.fail("not asked"))
    assert Asides().ask("core1", "b", lambda: "yes") == "yes"


def test_a_late_error_is_raised_at_the_next_try_once(silence: Silence):
    asides = Asides(patience_s=0.01)

    def fail_late() -> str:
        silence()
        return refuse()

    with pytest.raises(Late):
        asides.ask("core", "a", fail_late)
    silence.let_go.set()

    def fails() -> bool:
        with pytest.raises((Late, PeerUnavailable)) as caught:
            asides.ask("core", "a", fail_late)
        return caught.type is PeerUnavailable

    assert wait_until(fails)


def test_so_many_late_answers_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "KEPT", 2)
    asides = Asides(patience_s=0)
    for key in range(4):
        peer = Silence()
        with pytest.raises(Late):
            asides.ask(f"core{key}", key, peer)
        peer.let_go.set()
        wait_until(lambda key=key: f"core{key}" not in asides._under_way)  # type: ignore[misc]
    patient = Asides()
    patient._kept = asides._kept
    assert [patient.ask("c", key, lambda: "new") for key in range(4)] == [
        "new", "new", "at last", "at last",
    ]  # fmt: skip

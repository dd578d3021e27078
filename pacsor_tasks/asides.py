"""Questions that are waited for only so long; an answer that comes later is kept for the next try.

A message asks its core while it has its RIS's one place: a core that keeps silent must not hold up
the messages of the others.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from pacsor_tasks.errors import NotReady

T = TypeVar("T")

#: An answer is waited for so long, seconds.
PATIENCE_S = 5.0
#: Late answers that are kept in a process, the newest.
KEPT = 64


class Late(NotReady):
    """The peer is being asked still, this or something else."""


class Asides:
    """Asks in threads, at most one that is late for each peer.

    Args:
        patience_s: For how long a caller waits.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._under_way: dict[str, _Question] = {}
        self._kept: dict[Hashable, _Question] = {}

    def ask(self, peer: str, key: Hashable, question: Callable[[], T]) -> T:
        """The answer, or what the question raised.

        Args:
            peer: Who is asked.
            key: What is asked: who comes again by it gets the answer that was late.
            question: Asks; in another thread.

        Raises:
            Late: It is not there yet, or the peer is silent to another question.
        """
        with self._lock:
            late = self._kept.pop(key, None)
            if late is not None:
                return late.outcome()  # type: ignore[no-any-return] # the key says what it is
            if peer in self._under_way:
                raise Late(f"{peer} is silent")
            asked = self._under_way[peer] = _Question(question)
        context = contextvars.copy_context()
        threading.Thread(
            target=lambda: context.run(self._find_out, peer, key, asked), daemon=True, name="aside"
        ).start()
        asked.is_over.wait(self._patience_s)
        with self._lock:
            if not asked.is_over.is_set():
                asked.is_late = True
                raise Late(f"{peer} did not answer within {self._patience_s:g} s")
        return asked.outcome()  # type: ignore[no-any-return]

    def _find_out(self, peer: str, key: Hashable, asked: _Question) -> None:
        asked.put()
        with self._lock:
            del self._under_way[peer]
            asked.is_over.set()
            if asked.is_late:
                self._kept[key] = asked
                if len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]


class _Question:
    """One question and what came of it."""

    def __init__(self, question: Callable[[], Any]) -> None:
        self._question = question
        self._answer: Any = None
        self._error: BaseException | None = None
        self.is_over = threading.Event()
        self.is_late = False

    def put(self) -> None:
        """Ask."""
        try:
            self._answer = self._question()
        except BaseException as exc:  # noqa: BLE001 - raised where it was asked
            self._error = exc

    def outcome(self) -> Any:
        """The answer, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._answer

"""What the dialogue needs of a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pacsor_tasks.setup.questions import Question

#: What is wrong with an answer; empty: nothing.
Check = Callable[[str], str]


class Screen(Protocol):
    """Asks and says. Ctrl-C and the end of input come through as Python has them."""

    def ask(self, question: Question, check: Check) -> str | None:
        """The answer, once `check` finds nothing wrong with it; None: one step back."""

    def say(self, *lines: str) -> None:
        """Show lines of text."""


def complaint(question: Question, text: str, check: Check) -> str:
    """What is wrong with an answer: it is missing, or what `check` says."""
    if not text.strip() and not any(option.value == "" for option in question.options):
        return "" if question.is_optional else "an answer is needed"
    return check(text)


def is_menu(question: Question) -> bool:
    """Whether the options are named by one key each."""
    return bool(question.options) and all(len(option.value) == 1 for option in question.options)

"""The screen where there is no terminal to speak of: one line per question and answer."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import TextIO

from pacsor_tasks.setup.questions import NONE, Kind, Option, Question
from pacsor_tasks.setup.screen import Check, complaint, is_menu

BACK = "<"
HELP = f"Enter takes what is in [brackets], {BACK} goes back, {NONE} takes a value away."


class PlainScreen:
    """Lines in, lines out.

    Args:
        stdin: Where answers come from; secrets are read from the terminal without an echo if it
            is one.
        stdout: Where questions go.
    """

    def __init__(self, stdin: TextIO, stdout: TextIO) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self.say(HELP)

    def say(self, *lines: str) -> None:
        """Show lines of text."""
        for line in lines:
            self._stdout.write(f"{line}\n")
        self._stdout.flush()

    def ask(self, question: Question, check: Check) -> str | None:
        """Ask until the answer is right."""
        keys = _keys(question)
        self.say(*(f"  {key:<2} {option.title}" for key, option in keys.items()))
        while True:
            text = self._read(question, keys).strip()
            if text == BACK:
                return None
            if question.kind is not Kind.SECRET:
                text = "" if text == NONE else text or question.default
            if question.kind is Kind.CHOICE:
                text = keys[text].value if text in keys else text
            wrong = _problem(question, text, keys) or complaint(question, text, check)
            if not wrong:
                return text
            self.say(*(f"  ! {line}" for line in wrong.splitlines()))

    def _read(self, question: Question, keys: Mapping[str, Option]) -> str:
        hint = f" ({question.hint})" if question.hint else ""
        chosen = (key for key, option in keys.items() if option.value == question.default)
        proposal = next(chosen, question.default)
        default = f" [{proposal}]" if proposal else ""
        if question.kind is Kind.SECRET and question.is_optional:
            default = f" [as it is; {NONE} for none]" if question.is_removable else " [as it is]"
        prompt = f"{question.title}{hint}{default}: "
        if question.kind is Kind.SECRET and self._stdin.isatty():
            return getpass.getpass(prompt)
        self._stdout.write(prompt)
        self._stdout.flush()
        line = self._stdin.readline()
        if not line:
            raise EOFError
        if not self._stdin.isatty():
            self.say("")
        return line


def _keys(question: Question) -> dict[str, Option]:
    """What to type for each option: its letter in a menu, else its number."""
    if is_menu(question):
        return {option.value: option for option in question.options}
    return {str(number): option for number, option in enumerate(question.options, 1)}


def _problem(question: Question, text: str, keys: Mapping[str, Option]) -> str:
    is_one = any(text == option.value for option in question.options)
    return "" if is_one or question.kind is not Kind.CHOICE else f"one of {', '.join(keys)}"

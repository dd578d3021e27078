"""A screen for the dialogue of `pacsor setup` that answers from a script."""

from __future__ import annotations

from collections.abc import Sequence

from pacsor_tasks.setup.questions import Question
from pacsor_tasks.setup.screen import Check, complaint

#: The answer that takes one step back.
BACK = None


class ScriptedScreen:
    """Gives the answers in turn; a wrong one is tried and followed by the next.

    Args:
        script: (the question's name, or the title of a menu; the answer). A `...` answer takes
            what is proposed.
    """

    def __init__(self, script: Sequence[tuple[str, object]]) -> None:
        self._script = list(script)
        self.asked: list[Question] = []
        self.complaints: list[str] = []
        self.said: list[str] = []

    def say(self, *lines: str) -> None:
        self.said += lines

    def ask(self, question: Question, check: Check) -> str | None:
        self.asked.append(question)
        while True:
            if not self._script:
                raise EOFError
            name, answer = self._script.pop(0)
            assert name == (question.name or question.title), f"{question} was asked, not {name}"
            if answer is BACK:
                return None
            text = question.default if answer is ... else str(answer)
            if question.options:
                assert text in {option.value for option in question.options}, (name, text)
            wrong = complaint(question, text, check)
            if not wrong:
                return text
            self.complaints.append(wrong)

    @property
    def shown(self) -> str:
        """Everything that was on the screen, but what was typed."""
        asked = (f"{q.title} {q.hint} {q.default} {q.options}" for q in self.asked)
        return "\n".join([*self.said, *self.complaints, *asked])

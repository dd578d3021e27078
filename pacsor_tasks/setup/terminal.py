"""The screen in a terminal: questionary's prompts, with Escape for one step back."""

from __future__ import annotations

import shutil
import textwrap

import questionary
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.shortcuts import CompleteStyle

from pacsor_tasks.setup.questions import NONE, Kind, Question
from pacsor_tasks.setup.screen import Check, complaint, is_menu

#: Seconds until a lone Escape is no longer the beginning of another key's code.
ESCAPE_S = 0.05
HELP = "Escape goes one step back, Ctrl-C ends without saving."
STYLE = questionary.Style(
    [
        ("qmark", "fg:ansicyan bold"),
        ("question", "bold"),
        ("answer", "fg:ansicyan"),
        ("pointer", "fg:ansicyan bold"),
        ("highlighted", "fg:ansicyan bold"),
        ("selected", "noreverse"),
        ("instruction", "fg:ansibrightblack"),
        ("bottom-toolbar", "noreverse fg:ansibrightblack"),
        ("validation-toolbar", "noreverse fg:ansired bold"),
    ]
)


class TerminalScreen:
    """Prompts with editing, menus with arrows and shortcuts."""

    def __init__(self) -> None:
        self.say(HELP)

    def say(self, *lines: str) -> None:
        """Show lines of text, broken between words."""
        width = shutil.get_terminal_size().columns
        for line in lines:
            # A terminal breaks what has no blanks in it, so that it can be copied whole.
            for part in textwrap.wrap(
                line, width, subsequent_indent="    ", break_long_words=False
            ) or [""]:
                questionary.print(part)

    def ask(self, question: Question, check: Check) -> str | None:
        """Ask; a wrong answer is not taken."""
        prompt = _select(question) if question.kind is Kind.CHOICE else _text(question, check)
        back = KeyBindings()

        @back.add(Keys.Escape, eager=True)
        def _(event: KeyPressEvent) -> None:
            event.app.exit(result=None, style="class:aborting")

        application = prompt.application
        application.key_bindings = merge_key_bindings(
            [bindings for bindings in (application.key_bindings, back) if bindings is not None]
        )
        application.ttimeoutlen = ESCAPE_S
        answer: str | None = prompt.unsafe_ask()
        return answer if answer is None else answer.strip()


def _text(question: Question, check: Check) -> questionary.Question:
    is_secret = question.kind is Kind.SECRET
    as_it_is = "empty: as it is" if is_secret and question.is_optional else ""
    as_it_is += f"; {NONE}: none" if question.is_removable else ""
    hint = "; ".join(part for part in (question.hint, as_it_is) if part)
    return questionary.text(
        question.title if hint else f"{question.title}:",
        default=question.default,
        validate=lambda text: _fitting(complaint(question, text, check)) or True,
        instruction=f"({hint}):" if hint else None,
        style=STYLE,
        is_password=is_secret,
        validate_while_typing=False,
        complete_style=CompleteStyle.COLUMN,
    )


def _fitting(text: str) -> str:
    """What is wrong with an answer, for the one line under it; if too long, in full above it."""
    text = text.replace("\n", "; ")
    width = shutil.get_terminal_size().columns
    if len(text) < width:
        return text
    whole = "\n".join(textwrap.wrap(text, width - 1, subsequent_indent="    "))
    run_in_terminal(lambda: print(whole))  # noqa: T201 - beside the prompt
    return f"{text[: width - 2]}…"


def _select(question: Question) -> questionary.Question:
    has_keys = is_menu(question)
    choices = [
        questionary.Choice(
            option.title, option.value, shortcut_key=option.value if has_keys else None
        )
        for option in question.options
    ]
    known = {option.value for option in question.options}
    return questionary.select(
        question.title if question.hint else f"{question.title}:",
        choices,
        default=question.default if question.default in known else None,
        instruction=f"({question.hint}):" if question.hint else " ",
        use_shortcuts=has_keys,
        use_jk_keys=False,
        style=STYLE,
    )

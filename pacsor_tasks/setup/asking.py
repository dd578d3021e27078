"""Asking: one question, a page of them, a choice; trying peers. The dialogue's tools."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup.pages import TEST, Names, Page
from pacsor_tasks.setup.peers import Tester, settings_for
from pacsor_tasks.setup.questions import (
    YES_NO,
    Kind,
    Option,
    Question,
    Surroundings,
    answered,
    question,
)
from pacsor_tasks.setup.screen import Screen
from pacsor_tasks.setup.values import Values, spoken

#: For ADMIN_TOKEN: one that nobody has to think of, or to see.
MAKE_ONE = "new"


class Asker:
    """Asks on a screen.

    Args:
        screen: Asks and says.
        test: Tries a peer.
        around: What proposals depend on.
    """

    def __init__(self, screen: Screen, test: Tester, around: Surroundings) -> None:
        self.screen = screen
        self._test = test
        self._around = around

    def walk(self, names: Names, values: Values) -> Values | None:
        """Ask the questions of a page; None: back from the first."""
        page: Page | None = Page(names, values)
        while page is not None and page.name is not None:
            after = self._asked(page.name, page.values)
            page = page.back() if after is None else page.next(after)
        return None if page is None else page.values

    def choose(self, title: str, options: Sequence[Option], default: str = "") -> str | None:
        """One of several; None: back."""
        asked = Question("", title, kind=Kind.CHOICE, options=tuple(options), default=default)
        return self.screen.ask(asked, lambda _: "")

    def is_agreed(self, title: str, *, default: bool = True) -> bool | None:
        """Yes or no; None: back."""
        chosen = self.choose(title, YES_NO, "true" if default else "false")
        return None if chosen is None else chosen == "true"

    def line(self, asked: Question, take: Callable[[str], Values]) -> Values | None:
        """What `take` makes of an answer, asked until it takes one; None: back."""

        def complaint(text: str) -> str:
            try:
                take(text)
            except ConfigError as exc:
                return str(exc)
            return ""

        text = self.screen.ask(asked, complaint)
        return None if text is None else take(text)

    def try_peers(self, names: Sequence[str], values: Values) -> bool:
        """Try peers and say what they answered; whether all are well."""
        is_well = True
        for name in names:
            self.screen.say(f"trying {spoken(name)} …")
            try:
                is_ok, text = self._test(settings_for(values, name), name)
            except ConfigError as exc:
                is_ok, text = False, str(exc)
            except KeyboardInterrupt:
                is_ok, text = False, "stopped"
            self.screen.say(*(f"  {'ok' if is_ok else 'PROBLEM'}  {x}" for x in text.splitlines()))
            is_well = is_well and is_ok
        return is_well

    def _asked(self, name: str, values: Values) -> Values | None:
        if name.startswith(TEST):
            return self._offer_test(name.removeprefix(TEST), values)

        def take(text: str) -> Values:
            if name == "ADMIN_TOKEN" and text == MAKE_ONE:
                text = secrets.token_urlsafe(24)
            return answered(name, text, values)

        return self.line(question(name, values, self._around), take)

    def _offer_test(self, peer: str, values: Values) -> Values | None:
        options = (
            Option("test", "test the connection"),
            Option("on", "go on without a test"),
            Option("back", "go back"),
        )
        while True:
            chosen = self.choose(f"Connection to {spoken(peer)}", options, "test")
            if chosen != "test":
                return values if chosen == "on" else None
            if self.try_peers((peer,), values):
                return values

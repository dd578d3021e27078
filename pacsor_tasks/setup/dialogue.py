"""The dialogue: PACSOR's steps for a new configuration, then its menu. Screen, files and peers are
given; what is asked and what an answer means is decided elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup import files, lists, pages
from pacsor_tasks.setup.asking import Asker
from pacsor_tasks.setup.document import in_order
from pacsor_tasks.setup.files import Loaded, Written
from pacsor_tasks.setup.masking import masked
from pacsor_tasks.setup.peers import Tester, peers
from pacsor_tasks.setup.questions import Option, Surroundings
from pacsor_tasks.setup.screen import Screen
from pacsor_tasks.setup.validation import problems
from pacsor_tasks.setup.values import Values

NEW, SAVE, QUIT, LOAD = "n", "w", "q", "o"
#: Columns of a menu's title, and of what it shows.
TITLE, SHOWN = 26, 44


class Dialogue:
    """One run of `pacsor setup`.

    Args:
        screen: Asks and says.
        directory: Where `env-files`, `.env` and the Compose file are.
        test: Tries a peer.
        around: What proposals depend on.
    """

    def __init__(
        self, screen: Screen, directory: Path, test: Tester, around: Surroundings | None = None
    ) -> None:
        self._asker = Asker(screen, test, around or Surroundings())
        self._screen = screen
        self._directory = directory
        self._loaded = Loaded({})

    def run(self, loaded: Loaded | None = None) -> Written | None:
        """Ask everything and save it.

        Args:
            loaded: Where to begin; None: ask.

        Returns:
            What was written; None: nothing, as was wished.
        """
        loaded = loaded or self._chosen()
        values = None if loaded is None else self._begun(loaded)
        return None if values is None else self._menu(values)

    def _menu(self, values: Values) -> Written | None:
        key = "1"
        while True:
            key = self._key(values, key)
            entry = next(e for e in pages.MENU if e.key == key)
            if key == QUIT:
                if self._may_leave(values):
                    return None
            elif key == SAVE:
                if (written := self._saved(values)) is not None:
                    return written
            elif entry.page is not None:
                values = self._asker.walk(entry.page, values) or values
            else:
                values = self._other(key, values)

    def _key(self, values: Values, default: str) -> str:
        options = []
        for entry in pages.MENU:
            shown = pages.shown(entry, values)
            cut = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
            options.append(Option(entry.key, f"{entry.title:<{TITLE}} {cut}".rstrip()))
        title = values.get("CLIENT_NAME") or "New configuration"
        return self._asker.choose(title, options, default) or QUIT

    def _other(self, key: str, values: Values) -> Values:
        if key == LOAD:
            loaded = self._chosen()
            return values if loaded is None else self._begun(loaded) or values
        if key == "t":
            self._asker.try_peers(peers(values), values)
        elif key == "d":
            self._screen.say("", *displayed(values), "", *problems(values))
        else:
            values = lists.LISTS[key](self._asker, values)
        return values

    # --- end

    def _may_leave(self, values: Values) -> bool:
        is_same = self._loaded.path is not None and values == self._loaded.values
        return is_same or bool(self._asker.is_agreed("Leave without saving", default=False))

    def _saved(self, values: Values) -> Written | None:
        if wrong := problems(values):
            self._refuse(wrong)
            return None
        path = files.path_for(self._directory, values["CLIENT_NAME"])
        is_anothers = path.exists() and path != self._loaded.path
        title = f"{path} is there already. Write over it"
        if is_anothers and not self._asker.is_agreed(title, default=False):
            return None
        is_linked = self._asker.is_agreed(f"Make {self._directory / files.DOTENV} lead to it")
        if is_linked is None:
            return None
        try:
            return files.save(self._directory, self._loaded, values, is_linked=is_linked)
        except ConfigError as exc:
            self._refuse(str(exc).splitlines())
            return None

    def _refuse(self, lines: list[str]) -> None:
        self._screen.say("It cannot be saved so:", *(f"  {line}" for line in lines))

    # --- beginning

    def _begun(self, loaded: Loaded) -> Values | None:
        """The values to show in the menu: what was read, or the first steps gone through."""
        self._screen.say(*(f"note: {note}" for note in loaded.notes))
        values: Values | None = loaded.values
        if loaded.path is None:
            values = self._asker.walk(pages.wizard, loaded.values)
        if values is not None:
            self._loaded = loaded
        return values

    def _chosen(self) -> Loaded | None:
        """A configuration to begin with; None: cancelled."""
        found = list(files.existing(self._directory).items())
        if not found:
            return files.new()
        options = [Option(str(n), f"load {title}") for n, (title, _) in enumerate(found, 1)]
        options.append(Option(NEW, "a new one"))
        while True:
            chosen = self._asker.choose("Configuration", options, options[0].value)
            if chosen is None or chosen == NEW:
                return None if chosen is None else files.new()
            try:
                return files.read(found[int(chosen) - 1][1])
            except ConfigError as exc:
                self._screen.say(str(exc))


def displayed(values: Values) -> list[str]:
    """The configuration in the order of its file; secrets masked."""
    return [f"{name}={masked(name, values[name])}" for name in in_order(values)]

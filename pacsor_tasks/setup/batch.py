"""Without questions: answers from options and files, taken in the dialogue's own way."""

from __future__ import annotations

from collections.abc import Iterable

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings_types import node
from pacsor_tasks.setup import pages
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.masking import is_hidden, is_secret
from pacsor_tasks.setup.questions import NONE, Surroundings, answered, current, question
from pacsor_tasks.setup.validation import problems
from pacsor_tasks.setup.values import Values

Answers = Iterable[tuple[str, str]]


def with_answers(values: Values, answers: Answers) -> Values:
    """The values after answers, in the order of the dialogue's first steps.

    Raises:
        ConfigError: A line for each that is wrong; secrets are not repeated.
    """
    order = ("PRODUCT", "ENVIRONMENT", "API_URL", "SIGNED_URL", "CLIENT_NAME")
    place = {name: index for index, name in enumerate(order)}
    wrong: list[str] = []
    for name, text in sorted(answers, key=lambda pair: place.get(pair[0], len(place))):
        try:
            values = answered(name, text or _nothing(name, values), values)
        except ConfigError as exc:
            said = str(exc).splitlines()
            wrong += [line if line.startswith(name) else f"{name}: {line}" for line in said]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return values


def _nothing(name: str, values: Values) -> str:
    """What takes a value away: `--set LEDGER_URL=` means it, though the URL has a password."""
    return NONE if not is_secret(name) and is_hidden(name, current(name, values)) else ""


def with_proposals(values: Values, around: Surroundings) -> Values:
    """What was not answered, as the dialogue proposes it.

    Raises:
        ConfigError: What is still missing or wrong, a line each.
    """
    index = 0
    while index < len(names := pages.wizard(values)):
        name = names[index]
        index += 1
        if name.startswith(pages.TEST) or current(name, values):
            continue
        asked = question(name, values, around)
        if asked.default and name not in {"API_URL", "PACS_PORT"}:
            values = answered(name, asked.default, values)
    if wrong := problems(values):
        raise ConfigError("\n".join(wrong))
    return values


def pacs_answers(nodes: Iterable[str]) -> list[tuple[str, str]]:
    """The answers that `AET@host:port` stands for; the first is `storescu`, then `storescu-2`, …

    Raises:
        ConfigError: One is not written so.
    """
    found = []
    for number, text in enumerate(nodes, 1):
        try:
            peer = node(text, "--pacs")
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        name = "storescu" if number == 1 else f"storescu-{number}"
        parts = {"PACS_AET": peer.ae_title, "PACS_IP": peer.host, "PACS_PORT": str(peer.port)}
        found += [(v.suffixed(setting, name), value) for setting, value in parts.items()]
    return found


def ris_answers(addresses: Iterable[str]) -> list[tuple[str, str]]:
    """The answers that `host:port` stands for; the first is `hl7`, then `hl7-2`, …

    Raises:
        ConfigError: One is not written so.
    """
    found = []
    for number, text in enumerate(addresses, 1):
        try:
            peer = node(f"RIS@{text}", "--ris")
        except ValueError as exc:
            raise ConfigError(
                f"--ris: {text!r} is not host:port, e.g. ris.example.org:2575"
            ) from exc
        name = "hl7" if number == 1 else f"hl7-{number}"
        parts = {"RIS_HOST_IP": peer.host, "RIS_HOST_PORT": str(peer.port)}
        found += [(v.suffixed(setting, name), value) for setting, value in parts.items()]
    return found


def with_all_destinations(values: Values, n_pacs: int, n_ris: int) -> Values:
    """Results go to so many PACS and RISs; those named before stay."""
    for number in range(1, n_pacs + 1):
        values = v.with_destination(values, "storescu" if number == 1 else f"storescu-{number}")
    for number in range(1, n_ris + 1):
        values = v.with_destination(values, "hl7" if number == 1 else f"hl7-{number}")
    return values

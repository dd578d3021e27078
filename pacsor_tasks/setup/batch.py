"""Without questions: answers from options and files, taken in the dialogue's own way."""

from __future__ import annotations

from collections.abc import Iterable

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup import pages
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.masking import is_hidden, is_secret
from pacsor_tasks.setup.questions import NONE, Surroundings, answered, current, question
from pacsor_tasks.setup.validation import problems
from pacsor_tasks.setup.values import Values

Answers = Iterable[tuple[str, str]]


def with_answers(values: Values, answers: Answers, wrong: Iterable[str] = ()) -> Values:
    """The values after answers, in the order of the dialogue's first steps.

    Args:
        values: Those before.
        answers: Names and what is answered.
        wrong: What is wrong already, to be said with the rest.

    Raises:
        ConfigError: A line for each that is wrong; secrets are not repeated.
    """
    order = ("PRODUCT", "ENVIRONMENT", "API_URL", "SIGNED_URL", "CLIENT_NAME")
    place = {name: index for index, name in enumerate(order)}
    wrong = list(wrong)
    for name, text in sorted(answers, key=lambda pair: place.get(pair[0], len(place))):
        if name == "ENVIRONMENT" and any(line.startswith("PRODUCT: ") for line in wrong):
            continue  # it may be one of the product that was meant
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


def notes(before: Values, after: Values) -> list[str]:
    """What the dialogue would have asked about, and nobody answered."""
    has_left = v.is_true(before, "ISLOCALOR") and not v.is_true(after, "ISLOCALOR")
    if has_left and after.get("TOKEN", "") == before.get("TOKEN"):
        return [f"TOKEN: still localor's, for {after['API_URL']}; --token-file gives another"]
    return []

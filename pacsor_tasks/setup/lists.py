"""The parts of the menu that are lists: destinations, filters, cores, any other setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings_types import kind_of
from pacsor_tasks.setup import pages
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.asking import Asker
from pacsor_tasks.setup.filters import described, rules_of, tag_of, with_rules
from pacsor_tasks.setup.masking import masked
from pacsor_tasks.setup.questions import Option, Question
from pacsor_tasks.setup.validation import known_name
from pacsor_tasks.setup.values import Values

BACK = Option("b", "back")
KINDS = {
    "a": (DestinationKind.STORESCU, "add a PACS"),
    "h": (DestinationKind.HL7, "add a RIS"),
    "s": (DestinationKind.STOW, "add a DICOMweb server"),
    "f": (DestinationKind.FOLDER, "add a folder"),
    "w": (DestinationKind.WEBHOOK, "add a webhook"),
}
CHANGE_OR_REMOVE = [
    Option("c", "change"), Option("t", "test the connection"), Option("r", "remove"), BACK,
]  # fmt: skip


def destinations(asker: Asker, values: Values) -> Values:
    """Change, test, add and remove destinations."""
    while True:
        names = v.used_destinations(values)
        options = [
            Option(str(n), f"{v.spoken(name):<12} {_where(name, values)}")
            for n, name in enumerate(names, 1)
        ]
        options += [Option(key, title) for key, (_, title) in KINDS.items()] + [BACK]
        chosen = asker.choose("Destinations", options, "b")
        if chosen in {None, "b"}:
            return values
        if chosen in KINDS:
            name = v.free_name(values, KINDS[str(chosen)][0])
            values = asker.walk(pages.destination(name), v.with_destination(values, name)) or values
        else:
            values = _one(asker, names[int(str(chosen)) - 1], values)


def _one(asker: Asker, name: str, values: Values) -> Values:
    chosen = asker.choose(v.spoken(name), CHANGE_OR_REMOVE, "c")
    if chosen == "t":
        asker.try_peers((name,), values)
    elif chosen == "c":
        values = asker.walk(pages.destination(name), values) or values
    elif chosen == "r":
        if len(v.used_destinations(values)) == 1:
            asker.screen.say("It is the only one: results have to go somewhere.")
        else:
            values = v.without_destination(values, name)
    return values


def _where(name: str, values: Values) -> str:
    def of(setting: str) -> str:
        return _shown(v.suffixed(setting, name), values)

    if v.is_pacs(name):
        return f"{of('PACS_AET')}@{of('PACS_IP')}:{of('PACS_PORT')}"
    if v.is_ris(name):
        return f"{of('RIS_HOST_IP')}:{of('RIS_HOST_PORT')}"
    kind = kind_of(name)
    return of(pages.OF_A_KIND[kind][0]) if kind is not None else ""


def _shown(name: str, values: Values) -> str:
    return masked(name, values.get(name, "?"))


def cores(asker: Asker, values: Values) -> Values:
    """Change, test, add and remove further cores."""
    while True:
        names = v.cores(values)[1:]
        options = [
            Option(str(n), f"{name:<8} {_shown(v.suffixed('API_URL', name), values)}")
            for n, name in enumerate(names, 1)
        ]
        chosen = asker.choose("Further cores", [*options, Option("a", "add a core"), BACK], "b")
        if chosen in {None, "b"}:
            return values
        if chosen == "a":
            added, name = v.with_core(values)
            values = asker.walk(pages.core(name), added) or values
            continue
        name = names[int(str(chosen)) - 1]
        what = asker.choose(name, CHANGE_OR_REMOVE, "c")
        if what == "t":
            asker.try_peers((name,), values)
        elif what == "c":
            values = asker.walk(pages.core(name), values) or values
        elif what == "r":
            values = v.without_core(values, name)


# --- filters


def filters(asker: Asker, values: Values) -> Values:
    """Add and remove rules of DICOM_FILTERS."""
    while True:
        rules = rules_of(values)
        options = [Option(str(n), f"remove: {described(rule)}") for n, rule in enumerate(rules, 1)]
        options += [Option("a", "add a rule"), Option("j", "all of them as JSON"), BACK]
        chosen = asker.choose("Filters", options, "b")
        if chosen in {None, "b"}:
            return values
        if chosen == "a":
            values = _added(asker, values) or values
        elif chosen == "j":
            values = asker.walk(pages.only("DICOM_FILTERS"), values) or values
        else:
            del rules[int(str(chosen)) - 1]
            values = with_rules(values, rules)


def _added(asker: Asker, values: Values) -> Values | None:
    rule: dict[str, Any] = {"tag": {"group": "0008", "element": "0060"}, "pattern": "x"}
    rule["should_match"] = True

    def taking(part: str, made: Callable[[str], Any]) -> Callable[[str], Values]:
        def take(text: str) -> Values:
            rule[part] = made(text)
            return with_rules(values, [*rules_of(values), rule])

        return take

    asked = Question("tag", "Element", "Modality, or 0008,0060")
    if asker.line(asked, taking("tag", tag_of)) is None:
        return None
    asked = Question("pattern", "Pattern", "regular expression, e.g. ^(CR|DX)$")
    if asker.line(asked, taking("pattern", str)) is None:
        return None
    options = [Option("m", "only if it matches"), Option("n", "only if it does not match")]
    must = asker.choose("Upload an instance that has the element", options, "m")
    return None if must is None else taking("should_match", "m".__eq__)(must)


# --- anything


def any_setting(asker: Asker, values: Values) -> Values:
    """Set one by its name."""
    names: list[str] = []

    def take(text: str) -> Values:
        names[:] = [known_name(text, values)]
        return values

    if asker.line(Question("name", "Name of the setting"), take) is None:
        return values
    return asker.walk(pages.only(names[0]), values) or values


LISTS: Mapping[str, Callable[[Asker, Values], Values]] = {
    "s": destinations,
    "f": filters,
    "c": cores,
    "x": any_setting,
}

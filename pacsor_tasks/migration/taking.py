"""Takes the values of a PACSOR installation's files over, by today's names.

No secret is repeated in what is said.
"""

from __future__ import annotations

import re

from pacsor_tasks.environment import (
    ALIASES,
    IGNORED,
    LEGACY,
    NUMBERED,
    REMOVED,
    is_true,
    normalise,
    overruled,
    todays_name,
)
from pacsor_tasks.migration.config_file import (
    HL7_CALLBACK,
    OF_THE_WIZARD,
    SETUP_KEYS,
    with_hl7,
)
from pacsor_tasks.migration.install import ENV_PREFIX, Source
from pacsor_tasks.migration.outcome import Kind, Plan
from pacsor_tasks.migration.taking_filters import take_filters
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_types import comma_list

PLUMBING = {
    "DOCKER_IMAGE_TAG": "PACSOR's version",
    "COMPOSE_PROJECT_NAME": "so that both projects can be there at the same time",
    "COMPOSE_FILE": "PACSOR's compose files",
    "COMPOSE_PROFILES": "PACSOR's",
    "PUBSUBOR_URL": "the cloud's channel for relaunches, whose protocol is not public",
    "HL7_LOG_LEVEL": "there is one level, PACSOR_LOG_LEVEL",
    "CALLBACK_URL": "reports go to the HL7 destinations",
    "ISLOCALOR": "the wizard's own",
}
#: What the wizard writes to its `.config` and forgets in `.env` (contract §2.6 d, §2.7 2.9.0).
FORGOTTEN = ("DICOM_FILTERS", "WEBPS_ENABLE", "WEBPS_PROVIDERS", "TCR_API_URL")
_KNOWN = frozenset({*Settings.model_fields, *ALIASES, *LEGACY, *REMOVED, *IGNORED})
_WARNING = re.compile(r"(?P<name>\w+)(?: \((?P<line>line [0-9]+)\))?: (?P<text>.*)", re.DOTALL)


def take(plan: Plan) -> None:
    """Take the values over, from the file that counts and from what the wizard keeps beside it."""
    _take_values(plan)
    _take_forgotten(plan)
    _client(plan)
    take_filters(plan)


def _take_values(plan: Plan) -> None:
    source = plan.install.env or plan.install.config
    assert source is not None  # noqa: S101 - `find` gives one of them
    _pass_on(plan, source)
    values = _by_todays_names(plan, source)
    of_the_wizard = [name for name in values if name not in _KNOWN and name in SETUP_KEYS]
    for name in values:
        where = _where(source, name)
        if name in Settings.model_fields or NUMBERED.match(name) or name == "CLIENT_NAME":
            plan.values[name] = values[name]
        elif name in IGNORED or name in OF_THE_WIZARD:
            plan.say(Kind.DROPPED, name, PLUMBING.get(name, "of PACSOR's own programs"))
        elif name not in of_the_wizard and name != "HL7_ENABLE":
            plan.say(Kind.LOOK, name, f"nobody knows it ({where}); left out")
    for name in of_the_wizard:
        _take_setup_key(plan, name, values[name], _where(source, name))
    if "HL7_ENABLE" in values:
        _take_hl7_enable(plan, is_true(values, "HL7_ENABLE"))


def _pass_on(plan: Plan, source: Source, only: str | None = None) -> None:
    """Say what is odd about a file, or about one name in it, under the name that it concerns."""
    file = source.path.name
    for warning in source.text.warnings:
        match = _WARNING.fullmatch(warning)
        if match and only in {None, match["name"]}:
            line = f", {match['line']}" if match["line"] else ""
            plan.say(Kind.LOOK, match["name"], f"{match['text']} ({file}{line})")
        elif only is None and not match:
            plan.say(Kind.LOOK, file, warning)
    for name, line_number in source.text.bare.items() if only is None else ():
        # What is no name of a setting may be a piece of a secret: it is not repeated.
        is_known = name in _KNOWN or name in SETUP_KEYS or NUMBERED.match(name)
        plan.say(
            Kind.LOOK, name if is_known else file,
            f"line {line_number} is a name without `=`, whose value was the shell's that started"
            " PACSOR, if any; left out",
        )  # fmt: skip


def _where(source: Source, name: str) -> str:
    return f"{source.path.name}, line {source.text.lines.get(name)}"


def _by_todays_names(plan: Plan, source: Source) -> dict[str, str]:
    given = {name: value for name, value in source.text.values.items() if value}
    passed_over = overruled(given)
    for name in given:
        today = todays_name(name, given)
        if name in REMOVED:
            plan.say(Kind.DROPPED, name, "no longer exists and is ignored")
        elif name in passed_over:
            _say_passed_over(plan, source, name, passed_over[name])
        elif today != name:
            is_legacy = name not in ALIASES
            plan.say(Kind.CHANGED, name, f"is {'now ' if is_legacy else ''}called {today}")
    return normalise({name: given[name] for name in given if name not in passed_over})[0]


def _say_passed_over(plan: Plan, source: Source, name: str, counting: str) -> None:
    value, other = source.text.values[name], source.text.values[counting]
    if list(normalise({name: value})[0].values()) == list(normalise({counting: other})[0].values()):
        plan.say(Kind.DROPPED, name, f"{counting} says the same")
        return
    where = f"line {source.text.lines[counting]}"
    said = f"not used ({_where(source, name)}): {counting} ({where}) says something else and counts"
    plan.say(Kind.LOOK, name, said)


def _take_setup_key(plan: Plan, name: str, value: str, where: str) -> None:
    """A name that the wizard uses in its `.config`, in an `.env`: as if it stood there."""
    today = SETUP_KEYS[name]
    if today in IGNORED and today != "CLIENT_NAME":
        plan.say(Kind.DROPPED, name, PLUMBING.get(today, "the wizard's own"))
    elif plan.values.get(today) == value:
        plan.say(Kind.DROPPED, name, f"the wizard's name for {today}, which says the same")
    elif today in plan.values:
        said = f"the wizard's name for {today}, which says something else and counts ({where})"
        plan.say(Kind.LOOK, name, said)
    else:
        plan.values[today] = value
        said = f"the wizard's name for {today}, which PACSOR itself did not read ({where}); taken"
        plan.say(Kind.LOOK, name, said)


def _take_hl7_enable(plan: Plan, is_enabled: bool) -> None:
    """The wizard's switch stands for a callback, as in its `.config`."""
    before = plan.values.get("CALLBACK_URLS", "http://storescu:8000")
    after = with_hl7(before)
    if not is_enabled or sorted(comma_list(after)) == sorted(comma_list(before)):
        plan.say(Kind.DROPPED, "HL7_ENABLE", "the wizard's own; CALLBACK_URLS says it")
        return
    plan.values["CALLBACK_URLS"] = after
    said = f"the wizard's, which PACSOR itself did not read; {HL7_CALLBACK} is in CALLBACK_URLS now"
    plan.say(Kind.LOOK, "HL7_ENABLE", said)


def _take_forgotten(plan: Plan) -> None:
    """What only the `.config` has, and where the two contradict each other."""
    install = plan.install
    if install.env is None or install.config is None:
        return
    path, kept = install.config.path, install.config.text.values
    for name in FORGOTTEN:
        if name in kept and name not in plan.values:
            plan.change(name, kept[name], f"taken from {path.name}: the wizard forgot it in .env")
            _pass_on(plan, install.config, name)
    for name, value in plan.values.items():
        # DICOM_FILTERS may be damaged in one of them: `take_filters` compares those.
        is_compared = name in kept and name != "DICOM_FILTERS"
        if is_compared and _reading(kept[name]) != _reading(value):
            plan.say(Kind.LOOK, name, f".env and {path.name} differ; .env counts")


def _reading(value: str) -> object:
    return sorted(comma_list(value)) if "," in value else value


def _client(plan: Plan) -> None:
    """The client's name, which PACSOR's wizard keeps to itself and ours asks for."""
    if "CLIENT_NAME" in plan.values:
        return
    env, config = plan.install.env, plan.install.config
    name = config.text.values.get("CLIENT_NAME") if config else None
    file = env.path.resolve().name if env else ""
    if name is None and file.startswith(ENV_PREFIX):
        name = file.removeprefix(ENV_PREFIX)
    if name:
        plan.change("CLIENT_NAME", name, "named so by PACSOR's files; for `pacsor setup`")

"""Where the value of each setting came from, and what it was chosen over.

What wins, from the last word down: an HL7 configuration loaded at run time, the one that
LOAD_CONFIG_AT_INIT names, the environment, `.env`, the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic_core import PydanticUndefined

from pacsor_tasks import env_file
from pacsor_tasks.conf_files import read_json_object
from pacsor_tasks.environment import ALIASES, IGNORED, LEGACY, REMOVED, todays_name
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, at_init

DEFAULT, DERIVED = "default", "derived from other settings"


class Place(NamedTuple):
    """Where something is said of a setting."""

    #: `environment`, `.env, line 7`, `conf/config.json`, …
    where: str
    #: the name it is said by, where that is not the setting's own
    name: str | None = None
    #: it is named there and left empty, so that the default counts
    is_empty: bool = False

    def __str__(self) -> str:
        """As the report has it."""
        said = f"{self.where} (as {self.name}, {_kind(self.name)})" if self.name else self.where
        return f"{said}, empty" if self.is_empty else said


@dataclass(frozen=True, slots=True)
class Origin:
    """What is said of one setting, and which counts."""

    name: str
    source: str
    #: places that have no say because of it
    instead_of: list[str] = field(default_factory=list)

    @property
    def is_set(self) -> bool:
        """Whether anybody said anything."""
        return self.source not in {DEFAULT, DERIVED} or bool(self.instead_of)


def origins(settings: Settings, environ: Mapping[str, str], dotenv: Path) -> list[Origin]:
    """The origin of every setting, in the order of docs/settings.md, numbered ones after them."""
    file = env_file.read(dotenv) if dotenv.is_file() else env_file.EnvText()
    places = [
        _of_run_time(settings),
        _of_start(settings),
        _written(environ, lambda _: "environment"),
        _written(file.values, lambda name: f"{dotenv}, line {file.lines[name]}"),
    ]
    names = [name for name in type(settings).model_fields if name != "NUMBERED"]
    return [_origin(settings, name, places) for name in (*names, *sorted(settings.NUMBERED))]


def without_effect(dotenv: Path) -> dict[str, str]:
    """Names in `.env` that decide nothing, and why not."""
    if not dotenv.is_file():
        return {}
    found = {}
    for name in env_file.read(dotenv).values:
        if name in REMOVED:
            found[name] = "PACSOR has it no more either"
        elif name in IGNORED:
            found[name] = "for Docker Compose, or PACSOR's own plumbing"
    return found


def meaning(name: str) -> str:
    """What a setting does."""
    base = name if name in Settings.model_fields else name.rstrip("0123456789").rstrip("_")
    described = Settings.model_fields.get(base)
    return (described.description or "") if described else ""


def default_of(name: str) -> str | None:
    """The default as it would be written; None: required, computed, or of one peer alone."""
    described = Settings.model_fields.get(name)
    if described is None or described.default_factory or described.default is PydanticUndefined:
        return None
    value = described.default
    if value in (None, (), ""):
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(settings: Settings, name: str, sources: list[dict[str, list[Place]]]) -> Origin:
    said = [place for source in sources for place in source.get(name, ())]
    # An empty variable of the environment takes the file's value away; an empty line does nothing.
    counts = next((p for p in said if not p.is_empty or p.where == "environment"), None)
    if counts is None or counts.is_empty:
        default = type(settings).model_fields.get(name)
        is_other = default is not None and default.default_factory is None and (
            getattr(settings, name) != default.default and default.default is not PydanticUndefined
        )  # fmt: skip
        return Origin(name, DERIVED if is_other else DEFAULT, [str(p) for p in said])
    return Origin(name, str(counts), [str(p) for p in said if p is not counts and not p.is_empty])


def _written(values: Mapping[str, str], where: Callable[[str], str]) -> dict[str, list[Place]]:
    """By setting; a name of today before an old one."""
    found: dict[str, list[Place]] = {}
    for name in sorted(values, key=lambda n: todays_name(n, values) != n):
        today = todays_name(name, values)
        place = Place(
            where(name), None if today == name else name, not env_file.clean(values[name])
        )
        found.setdefault(today, []).append(place)
    return found


def _of_start(settings: Settings) -> dict[str, list[Place]]:
    stem = settings.LOAD_CONFIG_AT_INIT
    if stem is None:
        return {}
    given = {"LOAD_CONFIG_AT_INIT": stem, "HL7_CONF_DIR": str(settings.HL7_CONF_DIR)}
    return _named(at_init(given), f"{settings.HL7_CONF_DIR / stem}.json, at start")


def _of_run_time(settings: Settings) -> dict[str, list[Place]]:
    """What `pacsor hl7 load` made count: it does so in every process, until it is put away."""
    path = settings.DATA_DIR.absolute() / "hl7" / "active.json"
    try:
        loaded = read_json_object(path)
    except ConfigError:
        return {}
    values = loaded.get("values")
    where = f"{loaded.get('name')}.json, loaded at run time"
    return _named(values, where) if isinstance(values, dict) else {}


def _named(names: Iterable[str], where: str) -> dict[str, list[Place]]:
    return {name: [Place(where)] for name in names}


def _kind(name: str) -> str:
    if name in ALIASES:
        return "another name of it"
    return "an old name" if name in LEGACY else "another name"

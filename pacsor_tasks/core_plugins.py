"""Types of cores that installed packages bring: found by name, loaded, held to the interface.

A package says `folder = "pacsor_folder:make"` in its entry points of the group
`pacsor_tasks.cores`; `CORE_TYPE=folder` then means that factory. Nothing of a package is imported
before it is asked for by name.

Source: docs/cores.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pacsor_tasks.core_api import CoreClient, CoreConfig, CoreFactory
from pacsor_tasks.errors import ConfigError

GROUP = "pacsor_tasks.cores"
#: The types of this package; no other can take their names.
BUILT_IN = ("milvue", "tcr")
#: What a core has to have, and what its methods are called with, in this order.
METHODS: dict[str, tuple[str, ...]] = {
    "upload": ("study_uid", "items", "on_uploaded", "before_put"),
    "status": ("study_uid",),
    "results": ("study_uid", "command", "into", "params"),
    "check": (),
    "close": (),
}
#: A core need not have it.
FINDINGS = ("study_uid", "command", "language")

_NUMBERED = re.compile(r"(?P<option>.+)_(?P<number>[1-9][0-9]*)")
_SECRET = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSPHRASE|KEY|CREDENTIALS?)(?:_|$)")


def installed() -> dict[str, list[EntryPoint]]:
    """The types that can be asked for beside our own, and who brings each."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        name = entry.name.lower()
        if name not in BUILT_IN and entry not in found.setdefault(name, []):
            found[name].append(entry)
    return found


def known(name: str) -> str:
    """The name of a type that is there; imports nothing of it.

    Raises:
        ValueError: Nobody brings it, or two packages do; says which types there are.
    """
    if name in BUILT_IN:
        return name
    found = installed()
    if name not in found:
        names = ", ".join((*BUILT_IN, *sorted(found)))
        raise ValueError(f"no type {name!r} is installed; there are {names} (docs/cores.md)")
    if len(found[name]) > 1:
        raise ValueError(f"two packages bring {name!r}: {' and '.join(map(_who, found[name]))}")
    return name


@cache
def factory(name: str) -> CoreFactory:
    """Import what makes the cores of an installed type.

    Kept, so that a worker's children need not find a package again that was taken away meanwhile.

    Raises:
        ConfigError: It cannot be imported, or is nothing that can be called.
    """
    try:
        (entry,) = installed()[known(name)]
    except ValueError as exc:
        raise ConfigError(f"CORE_TYPE: {exc}") from exc
    try:
        found = entry.load()
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"CORE_TYPE: {_who(entry)} cannot be imported: {_said(exc)}") from exc
    if not callable(found):
        raise ConfigError(
            f"CORE_TYPE: {_who(entry)} is a {type(found).__name__}, no function that makes a core"
        )
    made: CoreFactory = found
    return made


def make(name: str, config: CoreConfig) -> CoreClient:
    """A core of an installed type, as its package makes it; see `plugged_core` for its shield.

    Raises:
        ConfigError: The package refuses the settings, fails, or makes something else.
    """
    of = f"{config.name} (CORE_TYPE {name})"
    try:
        client = factory(name)(config)
    except ConfigError as exc:
        raise ConfigError(_without(config, str(exc))) from exc
    except (Exception, SystemExit) as exc:
        said = _without(config, _said(exc))
        raise ConfigError(f"{of}: the core cannot be made: {said}") from exc
    if wrong := violations(client):
        raise ConfigError(
            f"{of}: a {type(client).__name__} is no core: {'; '.join(wrong)} (docs/cores.md)"
        )
    return client


def violations(client: object) -> list[str]:
    """What an object lacks to be a `CoreClient`, one phrase each."""
    asked = dict(METHODS)
    if getattr(client, "findings", None) is not None:
        asked["findings"] = FINDINGS
    return [said for name, names in asked.items() if (said := _violation(client, name, names))]


def plugged_names(values: Mapping[str, str]) -> set[str]:
    """Of these variables, those that belong to a package whose type some core has."""
    kinds = (
        value.lower()
        for name, value in values.items()
        if re.fullmatch(r"CORE_TYPE(_[1-9][0-9]*)?", name)
    )
    prefixes = tuple(_prefix(kind) for kind in kinds if kind not in BUILT_IN)
    return {name for name in values if name.startswith(prefixes) and name not in prefixes}


def options_of(values: Mapping[str, str], kind: str, number: str) -> dict[str, str]:
    """A core's options by their lower-case names.

    Args:
        values: Variables by name.
        kind: Its type: `CORE_FOLDER_OUTBOX` is the option `outbox` of the type `folder`.
        number: `1` for `core1`, empty for `core`. What ends with another core's number is that
            core's; what ends with none counts for each core of the type that has none of its own.
    """
    plain: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, value in values.items():
        if not name.startswith(_prefix(kind)):
            continue
        option = name.removeprefix(_prefix(kind)).lower()
        numbered = _NUMBERED.fullmatch(option)
        if numbered is None:
            plain[option] = value
        elif numbered["number"] == number:
            own[numbered["option"]] = value
    return plain | own


def is_secret(name: str) -> bool:
    """Whether a variable's or an option's name says that its value is nobody's business."""
    return _SECRET.search(name.upper()) is not None


def _prefix(kind: str) -> str:
    return f"CORE_{re.sub(r'[^A-Z0-9]', '_', kind.upper())}_"


def _violation(client: object, name: str, names: Iterable[str]) -> str | None:
    method: Any = getattr(client, name, None)
    if not callable(method):
        return f"it has no {name}()"
    try:
        inspect.signature(method).bind(*names)
    except TypeError:
        return f"its {name}() does not take ({', '.join(names)})"
    except ValueError:
        return None  # written in C: nobody can tell
    return None


def _who(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "no package"
    return f"{entry.value} of {package}"


def _said(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def _without(config: CoreConfig, said: str) -> str:
    hidden = [config.token, *(v for name, v in config.options.items() if is_secret(name))]
    for secret in filter(None, hidden):
        said = said.replace(secret, "***")
    return said

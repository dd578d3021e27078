"""A configuration while it is being made: settings by today's names, and what a choice changes.

Nothing is changed in place. An empty value is no value: the default counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pacsor_tasks import environment as written
from pacsor_tasks.environment import NUMBERED, OF_ONE_CORE
from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_routing import OF_ONE
from pacsor_tasks.settings_types import comma_list, kind_of, without_secrets
from pacsor_tasks.setup.products import OTHER, PRODUCTS, SUITE, Environment, Product

Values = Mapping[str, str]
LOCALOR_CLIENT = "local.milvue.localor."


def changed(values: Values, changes: Mapping[str, str]) -> dict[str, str]:
    """The values with some of them changed; an empty one is taken away."""
    return {name: value for name, value in {**values, **changes}.items() if value}


def is_true(values: Values, name: str) -> bool:
    """A boolean as people write it; its default when it is not given or is none."""
    default = Settings.model_fields[name].default if name in Settings.model_fields else False
    return written.is_true(values, name, default=bool(default))


def names_in(values: Values, name: str) -> tuple[str, ...]:
    """A comma-separated list."""
    found: tuple[str, ...] = comma_list(values.get(name, ""))
    return found


def with_name(text: str, name: str, *, is_in: bool) -> str:
    """A comma-separated list with a name in it, once, or without it."""
    others = [other for other in comma_list(text) if other != name]
    return ",".join([*others, name] if is_in else others)


def base_of(name: str) -> tuple[str, str]:
    """A setting's name and its number: `PACS_IP_2` is (`PACS_IP`, `2`), `PORT` (`PORT`, ``)."""
    match = NUMBERED.match(name)
    return (match[1], match[2]) if match else (name, "")


def suffixed(name: str, peer: str) -> str:
    """The setting of a destination or core: `PACS_IP` of `storescu-2` is `PACS_IP_2`."""
    match = re.fullmatch(r"(?:core|.*-)([0-9]+)", peer)
    return f"{name}_{match[1]}" if match else name


# --- product and environment


def product_of(values: Values) -> Product | None:
    """The product whose commands are asked for; None: a choice of the site's own."""
    if not values.get("INFERENCE_COMMANDS"):
        return SUITE if "API_URL" in values else None
    commands = set(names_in(values, "INFERENCE_COMMANDS"))
    return next((p for p in PRODUCTS.values() if set(p.commands) == commands), None)


def with_product(values: Values, key: str) -> Values:
    """Change the product: what is asked of the AI, and the environment if it offers another."""
    before = product_of(values)
    product = PRODUCTS[key]
    if product is before:
        return values
    values = changed(
        values,
        {
            "INFERENCE_COMMANDS": ",".join(product.commands),
            "DETECTION_INFERENCE_COMMAND": product.detection,
            "INCLUDE_MEASURES_FINDINGS": "" if product.has_measures else "false",
        },
    )
    known = {environment.key for environment in product.environments}
    if environment_of(values) not in known - {OTHER.key}:
        values = _left_localor(changed(values, {"API_URL": "", "SIGNED_URL": ""}))
    return values


def environments_of(values: Values) -> tuple[Environment, ...]:
    """What the product is offered."""
    return (product_of(values) or SUITE).environments


def environment_of(values: Values) -> str:
    """The key of the environment in use; empty: none yet."""
    url = values.get("API_URL", "").rstrip("/")
    if not url:
        return ""
    is_local = is_true(values, "ISLOCALOR")
    every = (e for p in PRODUCTS.values() for e in p.environments)
    found = (e.key for e in every if e.url == url and e.is_local == is_local)
    return next(found, OTHER.key)


def with_environment(values: Values, key: str) -> Values:
    """Change the environment; all that belonged to the former one alone goes with it."""
    if key == environment_of(values):
        return values
    product = product_of(values) or SUITE
    environment = next(e for e in product.environments if e.key == key)
    if not environment.is_local:
        values = _left_localor(values)
    is_signed = product.is_signed and not environment.is_local
    return changed(
        values,
        {
            "API_URL": environment.url,
            "SIGNED_URL": "true" if is_signed else "false",
            "ISLOCALOR": "true" if environment.is_local else "",
        },
    )


def with_api_url(values: Values, url: str) -> Values:
    """Set the address itself; one of an environment chooses that environment."""
    for environment in environments_of(values):
        if environment.url == url.rstrip("/"):
            return with_environment(values, environment.key)
    if is_true(values, "ISLOCALOR") or "SIGNED_URL" not in values:
        values = with_environment(changed(values, {"API_URL": ""}), OTHER.key)
    return changed(values, {"API_URL": url})


def _left_localor(values: Values) -> dict[str, str]:
    client = values.get("CLIENT_NAME", "")
    changes = {"ISLOCALOR": ""}
    if client.startswith(LOCALOR_CLIENT):
        changes["CLIENT_NAME"] = ""
        if values.get("COMPOSE_PROJECT_NAME") == project_of(client):
            changes["COMPOSE_PROJECT_NAME"] = ""
    return changed(values, changes)


# --- client


def project_of(client: str) -> str:
    """The Compose project of a client: lower case, as Compose wants it."""
    return f"pacsor-{re.sub(r'[^a-z0-9_-]', '-', client.lower())}"


def with_client(values: Values, client: str) -> Values:
    """Change the client's name; the project's name goes along unless it was chosen."""
    former = values.get("CLIENT_NAME", "")
    project = values.get("COMPOSE_PROJECT_NAME", "")
    is_derived = not project or (bool(former) and project == project_of(former))
    changes = {"CLIENT_NAME": client}
    if is_derived:
        changes["COMPOSE_PROJECT_NAME"] = project_of(client)
    return changed(values, changes)


# --- destinations


def destinations(values: Values, core: str = "core") -> tuple[str, ...]:
    """Where a core's results go, by name, in the order written; HL7 ones even when switched off.

    A plain callback goes by its URL.
    """
    named = names_in(values, suffixed("DESTINATIONS", core))
    named = named or names_in(values, suffixed("CALLBACK_URLS", core))
    if named:
        return tuple(dict.fromkeys(map(_name, named)))
    return ("storescu",) if core == "core" else destinations(values)


def used_destinations(values: Values) -> tuple[str, ...]:
    """Those of every core, and where other providers' reports go."""
    found = [name for core in cores(values) for name in destinations(values, core)]
    if is_true(values, "WEBPS_ENABLE"):
        asked = names_in(values, "WEBPS_DESTINATIONS")
        found += asked or ([] if any(n.startswith("hl7") for n in found) else ["hl7"])
    if not is_true(values, "ENABLE_HL7"):
        found = [name for name in found if not is_ris(name)]
    return tuple(dict.fromkeys(found))


def with_destination(values: Values, name: str) -> dict[str, str]:
    """Results of the first core go to this one too: in the form the site uses, and once."""
    changes = {"ENABLE_HL7": ""} if is_ris(name) and not is_true(values, "ENABLE_HL7") else {}
    if name in destinations(values):
        return changed(values, changes)
    if "DESTINATIONS" in values:
        changes["DESTINATIONS"] = with_name(values["DESTINATIONS"], name, is_in=True)
    else:
        urls = values.get("CALLBACK_URLS") or "http://storescu:8000"
        changes["CALLBACK_URLS"] = with_name(urls, f"http://{name}:8000", is_in=True)
    return changed(values, changes)


def without_destination(values: Values, name: str) -> dict[str, str]:
    """Results go there no more; its own settings go as well, but those of the first of its kind."""
    changes = {}
    for core in cores(values):
        for setting in (suffixed("DESTINATIONS", core), suffixed("CALLBACK_URLS", core)):
            kept = [item for item in names_in(values, setting) if _name(item) != name]
            changes[setting] = ",".join(kept)
    if "DESTINATIONS" not in values and "CALLBACK_URLS" not in values and name == "storescu":
        return dict(values)  # the default; there is no way to write "none"
    kind = kind_of(name)
    if kind is not None and "-" in name:
        changes |= {suffixed(setting, name): "" for setting in OF_ONE[kind]}
    return changed(values, changes)


def free_name(values: Values, kind: str) -> str:
    """The next destination of a kind: `storescu-2` beside `storescu`."""
    taken = set(used_destinations(values)) | set(destinations(values))
    names = (kind if n == 1 else f"{kind}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def is_ris(name: str) -> bool:
    """Whether a destination speaks HL7."""
    return kind_of(name) is DestinationKind.HL7


def is_pacs(name: str) -> bool:
    """Whether a destination is a PACS by C-STORE."""
    return kind_of(name) is DestinationKind.STORESCU


def spoken(name: str) -> str:
    """A destination's name for the screen: a plain callback's URL may have a key in it."""
    return without_secrets(name)


def _name(item: str) -> str:
    """The destination that an item of DESTINATIONS or CALLBACK_URLS names."""
    host = urlsplit(item).hostname or "" if "://" in item else item
    return host if kind_of(host) is not None else item


# --- cores


def cores(values: Values) -> tuple[str, ...]:
    """The cores by name, the first one first."""
    return ("core", *names_in(values, "ADDITIONAL_CORES"))


def with_core(values: Values) -> tuple[dict[str, str], str]:
    """One core more, and its name."""
    taken = cores(values)
    name = next(f"core{n}" for n in range(1, len(taken) + 1) if f"core{n}" not in taken)
    listed = with_name(values.get("ADDITIONAL_CORES", ""), name, is_in=True)
    return changed(values, {"ADDITIONAL_CORES": listed}), name


def without_core(values: Values, name: str) -> dict[str, str]:
    """A core less, and its settings."""
    listed = with_name(values.get("ADDITIONAL_CORES", ""), name, is_in=False)
    changes = {suffixed(setting, name): "" for setting in OF_ONE_CORE}
    return changed(values, {**changes, "ADDITIONAL_CORES": listed})

"""The questions: what is asked for each setting, what is proposed, and what an answer changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pacsor_tasks.environment import OF_ONE_CORE
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings
from pacsor_tasks.settings_routing import OF_ONE
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.masking import is_hidden, masked
from pacsor_tasks.setup.products import PRODUCTS, SUITE
from pacsor_tasks.setup.validation import checked
from pacsor_tasks.setup.values import Values

REPORT_URL = "https://app.report.milvue.com"
#: For a secret that may be missing, whose present value nobody sees: take it away.
NONE = "-"


class Kind(StrEnum):
    """How a question is answered."""

    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - a kind of question
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers of a choice."""

    value: str
    title: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question, as a screen shows it."""

    name: str
    title: str
    hint: str = ""
    kind: Kind = Kind.TEXT
    options: tuple[Option, ...] = ()
    #: proposed; never what must not be seen
    default: str = ""
    #: an empty answer takes the value away, or leaves a secret as it is
    is_optional: bool = False
    #: `-` takes a secret away
    is_removable: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a proposal may depend on beside the answers."""

    hostname: str = "localhost"
    profiles: tuple[str, ...] = ("Default", "WithSC", "WithRF", "WithSCRF")


@dataclass(frozen=True, slots=True)
class _Entry:
    title: str
    hint: str = ""
    options: tuple[Option, ...] = ()
    #: proposed where nothing is set and the settings have no default
    proposal: str = ""
    is_optional: bool = False


YES_NO = (Option("true", "yes"), Option("false", "no"))
_FORMATS = tuple(Option(f, f) for f in ("B64", "PLAIN", "HTML", "HTML_SPLIT"))
CATALOGUE: Mapping[str, _Entry] = {
    "PRODUCT": _Entry("Product"),
    "ENVIRONMENT": _Entry("Where the AI service is"),
    "API_URL": _Entry("Its URL", "http(s)://host:port/path"),
    "SIGNED_URL": _Entry("Signed URLs", "yes in the cloud, no on premises", YES_NO),
    "CLIENT_NAME": _Entry("Client name", "country.partner.client.site.id"),
    "TOKEN": _Entry("Token", "the key of the AI service"),
    "PACS_AET": _Entry("AE title of the PACS"),
    "PACS_IP": _Entry("Address of the PACS", "host name, IPv4 or IPv6"),
    "PACS_PORT": _Entry("DICOM port of the PACS", proposal="104"),
    "PORT": _Entry("Port of the SCP", "where the modalities send, from 1024"),
    "MILVUE_AET": _Entry("AE title of the gateway", "called by modalities, calling the PACS"),
    "DOCKER_IMAGE_TAG": _Entry("Version", "the image's tag", proposal="latest"),
    "DEBUG": _Entry("Debug log", options=YES_NO),
    "CONFIG_PROFILE": _Entry("DICOM profile", "SOP classes that are accepted"),
    "INFERENCE_COMMANDS": _Entry("Inference commands", "comma-separated"),
    "STUDY_QUIET_SECONDS": _Entry("Seconds of silence", "after which a study is complete"),
    "NO_DUPLICATE_UPLOAD": _Entry("Never upload an instance twice", options=YES_NO),
    "ADMIN_TOKEN": _Entry(
        "Token of the status page", "with one, Docker publishes it; `new` makes one",
        is_optional=True,
    ),
    "HL7": _Entry("Send reports to a RIS by HL7", options=YES_NO),
    "RIS_HOST_IP": _Entry("Address of the RIS", "host name, IPv4 or IPv6"),
    "RIS_HOST_PORT": _Entry("MLLP port of the RIS", proposal="2575"),
    "RECEIVING_APPLICATION": _Entry("Receiving application", "MSH-5"),
    "RECEIVING_FACILITY": _Entry("Receiving facility", "MSH-6"),
    "SENDING_APPLICATION": _Entry("Sending application", "MSH-3"),
    "SENDING_FACILITY": _Entry("Sending facility", "MSH-4"),
    "HL7_LANGUAGE": _Entry("Language", options=(Option("FR", "French"), Option("EN", "English"))),
    "INCLUDE_TECHCARE_REPORT": _Entry("Include the TechCare report", options=YES_NO),
    "TECHCARE_REPORT_FORMAT": _Entry("Form of the report", options=_FORMATS),
    "TCR_API_URL": _Entry("URL of TechCare Report", proposal=REPORT_URL),
    "STOW_URL": _Entry("DICOMweb URL", "its /studies get the instances"),
    "STOW_TOKEN": _Entry("Bearer token of the DICOMweb server", is_optional=True),
    "FOLDER_PATH": _Entry("Folder", "an absolute path; it must be there"),
    "WEBHOOK_URL": _Entry("URL of the webhook"),
    "WEBHOOK_SECRET": _Entry("Secret that signs the events", "16 characters", is_optional=True),
    "WEBPS_ENABLE": _Entry("Take reports of other providers (Web PubSub)", options=YES_NO),
    "WEBPS_PROVIDERS": _Entry("Providers", "comma-separated"),
    "DESTINATIONS": _Entry("Destinations", "by name; empty: as the first core", is_optional=True),
}  # fmt: skip
#: Required of the first core or destination, taken from it by the others.
_INHERITED = frozenset(
    {"INFERENCE_COMMANDS", "MILVUE_AET", "SIGNED_URL", "NO_DUPLICATE_UPLOAD"}
    | {"RECEIVING_APPLICATION", "RECEIVING_FACILITY", "SENDING_APPLICATION", "SENDING_FACILITY"}
    | {"HL7_LANGUAGE"}
)


def question(name: str, values: Values, around: Surroundings) -> Question:
    """The question for a setting (`PACS_IP_2` included), or for a choice that sets several."""
    base, number = v.base_of(name)
    entry = CATALOGUE.get(base, _Entry(name, _description(base), is_optional=True))
    present = current(name, values)
    kind = Kind.CHOICE if entry.options else Kind.TEXT
    options = entry.options
    if base in _CHOICES:
        kind, options = Kind.CHOICE, _CHOICES[base](values, around)
    elif is_hidden(name, present):
        kind = Kind.SECRET
    proposal = _proposal(base, values, around) or entry.proposal or default_of(base)
    is_inherited = bool(number) and base in _INHERITED
    if kind is Kind.SECRET:
        default = ""
    elif is_inherited and kind is Kind.TEXT:
        default = present
    else:
        default = present or proposal or (options[0].value if options else "")
    return Question(
        name=name,
        title=f"{entry.title} ({_peer(base, number)})" if number else entry.title,
        hint=f"{entry.hint}; empty: as the first" if is_inherited and entry.hint
        else "empty: as the first" if is_inherited else entry.hint,
        kind=kind,
        options=options,
        default=default,
        is_optional=entry.is_optional or is_inherited or (kind is Kind.SECRET and bool(present)),
        is_removable=kind is Kind.SECRET and bool(present) and _is_optional(base),
    )  # fmt: skip


def current(name: str, values: Values) -> str:
    """The present answer to a question; empty: none."""
    base, _ = v.base_of(name)
    reader = _READERS.get(base)
    return reader(name, values) if reader else values.get(name, "")


def answered(name: str, text: str, values: Values) -> Values:
    """The values after an answer; an empty one leaves what was not shown as it is.

    Raises:
        ConfigError: What is wrong with the answer; a secret is not repeated.
    """
    base, _ = v.base_of(name)
    if is_hidden(name, current(name, values)):
        if not text.strip():
            return values
        if text.strip() == NONE and _is_optional(base):
            text = ""
    changer = _CHANGERS.get(base)
    if changer is not None:
        return changer(name, text, values)
    return v.changed(values, {name: checked(name, text, values)})


def _is_optional(base: str) -> bool:
    return base not in CATALOGUE or CATALOGUE[base].is_optional


def _description(base: str) -> str:
    field = Settings.model_fields.get(base)
    return (field.description or "") if field is not None else ""


def default_of(base: str) -> str:
    """The default of a setting as it would be written; empty: none."""
    field = Settings.model_fields.get(base)
    default = field.default if field is not None else None
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default) if isinstance(default, str | int | float) else ""


def _peer(base: str, number: str) -> str:
    if base in OF_ONE_CORE:
        return f"core{number}"
    return next(f"{kind}-{number}" for kind, of_one in OF_ONE.items() if base in of_one)


def _proposal(base: str, values: Values, around: Surroundings) -> str:
    if base == "CLIENT_NAME" and v.is_true(values, "ISLOCALOR"):
        host = re.sub(r"[^a-z0-9_-]", "-", around.hostname.lower().partition(".")[0])
        return f"{v.LOCALOR_CLIENT}{host or 'localhost'}.0"
    if base == "SIGNED_URL":
        return "true" if (v.product_of(values) or SUITE).is_signed else "false"
    return ""


# --- questions that are choices by the circumstances


def _products(values: Values, around: Surroundings) -> tuple[Option, ...]:
    del around
    found = tuple(Option(p.key, p.title) for p in PRODUCTS.values())
    if values.get("INFERENCE_COMMANDS") and v.product_of(values) is None:
        return (Option("", f"as it is: {values['INFERENCE_COMMANDS']}"), *found)
    return found


def _environments(values: Values, around: Surroundings) -> tuple[Option, ...]:
    del around
    found = [Option(e.key, f"{e.title}  {e.url}") for e in v.environments_of(values)]
    present = v.environment_of(values)
    if present and present not in {option.value for option in found}:
        found.append(Option(present, f"as it is  {masked('API_URL', values['API_URL'])}"))
    return tuple(found)


def _profiles(values: Values, around: Surroundings) -> tuple[Option, ...]:
    present = values.get("CONFIG_PROFILE", "")
    names = dict.fromkeys([*around.profiles, *([present] if present else [])])
    return tuple(Option(name, name) for name in names)


_CHOICES: Mapping[str, Callable[[Values, Surroundings], tuple[Option, ...]]] = {
    "PRODUCT": _products,
    "ENVIRONMENT": _environments,
    "CONFIG_PROFILE": _profiles,
}


# --- questions about more than one setting


def _read_product(name: str, values: Values) -> str:
    del name
    product = v.product_of(values)
    return product.key if product else ""


def _read_destinations(name: str, values: Values) -> str:
    _, number = v.base_of(name)
    core = f"core{number}"
    is_own = any(v.suffixed(n, core) in values for n in ("DESTINATIONS", "CALLBACK_URLS"))
    return ",".join(v.destinations(values, core)) if is_own or not number else ""


def _yes(is_so: bool) -> str:
    return "true" if is_so else "false"


_READERS: Mapping[str, Callable[[str, Values], str]] = {
    "PRODUCT": _read_product,
    "ENVIRONMENT": lambda _, values: v.environment_of(values),
    "DEBUG": lambda _, values: _yes(values.get("PACSOR_LOG_LEVEL", "").lower() == "debug"),
    "HL7": lambda _, values: _yes(any(map(v.is_ris, v.used_destinations(values)))),
    "DESTINATIONS": _read_destinations,
}


def _set_product(name: str, text: str, values: Values) -> Values:
    if text and text not in PRODUCTS:
        raise ConfigError(f"{name}: {text!r} is none of {', '.join(PRODUCTS)}")
    return v.with_product(values, text) if text else values


def _set_environment(name: str, text: str, values: Values) -> Values:
    if text == v.environment_of(values):
        return values
    offered = [environment.key for environment in v.environments_of(values)]
    if text not in offered:
        raise ConfigError(f"{name}: {text!r} is none of {', '.join(offered)}")
    return v.with_environment(values, text)


def _set_api_url(name: str, text: str, values: Values) -> Values:
    url = checked(name, text, values)
    return v.with_api_url(values, url) if name == "API_URL" else v.changed(values, {name: url})


def _set_client(name: str, text: str, values: Values) -> Values:
    return v.with_client(values, checked(name, text, values))


def _set_aet(name: str, text: str, values: Values) -> Values:
    aet = checked(name, text, values)
    changes = {name: aet}
    if name == "MILVUE_AET" and values.get("RECEIVER_AET", "MILVUE") == values.get(name, "MILVUE"):
        changes["RECEIVER_AET"] = aet  # one AE for the site, until they are told apart
    return v.changed(values, changes)


def _set_debug(name: str, text: str, values: Values) -> Values:
    del name
    was = values.get("PACSOR_LOG_LEVEL", "")
    if text == "true":
        return v.changed(values, {"PACSOR_LOG_LEVEL": "debug"})
    return v.changed(values, {"PACSOR_LOG_LEVEL": "" if was.lower() == "debug" else was})


def _set_hl7(name: str, text: str, values: Values) -> Values:
    del name
    if text == "true":
        is_there = any(map(v.is_ris, v.destinations(values)))
        return values if is_there and v.is_true(values, "ENABLE_HL7") else (
            v.changed(values, {"ENABLE_HL7": ""}) if is_there else v.with_destination(values, "hl7")
        )  # fmt: skip
    for destination in filter(v.is_ris, v.destinations(values)):
        values = v.without_destination(values, destination)
    return values


def _set_webps(name: str, text: str, values: Values) -> Values:
    is_on = text == "true"
    profiles = v.with_name(values.get("COMPOSE_PROFILES", ""), "webps", is_in=is_on)
    return v.changed(values, {name: "true" if is_on else "", "COMPOSE_PROFILES": profiles})


def _set_destinations(name: str, text: str, values: Values) -> Values:
    names = checked(name, text, values)
    _, number = v.base_of(name)
    return v.changed(values, {name: names, v.suffixed("CALLBACK_URLS", f"core{number}"): ""})


_CHANGERS: Mapping[str, Callable[[str, str, Values], Values]] = {
    "PRODUCT": _set_product,
    "ENVIRONMENT": _set_environment,
    "API_URL": _set_api_url,
    "CLIENT_NAME": _set_client,
    "MILVUE_AET": _set_aet,
    "DEBUG": _set_debug,
    "HL7": _set_hl7,
    "WEBPS_ENABLE": _set_webps,
    "DESTINATIONS": _set_destinations,
}

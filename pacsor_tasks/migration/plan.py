"""What becomes of a PACSOR installation: values, files, and what a person should know.

Nothing is written here and no secret is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from pacsor_tasks.environment import ALIASES, IGNORED, NUMBERED, REMOVED, normalise
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.migration.conf import FILTER_CFG, ConfFile, conf_files
from pacsor_tasks.migration.config_file import is_true
from pacsor_tasks.migration.filters import repaired
from pacsor_tasks.migration.install import ENV_PREFIX, Install
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_types import comma_list

#: Reads one profile of a filter.cfg; raises ConfigError.
ReadProfile = Callable[[Path, str], object]
DEFAULT_COMMANDS = "smarturgences,smartxpert"
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
DAMAGED = "damaged by the wizard of PACSOR: see above"


class Kind(StrEnum):
    """What is said about a name or file."""

    CHANGED = "changed"
    DROPPED = "not carried over"
    LOOK = "look at this"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for the report."""

    kind: Kind
    about: str
    text: str


@dataclass(slots=True)
class Plan:
    """What will be written, and what is said about it."""

    install: Install
    values: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    files: list[ConfFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    #: why the gateway does not start with it yet; empty: it does
    problems: list[str] = field(default_factory=list)

    def say(self, kind: Kind, about: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, about, text))

    def change(self, name: str, value: str, why: str) -> None:
        """Set a value and say so."""
        self.values[name] = value
        self.say(Kind.CHANGED, name, why)

    @property
    def untouched(self) -> list[str]:
        """Names taken over as they are."""
        said = {finding.about for finding in self.findings}
        return [name for name in self.values if name not in said]


def make_plan(install: Install, read_profile: ReadProfile) -> Plan:
    """Decide what becomes of an installation."""
    plan = Plan(install)
    _take_values(plan)
    _take_forgotten(plan)
    for step in (_client, _filters, _callbacks, _cores, _techcare, _webps, _local_service):
        step(plan)
    _take_conf(plan, read_profile)
    _prove(plan)
    return plan


def _take_values(plan: Plan) -> None:
    install = plan.install
    source = install.env or install.config
    assert source is not None  # noqa: S101 - `find` gives one of them
    for warning in source.text.warnings:
        if not warning.startswith("DICOM_FILTERS"):
            plan.say(Kind.LOOK, source.path.name, warning)
    values = _by_todays_names(plan, source.text.values)
    for name, value in values.items():
        if name in Settings.model_fields or NUMBERED.match(name) or name == "CLIENT_NAME":
            plan.values[name] = value
        elif name in IGNORED:
            plan.say(Kind.DROPPED, name, PLUMBING.get(name, "of PACSOR's own programs"))
        else:
            line = source.text.lines.get(name)
            plan.say(
                Kind.LOOK, name, f"nobody knows it ({source.path.name}, line {line}); left out"
            )


def _by_todays_names(plan: Plan, written: Mapping[str, str]) -> dict[str, str]:
    given = {name: value for name, value in written.items() if value}
    for name in given:
        if name in ALIASES:
            plan.say(Kind.CHANGED, name, f"is called {ALIASES[name]}")
    values, old_names = normalise(given)
    for warning in old_names:
        name = warning.partition(" ")[0]
        kind = Kind.DROPPED if name in REMOVED else Kind.CHANGED
        said = warning.removeprefix(f"{name} ").replace("is an old name: write", "is now called")
        plan.say(kind, name, said)
    return values


def _take_forgotten(plan: Plan) -> None:
    """What only the `.config` has, and where the two contradict each other."""
    install = plan.install
    if install.env is None or install.config is None:
        return
    path, kept = install.config.path, install.config.text.values
    for name in FORGOTTEN:
        if name in kept and name not in plan.values:
            plan.change(name, kept[name], f"taken from {path.name}: the wizard forgot it in .env")
    for name, value in plan.values.items():
        if name in kept and _reading(name, kept[name]) != _reading(name, value):
            plan.say(Kind.LOOK, name, f".env and {path.name} differ; .env counts")


def _reading(name: str, value: str) -> object:
    if name == "DICOM_FILTERS":
        return name  # `_filters` looks at both
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


def _filters(plan: Plan) -> None:
    """DICOM_FILTERS as written; else an intact copy; else what can be made good; else a person."""
    value = plan.values.get("DICOM_FILTERS")
    if value is None:
        return
    filters = repaired(value)
    if not filters.problem:
        return
    config = plan.install.config
    copy = config.text.values.get("DICOM_FILTERS") if config and plan.install.env else None
    if copy is not None and config is not None and not repaired(copy).problem:
        plan.change("DICOM_FILTERS", copy, f"damaged in .env; taken from {config.path.name}")
    elif filters.text is not None:
        plan.change("DICOM_FILTERS", filters.text, "the quotes that a shell took are back")
    else:
        plan.values["DICOM_FILTERS"] = DAMAGED
        anew = f"{filters.problem}; write it anew: comments in .env say what was found"
        plan.say(Kind.LOOK, "DICOM_FILTERS", anew)
        meant = f"\nProbably meant: DICOM_FILTERS='{filters.guess}'" if filters.guess else ""
        plan.comments["DICOM_FILTERS"] = f"In PACSOR's file: {value}{meant}"


def _take_conf(plan: Plan, read_profile: ReadProfile) -> None:
    profile, directory = plan.values.get("CONFIG_PROFILE", "WithSC"), plan.install.conf
    found = conf_files(directory, lambda path: read_profile(path, profile), plan.values)
    plan.files = [file for file in found if not file.is_left_out]
    for file in found:
        if file.note:
            is_mended = file.name == FILTER_CFG and not file.is_wrong
            plan.say(Kind.CHANGED if is_mended else Kind.LOOK, f"conf/{file.name}", file.note)
    looked_at = {file.name for file in found}
    for path in sorted(directory.iterdir()) if directory else ():
        if path.name not in looked_at:
            plan.say(Kind.DROPPED, f"conf/{path.name}", "means nothing here")


def _callbacks(plan: Plan) -> None:
    for name in [n for n in plan.values if n.startswith("CALLBACK_URLS")]:
        urls = [url.rstrip("/") for url in plan.values[name].split(",")]
        once = ",".join(dict.fromkeys(url.strip() for url in urls if url.strip()))
        if len(comma_list(once)) < len([url for url in urls if url.strip()]):
            plan.change(name, once, "an address was there twice")
    has_hl7 = any(
        urlsplit(u).hostname == "hl7" for u in comma_list(plan.values.get("CALLBACK_URLS", ""))
    )
    parts = plan.install.parts
    if parts is not None and ("hl7" in parts) != has_hl7 and "tcr-core" not in parts:
        said = "has the hl7 service and CALLBACK_URLS does not name it" if "hl7" in parts else (
            "has no hl7 service and CALLBACK_URLS names it")  # fmt: skip
        plan.say(Kind.LOOK, "CALLBACK_URLS", f"PACSOR's compose file {said}")


def _cores(plan: Plan) -> None:
    values, parts = plan.values, plan.install.parts
    if "API_URL_1" in values and "ADDITIONAL_CORES" not in values:
        if parts is None or "multicore" in parts:
            plan.change("ADDITIONAL_CORES", "core1", "PACSOR's compose file said so, not its .env")
        else:
            plan.say(Kind.LOOK, "API_URL_1", "PACSOR's compose file has no second core, so it is"
                     " not used; ADDITIONAL_CORES=core1 would")  # fmt: skip
    commands = values.get("INFERENCE_COMMANDS", DEFAULT_COMMANDS)
    is_blank = "INFERENCE_COMMANDS_1" not in values
    if "ADDITIONAL_CORES" in values and is_blank and commands != DEFAULT_COMMANDS:
        plan.change("INFERENCE_COMMANDS_1", DEFAULT_COMMANDS, "blank means PACSOR's default")


def _techcare(plan: Plan) -> None:
    values = plan.values
    is_tcr = "tcr-core" in (plan.install.parts or ()) or "API_URL" not in values
    if not is_tcr or "PROVIDER_TOKEN" not in values:
        return
    plan.change("CORE_TYPE", "tcr", "PACSOR's tcr-core")
    for name, instead in {"API_URL": "TCR_API_URL", "TOKEN": "PROVIDER_TOKEN"}.items():
        if name not in values and instead in values:
            plan.change(name, values[instead], f"as {instead}: Docker Compose asks for it")


def _webps(plan: Plan) -> None:
    values = plan.values
    if "webps" in (plan.install.parts or ()) and "WEBPS_ENABLE" not in values:
        plan.change("WEBPS_ENABLE", "true", "PACSOR's compose file has its webps service")
    if is_true(values, "WEBPS_ENABLE"):
        plan.change("COMPOSE_PROFILES", "webps", "Docker Compose starts the subscriber by it")


def _local_service(plan: Plan) -> None:
    install, values = plan.install, plan.values
    host = urlsplit(values.get("API_URL", "")).hostname
    sources = (install.env, install.config)
    was_local = any(is_true(source.text.values, "ISLOCALOR") for source in sources if source)
    if host == "integrator":
        values["ISLOCALOR"] = "true"  # for the wizard
        plan.say(Kind.LOOK, "API_URL", "a service in the Docker network milvue-net: `pacsor setup`"
                 " writes the Compose override by which our containers join it")  # fmt: skip
    elif was_local and not is_true({"SIGNED_URL": "true", **values}, "SIGNED_URL"):
        plan.say(Kind.LOOK, "SIGNED_URL", "false, as the wizard leaves it behind after localor;"
                 " a cloud service of Milvue Suite wants true")  # fmt: skip
    if "debug" in (install.parts or ()):
        plan.say(Kind.LOOK, "PACSOR_LOG_LEVEL", "PACSOR ran with its debug override")


def _prove(plan: Plan) -> None:
    """Whether the gateway starts with it."""
    directory = plan.install.conf
    values = {**plan.values, "HL7_CONF_DIR": str(directory)} if directory else plan.values
    plan.problems = problems(values)
    plan.problems += [f"conf/{file.name}: {file.note}" for file in plan.files if file.is_wrong]


def problems(values: Mapping[str, str]) -> list[str]:
    """Why the settings do not load, a line each; no secret is repeated."""
    try:
        load(values, dotenv=None)
    except ConfigError as exc:
        return str(exc).splitlines()
    return []

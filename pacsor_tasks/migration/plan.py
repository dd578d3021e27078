"""What becomes of a PACSOR installation: values, files, and what a person should know.

Nothing is written here and no secret is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pacsor_tasks.environment import is_true
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.migration.conf import FILTER_CFG, conf_files
from pacsor_tasks.migration.install import Install
from pacsor_tasks.migration.outcome import Kind, Plan
from pacsor_tasks.migration.taking import take
from pacsor_tasks.settings import load
from pacsor_tasks.settings_types import comma_list

#: Reads one profile of a filter.cfg; raises ConfigError.
ReadProfile = Callable[[Path, str], object]
DEFAULT_COMMANDS = "smarturgences,smartxpert"


def make_plan(install: Install, read_profile: ReadProfile) -> Plan:
    """Decide what becomes of an installation."""
    plan = Plan(install)
    for name, doubt in install.doubts.items():
        plan.say(Kind.LOOK, name, doubt)
    take(plan)
    for step in (_callbacks, _cores, _techcare, _webps, _local_service):
        step(plan)
    _take_conf(plan, read_profile)
    _prove(plan)
    return plan


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
    if "PROVIDER_TOKEN" not in values or "CORE_TYPE" in values:
        return
    if not is_tcr:
        # Only the compose file tells the two apart; without one the gateway asks.
        if plan.install.parts is not None and "ORGANIZATION_ID" in values:
            plan.change("CORE_TYPE", "milvue", "PACSOR's compose file has its core, no tcr-core")
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

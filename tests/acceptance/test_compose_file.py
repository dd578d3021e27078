"""The compose file says what the deployment promises. No engine is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pacsor_tasks.settings import load_with_warnings
from tests.support.compose_plugin import GATEWAY, ROOT, SITE, config, dotenv, refusal

SIMULATORS = {"milvue", "pacs", "pacs-2", "ris"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as written, merge keys resolved, variables not."""
    document = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
    found: dict[str, Any] = document["services"]
    return found


def test_every_process_of_the_gateway_is_a_service(services: dict[str, Any]) -> None:
    assert set(services) == GATEWAY | SIMULATORS | {"redis", "postgres", "webps"}
    assert {n for n, s in services.items() if s.get("profiles") == ["demo"]} == SIMULATORS
    assert services["postgres"]["profiles"] == ["postgres"]
    assert services["webps"]["profiles"] == ["webps"]
    assert not any("profiles" in services[name] for name in GATEWAY | {"redis"})


def test_every_container_is_restarted_checked_and_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["restart"] == "always", name
        assert service["init"] is True, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service, name


def test_a_worker_can_be_scaled(services: dict[str, Any]) -> None:
    assert "container_name" not in services["worker"]
    assert "ports" not in services["worker"]


def test_redis_keeps_its_queue_and_is_not_published(services: dict[str, Any]) -> None:
    redis = services["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes --appendfsync everysec" in command
    assert "--maxmemory-policy noeviction" in command
    assert redis["volumes"] == ["redis:/data"]
    assert "ports" not in redis


def test_the_gateway_waits_for_redis_and_for_postgres_where_it_is(services: dict[str, Any]) -> None:
    for name in GATEWAY:
        assert services[name]["depends_on"] == {
            "redis": {"condition": "service_healthy"},
            "postgres": {"condition": "service_healthy", "required": False},
        }, name


def test_admin_and_flower_are_published_on_loopback_unless_told_otherwise(
    services: dict[str, Any],
) -> None:
    published = {name: s["ports"] for name, s in services.items() if "ports" in s}
    assert published == {
        "receiver": ["${PORT:-1040}:1040"],
        "flower": ["${FLOWER_BIND:-127.0.0.1}:${FLOWER_PORT:-5555}:5555"],
        "admin": ["${ADMIN_BIND:-127.0.0.1}:${ADMIN_PORT:-7000}:7000"],
    }


def test_the_commands_are_those_of_the_processes(services: dict[str, Any]) -> None:
    commands = {name: " ".join(services[name]["command"]) for name in GATEWAY}
    assert commands["receiver"] == "python -m receiver"
    assert "worker -Q ingest,transfer -n worker@%h" in commands["worker"]
    assert (
        "worker -Q deliver -c ${DELIVERY_CONCURRENCY:-4} -n deliverer@%h" in commands["deliverer"]
    )
    assert "worker -Q control -c 1 -n control@%h" in commands["control"]
    assert commands["admin"] == "python -m pacsor_tasks.admin"


def test_the_dockerfile_needs_no_registry_frontend_and_drops_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.startswith("ARG PYTHON_IMAGE=python:3.11-slim-bookworm\n")
    assert "# syntax=" not in text
    assert "--require-hashes" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]


def test_only_what_the_dockerfile_copies_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == names


def test_compose_alone_of_a_pacsor_env_keeps_admin_and_flower_inside(tmp_path: Path) -> None:
    services = config(dotenv(tmp_path / "site.env"))["services"]
    assert set(services) == GATEWAY | {"redis"}
    assert services["admin"]["environment"]["ADMIN_HOST"] == ""
    assert services["flower"]["environment"]["FLOWER_HOST"] == ""
    assert "--address=127.0.0.1" in services["flower"]["command"]
    assert "--address=0.0.0.0" not in services["flower"]["command"]


def test_a_secret_opens_admin_and_flower(tmp_path: Path) -> None:
    site = dotenv(tmp_path / "site.env", ADMIN_TOKEN="a" * 32, FLOWER_BASIC_AUTH="me:secret")
    services = config(site)["services"]
    assert services["admin"]["environment"]["ADMIN_HOST"] == "0.0.0.0"
    assert services["flower"]["environment"]["FLOWER_HOST"] == "0.0.0.0"
    assert services["flower"]["command"][-1] == "--address=0.0.0.0"


@pytest.mark.parametrize("missing", ["API_URL", "TOKEN"])
def test_compose_refuses_without_what_every_site_needs(tmp_path: Path, missing: str) -> None:
    refused = refusal(dotenv(tmp_path / "site.env", **{missing: ""}))
    assert f"set {missing} in .env" in refused


def test_a_provider_s_site_says_its_own_address_in_their_place(tmp_path: Path) -> None:
    # Compose cannot ask for one of two variables.
    site = dotenv(
        tmp_path / "site.env",
        API_URL="https://tcr.example.org", TOKEN="p", CORE_TYPE="tcr", TCR_API_URL="https://tcr.example.org",
        PROVIDER_TOKEN="p", ORGANIZATION_ID="7", RECEIVING_APPLICATION="RIS",
        RECEIVING_FACILITY="SITE", RIS_HOST_IP="192.0.2.8", RIS_HOST_PORT="2575",
    )  # fmt: skip
    environment = config(site)["services"]["worker"]["environment"]
    settings, _ = load_with_warnings({k: str(v) for k, v in environment.items()}, dotenv=None)
    assert settings.cores["core"].api_url == "https://tcr.example.org"
    assert settings.cores["core"].destinations == ("hl7",)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ADMIN_TOKEN": "a" * 32, "FLOWER_BASIC_AUTH": "me:secret", "ADMIN_PORT": "7100"},
        {"BROKER_URL": "redis://queue.example.org:6379/1", "PORT": "11112"},
    ],
    ids=["a PACSOR .env", "with secrets", "another broker and port"],
)
def test_every_service_gets_settings_it_can_start_with(
    tmp_path: Path, more: dict[str, str]
) -> None:
    services = config(dotenv(tmp_path / "site.env", **more))["services"]
    for name in GATEWAY:
        environment = {k: str(v) for k, v in services[name]["environment"].items()}
        settings, warnings = load_with_warnings(environment, dotenv=None)
        assert warnings == []
        assert settings.PORT == 1040
        assert settings.ADMIN_PORT == 7000
        assert settings.broker_url == more.get("BROKER_URL", "redis://redis:6379/0")
        assert settings.PACSOR_LOG_LEVEL == "warn"


@pytest.mark.parametrize("written", ["^(CR|DX)$$", "^(CR|DX)$"])
def test_a_dollar_in_a_filter_arrives_as_one(tmp_path: Path, written: str) -> None:
    rules = '[{"tag":{"group":"0008","element":"0060"},"pattern":"PATTERN","should_match":true}]'
    site = dotenv(tmp_path / "site.env", DICOM_FILTERS=rules.replace("PATTERN", written))
    shown = config(site)["services"]["worker"]["environment"]["DICOM_FILTERS"]
    in_container = shown.replace("$$", "$")  # `config` escapes what it shows
    settings, _ = load_with_warnings(SITE | {"DICOM_FILTERS": in_container}, dotenv=None)
    assert settings.DICOM_FILTERS[0].pattern == "^(CR|DX)$"


def test_the_demo_profile_starts_with_its_own_settings() -> None:
    services = config(ROOT / ".env.demo")["services"]
    assert set(services) == GATEWAY | SIMULATORS | {"redis"}
    settings, warnings = load_with_warnings(
        {k: str(v) for k, v in services["worker"]["environment"].items()}, dotenv=None
    )
    assert warnings == []
    assert {s.host for s in settings.storescu.values()} == {"pacs", "pacs-2"}
    assert {r.host for r in settings.ris.values()} == {"ris"}
    for name in SIMULATORS:
        assert "env_file" not in services[name]


def test_the_example_is_valid_as_it_is_filled_in(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    commented = [line.removeprefix("# ") for line in lines if re.match(r"# [A-Z0-9_]+=", line)]
    filled = SITE | {
        "RECEIVING_APPLICATION": "RIS",
        "RECEIVING_FACILITY": "SITE",
        "RIS_HOST_IP": "192.0.2.8",
        "RIS_HOST_PORT": "2575",
        "ADMIN_TOKEN": "a" * 32,
        "POSTGRES_PASSWORD": "p",
    }
    site = tmp_path / ".env"
    written = (line.partition("=") for line in [*lines, *commented] if line and line[0] != "#")
    values = {name: filled.get(name, value) for name, _, value in written}
    site.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    settings, warnings = load_with_warnings({}, dotenv=site)
    assert warnings == []
    assert set(settings.storescu) | set(settings.ris) == {"storescu", "hl7"}

"""The overrides with which PACSOR's sites start: what each adds, asks for, and leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.models import DestinationKind
from pacsor_tasks.settings import Settings, load_with_warnings
from pacsor_tasks.settings_peers import used_destinations
from pacsor_tasks.settings_types import kind_of
from tests.support.compose_plugin import GATEWAY, ROOT, SITE, config, dotenv, refusal

RIS = {
    "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE", "RIS_HOST_IP": "192.0.2.8",
    "RIS_HOST_PORT": "2575",
}  # fmt: skip
SECOND_PACS = {"PACS_IP_2": "192.0.2.9", "PACS_PORT_2": "104", "PACS_AET_2": "ARCHIVE"}
THIRD_PACS = {"PACS_IP_3": "192.0.2.10", "PACS_PORT_3": "104", "PACS_AET_3": "THIRD"}
SECOND_CORE = {"API_URL_1": "https://other.example.org", "TOKEN_1": "other"}
WEBPS = {"WEBPS_PROVIDERS": "radio-a", "TCR_API_URL": "https://tcr.example.org"}
PROVIDER = {
    "PROVIDER_TOKEN": "p", "ORGANIZATION_ID": "7", "TCR_API_URL": "https://tcr.example.org",
}  # fmt: skip
#: By override: what it asks for, and more that the gateway does.
OVERRIDES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "hl7": (RIS, {}),
    "multi-scu": (SECOND_PACS, {}),
    "multicore": (SECOND_CORE, {}),
    "webps": (WEBPS, RIS),
    "tcr-core": (PROVIDER, RIS),
    "debug": ({}, {}),
    "localor": ({}, {}),
}


def with_override(*names: str) -> list[str]:
    """The options of a start with the overrides."""
    files = ["docker-compose.yml", *(f"docker-compose.{name}.yml" for name in names)]
    return [part for file in files for part in ("-f", file)]


def settings_with(tmp_path: Path, *names: str, **values: str) -> Settings:
    """What every process of the gateway starts with; all of them the same."""
    site = dotenv(tmp_path / "site.env", **values)
    services = config(site, *with_override(*names))["services"]
    found = []
    for name in GATEWAY | ({"webps"} & set(services)):
        environment = {
            k: str(v).replace("$$", "$") for k, v in services[name]["environment"].items()
        }
        settings, warnings = load_with_warnings(environment, dotenv=None)
        assert warnings == [], name
        found.append((settings.cores, used_destinations(settings), settings.PACSOR_LOG_LEVEL))
    assert all(one == found[0] for one in found)
    return settings


def test_every_override_is_there_and_named_in_the_documentation() -> None:
    there = {p.name.split(".")[1] for p in ROOT.glob("docker-compose.*.yml")} - {"override"}
    assert there == set(OVERRIDES)
    documented = (ROOT / "docs" / "operating.md").read_text()
    for name in OVERRIDES:
        assert f"`docker-compose.{name}.yml`" in documented


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, setting) for name, (needed, _) in OVERRIDES.items() for setting in needed],
)
def test_an_override_refuses_without_what_it_is_for(
    tmp_path: Path, name: str, missing: str
) -> None:
    needed, more = OVERRIDES[name]
    site = dotenv(tmp_path / "site.env", **needed | more | {missing: ""})
    assert f"set {missing} in .env" in refusal(site, *with_override(name))


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_changes_no_more_than_it_says(tmp_path: Path, name: str) -> None:
    needed, more = OVERRIDES[name]
    site = dotenv(tmp_path / "site.env", **needed | more)
    plain = config(site)["services"]
    found = config(site, *with_override(name))["services"]
    assert set(found) == set(plain) | ({"webps"} if name == "webps" else set())
    for service, was in plain.items():
        ours = {"environment", "networks"}
        assert {k: v for k, v in found[service].items() if k not in ours} == {
            k: v for k, v in was.items() if k not in ours
        }


@pytest.mark.parametrize(
    ("written", "destinations"),
    [
        ({}, ("storescu", "hl7")),
        ({"CALLBACK_URLS": "http://storescu:8000"}, ("storescu", "hl7")),
        ({"CALLBACK_URLS": "http://hl7:8000,http://storescu:8000"}, ("hl7", "storescu")),
        ({"DESTINATIONS": "storescu"}, ("storescu", "hl7")),
    ],
)
def test_hl7_comes_to_what_is_delivered_to_once(
    tmp_path: Path, written: dict[str, str], destinations: tuple[str, ...]
) -> None:
    settings = settings_with(tmp_path, "hl7", **RIS, **written)
    assert used_destinations(settings) == destinations


@pytest.mark.parametrize(
    ("written", "destinations"),
    [
        ({}, ("storescu", "storescu-2")),
        (THIRD_PACS, ("storescu", "storescu-2", "storescu-3")),
        ({"DESTINATIONS": "storescu"} | THIRD_PACS, ("storescu", "storescu-2", "storescu-3")),
    ],
)
def test_the_other_pacs_come_to_what_is_delivered_to(
    tmp_path: Path, written: dict[str, str], destinations: tuple[str, ...]
) -> None:
    settings = settings_with(tmp_path, "multi-scu", **SECOND_PACS, **written)
    assert used_destinations(settings) == destinations


@pytest.mark.parametrize("names", [("hl7", "multi-scu"), ("multi-scu", "hl7")])
def test_both_add_to_what_is_delivered_to(tmp_path: Path, names: tuple[str, ...]) -> None:
    settings = settings_with(tmp_path, *names, **RIS, **SECOND_PACS, **THIRD_PACS)
    assert used_destinations(settings) == ("storescu", "storescu-2", "storescu-3", "hl7")


@pytest.mark.parametrize("names", [("hl7", "multi-scu"), ("multi-scu", "hl7")])
def test_what_callback_urls_names_stays_with_any_override(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    named = "http://storescu:8000,http://storescu-2:8000,http://hl7:8000"
    settings = settings_with(tmp_path, *names, CALLBACK_URLS=named, **RIS, **SECOND_PACS)
    assert used_destinations(settings) == ("storescu", "storescu-2", "hl7")


def test_the_second_core_the_providers_and_debug_are_settings(tmp_path: Path) -> None:
    two = settings_with(tmp_path, "multicore", **SECOND_CORE)
    assert {c.name: c.api_url for c in two.cores.values()} == {
        "core": SITE["API_URL"], "core1": "https://other.example.org",
    }  # fmt: skip
    assert settings_with(tmp_path, "webps", **WEBPS, **RIS).WEBPS_ENABLE
    assert settings_with(tmp_path, "debug").PACSOR_LOG_LEVEL == "debug"
    of_provider = settings_with(tmp_path, "tcr-core", **PROVIDER, **RIS)
    core = of_provider.cores["core"]
    assert (core.type, core.api_url) == ("tcr", "https://tcr.example.org")
    assert {kind_of(name) for name in core.destinations} == {DestinationKind.HL7}


def test_localor_joins_the_network_that_is_there(tmp_path: Path) -> None:
    found = config(dotenv(tmp_path / "site.env"), *with_override("localor"))
    network = found["networks"]["local-ai"]
    assert (network["name"], network["external"]) == ("milvue-net", True)
    joined = {n for n, s in found["services"].items() if "local-ai" in s["networks"]}
    assert joined == {"worker", "deliverer", "control", "admin"}
    assert all("default" in found["services"][name]["networks"] for name in joined)

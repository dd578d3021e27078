"""What PACSOR's wizard did wrong, and this one does not. Source: contract §2.6 (a) to (h)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pacsor_tasks.env_file import parse
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import load
from pacsor_tasks.setup import compose, files, pages
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.files import Loaded
from pacsor_tasks.setup.products import COMMON
from pacsor_tasks.setup.questions import Surroundings, answered, question
from pacsor_tasks.setup.validation import checked
from tests.support.compose_env import compose_reads

SITE = {
    **COMMON,
    "CLIENT_NAME": "fr.acme.hosp.north.1",
    "API_URL": "https://predict.milvue.com",
    "TOKEN": "key",
    "PACS_IP": "192.0.2.1",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}
RIS = {
    "RIS_HOST_IP": "ris", "RIS_HOST_PORT": "2575",
    "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "H",
}  # fmt: skip
MODALITY = {"group": "0008", "element": "0060"}
RULES = [{"tag": MODALITY, "pattern": "^(CR|DX)$", "should_match": True}]


def saved(directory: Path, values: v.Values, loaded: Loaded | None = None) -> str:
    return files.save(directory, loaded or Loaded({}), values).path.read_text()


def test_a_filters_keep_their_quotes_and_dollars(tmp_path: Path) -> None:
    values = answered("DICOM_FILTERS", json.dumps(RULES), SITE)
    text = saved(tmp_path, values)
    assert json.loads(parse(text).values["DICOM_FILTERS"]) == RULES
    for is_old in (True, False):
        assert json.loads(compose_reads(text, is_old=is_old)["DICOM_FILTERS"]) == RULES
    assert load({}, tmp_path / ".env").DICOM_FILTERS[0].pattern == "^(CR|DX)$"


@pytest.mark.parametrize(
    "token", ["two words", "$(touch hacked)", "a; touch hacked", "it's", "$$", "`id`", "a#b # c"]
)
def test_a_a_token_is_a_token_whatever_is_in_it(tmp_path: Path, token: str) -> None:
    text = saved(tmp_path, answered("TOKEN", token, SITE))
    assert load({}, tmp_path / ".env").TOKEN.get_secret_value() == token
    assert compose_reads(text, is_old=False)["TOKEN"] == token


@pytest.mark.parametrize("product", ["suite", "smarttrauma"])
def test_b_leaving_localor_leaves_all_of_it(tmp_path: Path, product: str) -> None:
    values = v.with_environment(v.with_product(COMMON, product), "localor")
    values = answered("CLIENT_NAME", "local.milvue.localor.box.0", values)
    assert (values["ISLOCALOR"], values["SIGNED_URL"]) == ("true", "false")
    assert compose.override(values)
    left = v.with_environment(values, "other")
    left = answered("API_URL", "https://ai.example.org", left)
    assert "ISLOCALOR" not in left
    assert left["SIGNED_URL"] == ("true" if product == "suite" else "false")
    assert not {"CLIENT_NAME", "COMPOSE_PROJECT_NAME"} & set(left)
    assert not compose.override(left)


def test_b_the_override_of_localor_goes_too(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").touch()
    (tmp_path / "docker-compose.override.yml").touch()
    local = v.with_environment(SITE, "localor")
    text = saved(tmp_path, local)
    override = tmp_path / "env-files" / "compose.fr.acme.hosp.north.1.yml"
    assert parse(text).values["COMPOSE_FILE"] == (
        "docker-compose.yml:docker-compose.override.yml:env-files/compose.fr.acme.hosp.north.1.yml"
    )
    assert "milvue-net" in override.read_text()
    loaded = files.read(tmp_path / ".env")
    assert loaded.values["ISLOCALOR"] == "true"
    again = files.read(files.path_for(tmp_path, SITE["CLIENT_NAME"]))
    text = saved(tmp_path, v.with_environment(again.values, "prod"), again)
    assert "COMPOSE_FILE" not in parse(text).values
    assert not override.exists()


LOCAL = {**SITE, "API_URL": "http://integrator:8080", "SIGNED_URL": "false"}


@pytest.mark.parametrize("name", ["o.env", "o.config"])
def test_localor_is_known_by_its_address_where_pacsors_env_says_nothing_else(
    tmp_path: Path, name: str
) -> None:
    source = tmp_path / name
    source.write_text("".join(f"{name}={value}\n" for name, value in LOCAL.items()))
    loaded = files.read(source)
    assert any("ISLOCALOR=true" in note for note in loaded.notes)
    assert v.environment_of(loaded.values) == "localor"
    text = saved(tmp_path, loaded.values, loaded)
    assert parse(text).values["ISLOCALOR"] == "true"
    assert (
        "milvue-net" in (tmp_path / "env-files" / f"compose.{SITE['CLIENT_NAME']}.yml").read_text()
    )
    assert not any("ISLOCALOR" in note for note in files.read(tmp_path / ".env").notes)
    assert "ISLOCALOR" not in v.with_environment(loaded.values, "prod")


def test_who_says_that_it_is_not_localor_is_believed(tmp_path: Path) -> None:
    source = tmp_path / "o.env"
    for lines in ("API_URL=http://integrator:8080\nISLOCALOR=false", "API_URL=http://[integrator",
                  "API_URL=http://integrator.example.org:8080"):  # fmt: skip
        source.write_text(f"{lines}\n")
        assert files.read(source).notes == ()
        assert files.read(source).values.get("ISLOCALOR", "false") == "false"


def test_a_damaged_filters_are_not_lost_by_saving(tmp_path: Path) -> None:
    lines = [f"{name}={value}\n" for name, value in SITE.items()]
    source = tmp_path / "theirs.config"
    source.write_text("".join(lines) + "DICOM_FILTERS=[{tag:{group:0008,element:0060}}]\n")
    loaded = files.read(source)
    assert any(note.startswith("DICOM_FILTERS: ") for note in loaded.notes)
    with pytest.raises(ConfigError, match="DICOM_FILTERS: not JSON"):
        files.save(tmp_path, loaded, loaded.values)
    files.save(tmp_path, loaded, answered("DICOM_FILTERS", json.dumps(RULES), loaded.values))


def test_an_override_made_or_removed_later_counts_after_the_next_save(tmp_path: Path) -> None:
    own = tmp_path / "docker-compose.override.yml"
    values = {**SITE, "COMPOSE_FILE": "docker-compose.yml:env-files/compose.x.yml"}
    own.touch()
    later = compose.with_override(values, "env-files/compose.x.yml", tmp_path)
    assert later["COMPOSE_FILE"].split(":") == ["docker-compose.yml", own.name,
                                                "env-files/compose.x.yml"]  # fmt: skip
    own.unlink()
    assert compose.with_override(later, "env-files/compose.x.yml", tmp_path) == values


@pytest.mark.parametrize("name", [".env", "theirs.config"])
def test_what_ran_without_a_projects_name_keeps_its_volumes(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text("".join(f"{k}={v}\n" for k, v in SITE.items() if k != "CLIENT_NAME"))
    loaded = files.read(source)
    values = answered("CLIENT_NAME", "fr.acme.hosp.north.1", loaded.values)
    written = files.save(tmp_path, loaded, values)
    assert "COMPOSE_PROJECT_NAME" not in parse(written.path.read_text()).values
    again = files.read(written.path)
    renamed = answered("CLIENT_NAME", "fr.acme.hosp.north.2", again.values)
    copy = files.save(tmp_path, again, renamed)
    assert parse(copy.path.read_text()).values["COMPOSE_PROJECT_NAME"].endswith("-2")
    assert any("empty volumes" in note for note in copy.notes)


@pytest.mark.parametrize("hostname", ["gw-01", "GW-01.hospital.example", "über host", "x"])
def test_c_the_proposed_name_of_a_localor_client_is_valid_on_every_host(hostname: str) -> None:
    local = v.with_environment(COMMON, "localor")
    proposed = question("CLIENT_NAME", local, Surroundings(hostname)).default
    assert proposed.startswith("local.milvue.localor.")
    assert checked("CLIENT_NAME", proposed, local) == proposed


def test_c_a_hyphen_is_a_character_of_a_client_name() -> None:
    assert (
        checked("CLIENT_NAME", "fr.acme.saint-luc.north-2.1", {}) == "fr.acme.saint-luc.north-2.1"
    )


def test_d_reports_of_other_providers_are_configured_without_hl7_of_our_own(tmp_path: Path) -> None:
    values = answered("WEBPS_ENABLE", "true", SITE)
    assert {"WEBPS_PROVIDERS", "TCR_API_URL", *RIS} <= set(pages.webps(values))
    for name, text in {"WEBPS_PROVIDERS": "acme", "TCR_API_URL": "https://tcr", **RIS}.items():
        values = answered(name, text, values)
    text = saved(tmp_path, values)
    found = load({}, tmp_path / ".env")
    assert (found.WEBPS_ENABLE, found.WEBPS_PROVIDERS) == (True, ("acme",))
    assert found.TCR_API_URL == "https://tcr"
    assert parse(text).values["COMPOSE_PROFILES"] == "webps"
    off = answered("WEBPS_ENABLE", "false", values)
    assert not {"WEBPS_ENABLE", "COMPOSE_PROFILES"} & set(off)


def test_e_a_second_core_has_the_destinations_of_the_first_and_no_empty_ones(
    tmp_path: Path,
) -> None:
    with_core, name = v.with_core(SITE)
    values: v.Values = with_core
    for setting, text in {"API_URL_1": "https://b", "TOKEN_1": "k", "DESTINATIONS_1": ""}.items():
        values = answered(setting, text, values)
    text = saved(tmp_path, values)
    assert not [line for line in text.splitlines() if line.endswith("=")]
    assert load({}, tmp_path / ".env").cores[name].destinations == ("storescu",)
    assert not [n for n in v.without_core(values, name) if n.endswith("_1")]


def test_f_a_name_is_written_once(tmp_path: Path) -> None:
    path = files.path_for(tmp_path, SITE["CLIENT_NAME"])
    path.parent.mkdir()
    lines = [f"{name}={value}" for name, value in SITE.items()]
    path.write_text("\n".join(["TOKEN=first", *lines, "# why", "TOKEN=key", "LOG_LEVEL=warn"]))
    loaded = files.read(path)
    text = saved(tmp_path, answered("TOKEN", "new", loaded.values), loaded)
    assert [x for x in text.splitlines() if x.startswith("TOKEN=")] == ["TOKEN=new"]


def test_g_hl7_is_called_back_once_however_often_the_wizard_runs(tmp_path: Path) -> None:
    loaded = Loaded(SITE | RIS)
    for _ in range(3):
        values = answered("HL7", "true", answered("HL7", "true", loaded.values))
        path = files.save(tmp_path, loaded, values).path
        loaded = files.read(path)
    assert loaded.values["CALLBACK_URLS"] == "http://storescu:8000,http://hl7:8000"
    off = answered("HL7", "false", loaded.values)
    assert off["CALLBACK_URLS"] == "http://storescu:8000"
    assert off["RIS_HOST_IP"] == "ris"  # kept, for when it is switched on again


def test_h_debug_is_a_setting_and_every_file_that_is_named_exists(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").touch()
    values = answered("DEBUG", "true", v.with_environment(SITE, "localor"))
    text = saved(tmp_path, values)
    assert load({}, tmp_path / ".env").PACSOR_LOG_LEVEL == "debug"
    named = parse(text).values["COMPOSE_FILE"].split(":")
    assert [(tmp_path / name).is_file() for name in named] == [True, True]
    assert "PACSOR_LOG_LEVEL" not in answered("DEBUG", "false", values)
    assert answered("DEBUG", "false", {"PACSOR_LOG_LEVEL": "warn"}) == {"PACSOR_LOG_LEVEL": "warn"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "x"),
        ("PORT", "0"),
        ("PORT", "80"),
        ("MILVUE_AET", "A" * 17),
        ("DOCKER_IMAGE_TAG", "a b"),
    ],
)
def test_the_validators_that_were_dead_code_are_in_force(name: str, text: str) -> None:
    with pytest.raises(ConfigError):
        answered(name, text, SITE)

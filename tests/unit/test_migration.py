"""PACSOR 2.4, 2.8 and 2.11 installations become ours: what counted there counts here."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacsor_tasks.cli import cli
from pacsor_tasks.env_file import parse, read
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.migration import find, report
from pacsor_tasks.settings import Settings, load_with_warnings
from receiver.profiles import load as read_profile
from tests.support.migrating import edit, migrated, plan_of
from tests.support.pacsor_installs import (
    DAMAGED,
    FILTERS,
    SECOND_SECRET,
    SECRET,
    pacsor_2_4,
    pacsor_2_8,
    pacsor_2_11,
)

Installer = Callable[[Path], Path]
ALL = [pacsor_2_4, pacsor_2_8, pacsor_2_11]


def settings_of(into: Path) -> Settings:
    found, warnings = load_with_warnings({"HL7_CONF_DIR": str(into / "conf")}, into / ".env")
    # An installation asks for other findings than its messages have; PACSOR took no notice.
    assert [w for w in warnings if "_INFERENCE_COMMAND: no core" not in w] == []
    return found


@pytest.mark.parametrize("install", ALL)
def test_a_migrated_installation_loads_without_a_warning(install: Installer, tmp_path: Path):
    before = {p: p.read_bytes() for p in install(tmp_path / "pacsor").rglob("*") if p.is_file()}
    done = migrated(tmp_path / "pacsor", tmp_path / "ours")
    found = settings_of(tmp_path / "ours")
    assert found.API_URL == "https://predict.milvue.com"
    assert found.TOKEN.get_secret_value() == SECRET
    assert (found.PACS_IP, found.PACS_PORT, found.PACS_AET) == ("10.20.0.5", 11112, "CHUPACS")
    assert len(read_profile(tmp_path / "ours" / "conf" / "filter.cfg", found.CONFIG_PROFILE)) >= 5
    assert stat.S_IMODE((tmp_path / "ours" / ".env").stat().st_mode) == 0o600
    assert SECRET not in done.output
    assert SECOND_SECRET not in done.output
    assert {p: p.read_bytes() for p in before} == before  # PACSOR's own is as it was


def test_2_4_has_its_two_cores_and_the_class_that_dcmtk_lost(tmp_path: Path):
    done = migrated(pacsor_2_4(tmp_path / "pacsor"), tmp_path / "ours")
    found = settings_of(tmp_path / "ours")
    core, core1 = found.cores.values()
    assert core1.api_url == "https://beta.predict.milvue.com"
    assert core1.token.get_secret_value() == SECOND_SECRET
    assert core1.destinations == core.destinations == ("storescu",)
    assert len(read_profile(tmp_path / "ours" / "conf" / "filter.cfg", "WithSCRF")) == 7
    assert "conf/filter.cfg: a number was there twice in CR_DX_SC_RF" in done.output
    assert "ADDITIONAL_CORES: PACSOR's compose file said so" in done.output
    assert "INTEGRATOR_URL_2" in done.output


def test_2_8_has_its_messages_and_the_reports_that_the_wizard_forgot(tmp_path: Path):
    done = migrated(pacsor_2_8(tmp_path / "pacsor"), tmp_path / "ours")
    found = settings_of(tmp_path / "ours")
    assert found.cores["core"].destinations == ("storescu", "hl7")
    assert found.INFERENCE_COMMANDS == ("smarturgences", "smartxpert")
    assert found.TCR_API_URL == "https://app.report.milvue.com"
    assert (found.WEBPS_ENABLE, found.WEBPS_PROVIDERS) == (True, ("radio-a", "radio-b"))
    assert (found.TECHCARE_REPORT_FORMAT, found.RECEIVING_FACILITY) == ("HTML", "EDL")
    assert (found.OBX_UPPERCASE, found.MEASURES_INFERENCE_COMMAND) == (False, "measures")
    values = read(tmp_path / "ours" / ".env").values
    assert values["COMPOSE_PROFILES"] == "webps"
    assert values["CALLBACK_URLS"] == "http://storescu:8000,http://hl7:8000"
    assert "SITE_NOTE: nobody knows it" in done.output
    assert "conf/old.py: not in use, and would be refused" in done.output.partition("look at")[2]
    assert "INCLUDEREPORT: is now called INCLUDE_TECHCARE_REPORT" in done.output
    assert "conf/README.txt: means nothing here" in done.output
    assert "USE_PREDICTION_ID: no longer exists" in done.output
    assert not set(values) & {"SITE_NOTE", "USE_PREDICTION_ID", "WORKERS", "PUBSUBOR_URL"}


def test_2_11_has_its_filters_though_the_wizards_file_is_damaged(tmp_path: Path):
    migrated(pacsor_2_11(tmp_path / "pacsor"), tmp_path / "ours")
    patterns = [rule.pattern for rule in settings_of(tmp_path / "ours").DICOM_FILTERS]
    assert patterns == ["^(CR|DX)$", "^TEST"]
    assert list(settings_of(tmp_path / "ours").cores) == ["core"]


@pytest.mark.parametrize("has_config", [True, False])
def test_the_clients_name_comes_along(tmp_path: Path, has_config: bool):
    install = pacsor_2_11(tmp_path / "pacsor")
    if not has_config:
        next((install / "scripts").iterdir()).unlink()
    migrated(install, tmp_path / "ours")
    written = parse((tmp_path / "ours" / ".env").read_text()).values
    assert written["CLIENT_NAME"] == "be.partner.imaging.south.3"
    assert "COMPOSE_PROJECT_NAME" not in written


def test_filters_that_are_damaged_in_env_are_taken_from_an_intact_config(tmp_path: Path):
    install = pacsor_2_11(tmp_path / "pacsor")
    edit(next((install / "env-files").iterdir()), (FILTERS.replace("$", "$$"), DAMAGED))
    edit(next((install / "scripts").iterdir()), (DAMAGED, f"'{FILTERS}'"))
    done = migrated(install, tmp_path / "ours")
    assert settings_of(tmp_path / "ours").DICOM_FILTERS[0].pattern == "^(CR|DX)$"
    assert "DICOM_FILTERS: damaged in .env; taken from be.partner" in done.output


def test_filters_that_nobody_can_know_stop_the_start_until_a_person_wrote_them(tmp_path: Path):
    install = pacsor_2_11(tmp_path / "pacsor")
    edit(next((install / "env-files").iterdir()), (FILTERS.replace("$", "$$"), DAMAGED))
    done = migrated(install, tmp_path / "ours", code=1)
    assert "the gateway does not start with it yet\n  DICOM_FILTERS: not JSON" in done.output
    written = (tmp_path / "ours" / ".env").read_text()
    assert f"# Probably meant: DICOM_FILTERS='{FILTERS}'" in written
    edit(
        tmp_path / "ours" / ".env",
        ("\n# Probably meant: DICOM_FILTERS=", "\nDICOM_FILTERS="),
        ("DICOM_FILTERS='damaged", "# '"),
    )
    assert settings_of(tmp_path / "ours").DICOM_FILTERS[0].pattern == "^(CR|DX)$"


def test_filters_that_the_wizard_did_not_export_are_taken_from_its_config(tmp_path: Path):
    install = pacsor_2_11(tmp_path / "pacsor")
    edit(next((install / "env-files").iterdir()), ("DICOM_FILTERS=", "#"))
    edit(next((install / "scripts").iterdir()), (DAMAGED, f"'{FILTERS}'"))
    done = migrated(install, tmp_path / "ours")
    assert len(settings_of(tmp_path / "ours").DICOM_FILTERS) == 2
    assert "DICOM_FILTERS: taken from be.partner" in done.output


@pytest.mark.parametrize("has_env", [True, False])
def test_filters_that_stand_in_a_damaged_config_alone_are_never_lost_in_silence(
    tmp_path: Path, has_env: bool
):
    install = pacsor_2_11(tmp_path / "pacsor")
    settings = next((install / "env-files").iterdir())
    edit(settings, ("DICOM_FILTERS=", "#"))
    if not has_env:
        lines = settings.read_text().splitlines()
        config = next((install / "scripts").iterdir())
        peers = "".join(f"{line}\n" for line in lines if line.startswith("PACS_"))
        config.write_text(config.read_text() + peers)
        settings.unlink()
        (install / ".env").unlink()
    done = migrated(install, tmp_path / "ours", code=1)
    assert "the gateway does not start with it yet\n  DICOM_FILTERS: not JSON" in done.output
    assert "process number for `$$`; write it anew" in done.output.replace("\n    ", " ")
    written = (tmp_path / "ours" / ".env").read_text()
    assert f"# Probably meant: DICOM_FILTERS='{FILTERS}'" in written


def test_a_wizards_config_alone_is_enough(tmp_path: Path):
    install = tmp_path / "pacsor"
    (install / "scripts").mkdir(parents=True)
    (install / "scripts" / "default.config").write_text(
        f"URL=http://integrator:8080\nTOKEN={SECRET}\nISLOCALOR=true\nSIGNED=false\n"
        "INF_COMM=detection\nPACS_AET=A\nPACS_IP=10.0.0.1\nPACS_PORT=104\nHL7_ENABLE=true\n"
        "HL7_RECEIVING_APPLICATION=RIS\nHL7_RECEIVING_FACILITY=F\nHL7_RIS_IP=ris\nHL7_RIS_PORT=2575\n"
    )
    done = migrated(install, tmp_path / "ours")
    found = settings_of(tmp_path / "ours")
    assert found.cores["core"].destinations == ("storescu", "hl7")
    assert found.cores["core"].inference_commands == ("detection",)
    assert "milvue-net" in done.output


def test_a_tcr_core_is_one_of_ours(tmp_path: Path):
    install = tmp_path / "pacsor"
    install.mkdir()
    (install / "compose.yaml").write_text("include: [compose/compose.tcr-core.yaml]\n")
    (install / ".env").write_text(
        f"PROVIDER_TOKEN={SECRET}\nORGANIZATION_ID=7\nTCR_API_URL=https://t.example\n"
        "CALLBACK_URL=http://hl7:8000\nREC_APP=RIS\nREC_FAC=F\nRIS_HOST=ris\nRIS_PORT=2575\n"
    )
    done = migrated(install, tmp_path / "ours")
    core = settings_of(tmp_path / "ours").cores["core"]
    assert (core.type, core.destinations) == ("tcr", ("hl7",))
    assert read(tmp_path / "ours" / ".env").values["TOKEN"] == SECRET
    assert SECRET not in done.output


@pytest.mark.parametrize(
    ("includes", "code", "kind"), [("pacsor", 0, "milvue"), ("tcr-core", 0, "tcr"), (None, 1, None)]
)
def test_the_compose_file_tells_a_core_from_a_tcr_core(
    tmp_path: Path, includes: str | None, code: int, kind: str | None
):
    install = tmp_path / "pacsor"
    install.mkdir()
    if includes is not None:
        (install / "compose.yaml").write_text(f"include: [compose/compose.{includes}.yaml]\n")
    (install / ".env").write_text(
        "PROVIDER_TOKEN=p\nORGANIZATION_ID=7\nTCR_API_URL=https://t.example\n"
        "API_URL=https://predict.example\nTOKEN=k\nPACS_IP=192.0.2.1\nPACS_PORT=104\nPACS_AET=P\n"
        "REC_APP=RIS\nREC_FAC=F\nRIS_HOST=ris\nRIS_PORT=2575\n"
    )
    done = migrated(install, tmp_path / "ours", code=code)
    if kind is None:
        assert "CORE_TYPE=tcr" in done.output
        assert "say which" in done.output
    else:
        assert settings_of(tmp_path / "ours").cores["core"].type == kind


def test_a_second_core_that_pacsor_did_not_start_is_not_started(tmp_path: Path):
    install = pacsor_2_4(tmp_path / "pacsor")
    edit(install / "compose.yaml", ("  - compose/compose.multicore", "  # - compose.multicore"))
    plan = plan_of(install)
    assert "ADDITIONAL_CORES" not in plan.values
    assert "API_URL_1: PACSOR's compose file has no second core" in report(plan)


def test_a_second_cores_blank_commands_stay_pacsors_default(tmp_path: Path):
    install = pacsor_2_4(tmp_path / "pacsor")
    edit(install / ".env", ("SIGNED_URL=True", "SIGNED_URL=True\nINFERENCE_COMMANDS=trauma"))
    assert plan_of(install).values["INFERENCE_COMMANDS_1"] == "smarturgences,smartxpert"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ((("API_URL=https://predict.milvue.com", "ISLOCALOR=true\nSIGNED_URL=false\nAPI_URL=https://p"),
          ("SIGNED_URL=true\n", "")), "SIGNED_URL: false, as the wizard leaves it behind"),
        ((("PACS_IP=10.20.0.5", "PACS_IP=10.20.0.9\nPACS_IP=10.20.0.5"),),
         "PACS_IP: given twice, in lines 17 and 18"),
        ((("MILVUE_AET=MILVUE", "MILVUE_AET='MILVUE"),), "line 20: not NAME=value"),
        ((("CALLBACK_URLS=http://storescu:8000", "CALLBACK_URLS=http://storescu:8000,http://hl7:8000"),),
         "CALLBACK_URLS: PACSOR's compose file has no hl7 service and CALLBACK_URLS names it"),
        ((("TOKEN=mlv", "TOKEN=other"),), "TOKEN: .env and be.partner.imaging.south.3.conf"),
    ],
    ids=["localor left", "twice", "unreadable", "hl7 not started", "two truths"],
)  # fmt: skip
def test_what_a_person_has_to_look_at_is_said(
    changes: tuple[tuple[str, str], ...], says: str, tmp_path: Path
):
    install = pacsor_2_11(tmp_path / "pacsor")
    edit(install / ".env", *changes)
    said = " ".join(report(plan_of(install)).split())
    assert says in said
    assert SECRET not in said


def test_a_template_that_is_more_than_constants_is_copied_and_stops_the_start(tmp_path: Path):
    install = pacsor_2_8(tmp_path / "pacsor")
    edit(install / ".env", ("LOAD_TEMPLATE_AT_INIT=template", "LOAD_TEMPLATE_AT_INIT=old"))
    done = migrated(install, tmp_path / "ours", code=1)
    assert "conf/old.py: line 1: only constants are read" in done.output
    assert (tmp_path / "ours" / "conf" / "old.py").is_file()


def test_nothing_is_written_over_and_nothing_is_written_dry(tmp_path: Path):
    install, into = pacsor_2_11(tmp_path / "pacsor"), tmp_path / "ours"
    migrated(install, into, "--dry-run")
    assert not into.exists()
    migrated(install, into)
    (into / ".env").write_text("mine")
    (into / "conf" / "filter.cfg").write_text("mine")
    refused = CliRunner().invoke(cli, ["migrate", str(install), "--into", str(into)])
    assert isinstance(refused.exception, PacsorError)
    assert "there already" in str(refused.exception)
    assert (into / ".env").read_text() == (into / "conf" / "filter.cfg").read_text() == "mine"
    migrated(install, into, "--force")
    assert settings_of(into).PACS_AET == "CHUPACS"
    assert "mine" not in (into / "conf" / "filter.cfg").read_text()


def test_a_filter_cfg_that_accepts_the_same_is_left_alone(tmp_path: Path):
    install, into = pacsor_2_11(tmp_path / "pacsor"), tmp_path / "ours"
    (into / "conf").mkdir(parents=True)
    other = "# with another comment\n" + (install / "conf" / "filter.cfg").read_text()
    (into / "conf" / "filter.cfg").write_text(other)
    migrated(install, into)
    assert (into / "conf" / "filter.cfg").read_text() == other
    assert [path.name for path in (into / "conf").iterdir()] == ["filter.cfg"]


def test_one_of_several_clients_has_to_be_chosen(tmp_path: Path):
    install = pacsor_2_11(tmp_path / "pacsor")
    (install / ".env").unlink()
    (install / "env-files" / ".env.other").write_text("TOKEN=x\n")
    with pytest.raises(PacsorError, match=r"--client: be\.partner\.imaging\.south\.3, other"):
        plan_of(install)
    assert plan_of(install, "other").values == {"TOKEN": "x", "CLIENT_NAME": "other"}
    assert plan_of(install, "be.partner.imaging.south.3").problems == []
    with pytest.raises(PacsorError, match=r"no \.env"):
        plan_of(install, "nobody")


def test_what_is_no_installation_is_said(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(PacsorError, match=r"no such directory|no \.env"):
            find(path)

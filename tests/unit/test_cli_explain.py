"""`pacsor config --explain`: where a value came from, and what it hides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pacsor_tasks.cli import cli
from pacsor_tasks.cli.explaining import origins
from pacsor_tasks.settings import load

ENV = """\
API_URL=https://predict.milvue.com
TOKEN=very-secret
PACS_IP=10.0.0.1
PACS_PORT=104
PACS_AET=PACS
SEN_APP=FROM_FILE
OBXUPPERCASE=no
PORT=1041
PROC_ID=T
CALLBACK_URLS=http://storescu:8000,http://hl7:8000
REC_APP=RIS
REC_FAC=F
RIS_HOST=ris
RIS_PORT=2575
ADDITIONAL_CORES=core1
API_URL_1=http://one
TOKEN_1=secret-too
LOAD_CONFIG_AT_INIT=config
DOCKER_IMAGE_TAG=v2.8.0
STUDY_QUIET_SECONDS=
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".env").write_text(ENV)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.json").write_text('{"REC_FAC": "EDL", "HL7_LANG": "EN"}')
    (tmp_path / "data" / "hl7").mkdir(parents=True)
    active = {"name": "night", "at": 1.0, "values": {"HL7_LANGUAGE": "FR"}}
    (tmp_path / "data" / "hl7" / "active.json").write_text(json.dumps(active))
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "PROC_ID", "SENDING_APPLICATION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_each_value_has_its_place_and_what_it_hides(site: Path):
    environ = {"SENDING_APPLICATION": "FROM_ENVIRONMENT", "PROC_ID": "", "LOG_LEVEL": "error"}
    settings = load(environ, Path(".env"))
    found = {o.name: (o.source, o.instead_of) for o in origins(settings, environ, Path(".env"))}
    assert {name: found[name] for name in (
        "PORT", "SENDING_APPLICATION", "OBX_UPPERCASE", "PROC_ID", "RECEIVING_FACILITY",
        "HL7_LANGUAGE", "PACSOR_LOG_LEVEL", "MILVUE_AET", "API_URL_1", "STUDY_QUIET_SECONDS",
    )} == {
        "PORT": (".env, line 8", []),
        "SENDING_APPLICATION": ("environment", [".env, line 6 (as SEN_APP, another name of it)"]),
        "OBX_UPPERCASE": (".env, line 7 (as OBXUPPERCASE, an old name)", []),
        "PROC_ID": ("default", ["environment, empty", ".env, line 9"]),
        "RECEIVING_FACILITY": ("conf/config.json, at start",
                               [".env, line 12 (as REC_FAC, another name of it)"]),
        "HL7_LANGUAGE": ("night.json, loaded at run time", ["conf/config.json, at start"]),
        "PACSOR_LOG_LEVEL": ("environment (as LOG_LEVEL, another name of it)", []),
        "MILVUE_AET": ("default", []),
        "API_URL_1": (".env, line 16", []),
        "STUDY_QUIET_SECONDS": ("default", [".env, line 20, empty"]),
    }  # fmt: skip


def test_the_value_that_is_named_is_the_one_that_counts(site: Path):
    for origin in origins(settings := load({}, Path(".env")), {}, Path(".env")):
        if origin.name not in settings.NUMBERED and origin.source == "default":
            field = type(settings).model_fields[origin.name]
            assert getattr(settings, origin.name) == field.get_default(call_default_factory=True)


def test_the_page_says_it_without_a_secret(site: Path):
    done = CliRunner().invoke(cli, ["config", "--explain"])
    assert done.exit_code == 0, done.output
    assert "secret" not in done.output
    assert (
        "PORT = 1041\n    from .env, line 8\n    Port of the SCP (default: 1040)\n" in done.output
    )
    assert "\nas by default\n" in done.output
    assert "    MILVUE_AET = MILVUE\n" in done.output
    assert "DOCKER_IMAGE_TAG (in .env) decides nothing: for Docker Compose" in done.output


def test_one_setting_is_explained_by_any_of_its_names(site: Path):
    done = CliRunner().invoke(cli, ["config", "rec_app", "TOKEN_1", "MILVUE_AET"])
    assert done.exit_code == 0, done.output
    assert "RECEIVING_APPLICATION = RIS\n    from .env, line 11 (as REC_APP" in done.output
    assert "TOKEN_1 = ***\n    from .env, line 17\n" in done.output
    assert "MILVUE_AET = MILVUE\n    from default\n" in done.output
    assert "PORT" not in done.output.replace("PACS_PORT", "")
    refused = CliRunner().invoke(cli, ["config", "POTR"])
    assert "POTR: no such setting" in str(refused.exception)


def test_it_is_there_for_programs_too(site: Path):
    done = CliRunner().invoke(cli, ["config", "--explain", "--json"])
    found = json.loads(done.stdout)
    assert found["PORT"]["value"] == 1041
    assert found["PORT"]["from"] == ".env, line 8"
    assert "secret" not in done.output


def test_filters_are_shown_as_they_are_written_and_urls_of_others_without_their_keys(site: Path):
    rules = [{"tag": {"group": "0008", "element": "103E"}, "pattern": "^x", "should_match": True}]
    with (site / ".env").open("a") as file:
        file.write(f"DICOM_FILTERS='{json.dumps(rules)}'\nDICOM_FILTERS_1='{json.dumps(rules)}'\n")
        file.write("CALLBACK_URLS_1=http://storescu:8000,https://peer.example/x?key=key-2\n")
    for options in (["--explain"], []):
        done = CliRunner().invoke(cli, ["config", *options], env={"COLUMNS": "400"})
        assert done.exit_code == 0, done.output
        assert done.output.count('"tag": {"group": "0008", "element": "103E"}') >= 2
        assert "key-" not in done.output
    shown = CliRunner().invoke(cli, ["config", "CALLBACK_URLS_1"]).output
    assert "CALLBACK_URLS_1 = http://storescu:8000,https://peer.example/x?***\n" in shown

"""Every variable of PACSOR (contract §2.2): its default, its other name, what it is read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pacsor_tasks.environment import IGNORED, LEGACY, REMOVED
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load, load_with_warnings

REQUIRED = {
    "API_URL": "https://predict.milvue.com",
    "TOKEN": "key",
    "PACS_IP": "192.0.2.1",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}
HL7 = {
    "CALLBACK_URLS": "http://storescu:8000,http://hl7:8000",
    "RECEIVING_APPLICATION": "RIS",
    "RECEIVING_FACILITY": "SITE",
    "RIS_HOST_IP": "192.0.2.2",
    "RIS_HOST_PORT": "2575",
}
CORE1 = {"ADDITIONAL_CORES": "core1", "API_URL_1": "http://one", "TOKEN_1": "k1"}
EVERYTHING = {**REQUIRED, **HL7, **CORE1, "TCR_API_URL": "https://tcr.example"}


class Row(NamedTuple):
    """A row of the table."""

    service: str
    #: in `.env`
    name: str
    default: Any
    #: as somebody writes it → what it is read as
    written: str
    read_as: Any
    #: in PACSOR's containers; None: the same
    inside: str | None = None
    #: ours; None: the same as in `.env`
    setting: str | None = None


ROWS = [
    Row("storescp", "CONFIG_PROFILE", "WithSC", " WithRF ", "WithRF"),
    # PACSOR: warn. Ours is the whole gateway's, and `info` has what happened to each study.
    Row("storescp", "PACSOR_LOG_LEVEL", "info", "WARN", "warn", "LOG_LEVEL"),
    Row("storescp", "PORT", 1040, "'11112'", 11112),
    Row("storescp", "ADDITIONAL_CORES", (), " core1 , ", ("core1",)),
    Row("core", "SIGNED_URL", True, "False", False),
    Row("core", "CALLBACK_URLS", ("http://storescu:8000",), 'http://hl7:8000, "http://storescu:8000"',
        ("http://hl7:8000", "http://storescu:8000")),
    Row("core", "NO_DUPLICATE_UPLOAD", True, "no", False),
    Row("core", "INFERENCE_COMMANDS", ("smarturgences", "smartxpert"), 'a, "b"', ("a", "b")),
    Row("core", "DICOM_FILTERS", (), "[]", ()),
    Row("storescu", "MILVUE_AET", "MILVUE", '"GATE"', "GATE"),
    Row("hl7", "ENABLE_HL7", True, "off", False),
    Row("hl7", "SENDING_APPLICATION", "MILVUE_GATEWAY", "A", "A", "SEN_APP"),
    Row("hl7", "SENDING_FACILITY", "MILVUE", "A", "A", "SEN_FAC"),
    Row("hl7", "RECEIVING_APPLICATION", "", "A", "A", "REC_APP"),
    Row("hl7", "RECEIVING_FACILITY", "", "A", "A", "REC_FAC"),
    Row("hl7", "RIS_HOST_IP", None, "ris.example", "ris.example", "RIS_HOST"),
    Row("hl7", "RIS_HOST_PORT", None, "2576", 2576, "RIS_PORT"),
    Row("hl7", "RIS_TIMEOUT", 15, "20", 20),
    Row("hl7", "HL7_LANGUAGE", "FR", "en", "EN", "HL7_LANG"),
    Row("hl7", "INCLUDE_TECHCARE_REPORT", False, "Yes", True, "INCLUDE_REPORT"),
    Row("hl7", "TECHCARE_REPORT_FORMAT", "B64", "html", "HTML", "REPORT_FORMAT"),
    Row("hl7", "TCR_API_URL", None, "https://t.example/", "https://t.example"),
    Row("hl7", "DEF_PID_ISSUER", "MILVUE", "CHU", "CHU"),
    Row("hl7", "POPULATE_PID", True, "0", False),
    Row("hl7", "POPULATE_PV1", False, "1", True),
    Row("hl7", "POPULATE_ORC", True, "N", False),
    Row("hl7", "POPULATE_ZDS", True, "FALSE", False),
    Row("hl7", "SIUID_IN_OBX1", True, "f", False),
    Row("hl7", "OBX_UPPERCASE", True, "no", False),
    Row("hl7", "INCLUDE_DETECTIONS_FINDINGS", True, "false", False),
    Row("hl7", "DETECTION_INFERENCE_COMMAND", "smarturgences", "trauma", "trauma"),
    Row("hl7", "INCLUDE_MEASURES_FINDINGS", True, "false", False),
    Row("hl7", "MEASURES_INFERENCE_COMMAND", "smartxpert", "measures", "measures",
        "MEASURE_INFERENCE_COMMAND"),
    Row("hl7", "MEASURES_INFERENCE_COMMAND", "smartxpert", "measures", "measures", "MEASURE"),
    Row("hl7", "HTTP_TIMEOUT", 600, "90s", 90),
    Row("hl7", "LOAD_TEMPLATE_AT_INIT", None, "template", "template"),
    Row("hl7", "PROC_ID", "P", "t", "T"),
    Row("wpbsb", "WEBPS_PROVIDERS", (), "a , 'b'", ("a", "b"), "PROVIDERS"),
    Row("tcr-core", "ORGANIZATION_ID", "", "7", "7"),
]  # fmt: skip
#: PACSOR's own plumbing: read past without a word, since every `.env` of PACSOR has it.
WITHOUT_MEANING = [
    ("all", "DOCKER_IMAGE_TAG"), ("all", "COMPOSE_PROJECT_NAME"), ("storescp", "CORE_HOST"),
    ("core", "POSTGRES_HOST"), ("core", "POSTGRES_DB"), ("core", "POSTGRES_USER"),
    ("core", "POSTGRES_PASSWORD"), ("core", "POSTGRES_PORT"), ("core", "GOMAXPROCS"),
    ("core", "PROFILER"), ("hl7", "HL7_LOG_LEVEL"), ("hl7", "GCP_LOGS"), ("hl7", "WORKERS"),
    ("admin", "PUBSUBOR_URL"), ("admin", "CORE_URL"), ("wpbsb", "CALLBACK_URL"),
]  # fmt: skip
MISSING = [
    ("core", "API_URL"), ("core", "TOKEN"), ("storescu", "PACS_IP"), ("storescu", "PACS_PORT"),
    ("storescu", "PACS_AET"), ("hl7", "RECEIVING_APPLICATION"), ("hl7", "RECEIVING_FACILITY"),
    ("hl7", "RIS_HOST_IP"), ("hl7", "RIS_HOST_PORT"), ("core1", "API_URL_1"), ("core1", "TOKEN_1"),
]  # fmt: skip
WRITTEN_OLD = {
    "DICOM_FILTER": "[]", "INTEGRATOR_URL_2": "http://o", "TOKEN_2": "k", "DEFPIDISSUER": "X",
    "REPORTFORMAT": "PLAIN",
    **dict.fromkeys(("REPORT_URL", "TECHCARE_REPORT_URL", "HL7_TCR_URL", "REPORTOR_URL",
                     "WEBPS_REPORTOR_URL"), "https://t.example/report"),
}  # fmt: skip


def name_of(row: Row) -> str:
    return f"{row.service}: {row.name}" + (f" ({row.inside})" if row.inside else "")


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_variable_that_is_not_set_or_blank_has_its_default(row: Row) -> None:
    without = {k: v for k, v in REQUIRED.items() if k != row.name}
    for environ in (without, {**without, row.name: "", row.inside or row.name: " "}):
        assert getattr(load(environ, None), row.setting or row.name) == row.default


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_variable_is_read_by_the_name_in_env_and_by_the_name_inside(row: Row) -> None:
    for name in (row.name, row.inside or row.name):
        environ = {k: v for k, v in EVERYTHING.items() if k != row.name} | {name: row.written}
        found, warnings = load_with_warnings(environ, None)
        assert getattr(found, row.setting or row.name) == row.read_as
        assert [
            w for w in warnings if "API_URL_1" not in w and f"{row.name}: no core" not in w
        ] == []


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_variable_is_read_from_a_file_as_from_the_environment(row: Row, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    lines = {k: v for k, v in EVERYTHING.items() if k != row.name} | {row.name: row.written}
    file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    assert getattr(load({}, file), row.setting or row.name) == row.read_as


@pytest.mark.parametrize(("service", "name"), MISSING)
def test_what_is_required_is_named_when_it_is_missing(service: str, name: str) -> None:
    assert isinstance(load(EVERYTHING, None), Settings)
    with pytest.raises(ConfigError, match=f"{name}: required"):
        load({k: v for k, v in EVERYTHING.items() if k != name}, None)


@pytest.mark.parametrize(("service", "name"), WITHOUT_MEANING)
def test_pacsors_own_plumbing_is_read_past(service: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"{name}=anything\n")
    found, warnings = load_with_warnings(REQUIRED, file)
    assert warnings == []
    assert found.model_dump() == load(REQUIRED, None).model_dump()


@pytest.mark.parametrize("name", sorted(LEGACY))
def test_an_old_name_still_works_and_is_warned_of(name: str) -> None:
    today = LEGACY[name]
    written = WRITTEN_OLD.get(name, "false")
    environ = {k: v for k, v in EVERYTHING.items() if k != today} | {name: written}
    found, warnings = load_with_warnings(environ, None)
    assert warnings == [f"{name} is an old name: write {today}"]
    by_today = load({k: v for k, v in EVERYTHING.items() if k != today}
                    | {today: written.removesuffix("/report")}, None)  # fmt: skip
    assert found.model_dump() == by_today.model_dump()


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_a_removed_name_is_ignored_with_a_warning(name: str) -> None:
    found, warnings = load_with_warnings({**REQUIRED, name: "true"}, None)
    assert warnings == [f"{name} no longer exists and is ignored"]
    assert found.model_dump() == load(REQUIRED, None).model_dump()


def test_a_second_core_has_what_it_leaves_blank_as_pacsors_has() -> None:
    said = {"INFERENCE_COMMANDS": "trauma", "INFERENCE_COMMANDS_1": "", "CALLBACK_URLS_1": "",
            "NO_DUPLICATE_UPLOAD": "false", "SIGNED_URL": "false"}  # fmt: skip
    core, core1 = load({**EVERYTHING, **said}, None).cores.values()
    assert core.inference_commands == ("trauma",)
    assert core1.inference_commands == ("smarturgences", "smartxpert")
    assert core1.destinations == core.destinations == ("storescu", "hl7")
    assert (core1.no_duplicate_upload, core1.signed_url) == (False, False)


def test_a_second_core_that_nobody_names_is_warned_of() -> None:
    environ = {k: v for k, v in EVERYTHING.items() if k != "ADDITIONAL_CORES"}
    found, warnings = load_with_warnings(environ, None)
    assert list(found.cores) == ["core"]
    assert warnings == ["API_URL_1, TOKEN_1: not used; a core reads it with ADDITIONAL_CORES=core1"]


def test_a_tcr_cores_env_says_its_type_by_what_it_has() -> None:
    found = load({"PROVIDER_TOKEN": "p", "ORGANIZATION_ID": "7", "TCR_API_URL": "https://t/report",
                  "CALLBACK_URL": "http://hl7:8000", "REPORT_URL": "x", **HL7}, None)  # fmt: skip
    assert found.cores["core"].type == "tcr"
    assert found.cores["core"].destinations == ("hl7",)


def test_an_env_of_both_kinds_of_core_has_to_say_which_it_is() -> None:
    both = {**EVERYTHING, "PROVIDER_TOKEN": "p", "ORGANIZATION_ID": "7"}
    with pytest.raises(ConfigError, match=r"CORE_TYPE: .*say which"):
        load(both, None)
    assert load({**both, "CORE_TYPE": "milvue"}, None).cores["core"].type == "milvue"
    provider = load({**both, "CORE_TYPE": "tcr"}, None).cores["core"]
    assert (provider.type, provider.token.get_secret_value()) == ("tcr", "p")
    beside = load({**both, "ADDITIONAL_CORES": "core1", "CORE_TYPE_1": "tcr"}, None)
    assert [core.type for core in beside.cores.values()] == ["milvue", "tcr"]


def test_a_configuration_at_start_wins_over_the_environment(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"REPORT_FORMAT": "HTML", "REC_APP": "XPLORE"}')
    found = load(
        {**EVERYTHING, "LOAD_CONFIG_AT_INIT": "config", "HL7_CONF_DIR": str(tmp_path)}, None
    )
    assert (found.TECHCARE_REPORT_FORMAT, found.RECEIVING_APPLICATION) == ("HTML", "XPLORE")


def test_a_line_of_the_file_that_nobody_can_read_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=1041\nTOKEN='zqx9\nMILVUE_AET=A\nMILVUE_AET=B\n")
    with pytest.raises(ConfigError, match=r"line 2: not NAME=value") as caught:
        load(REQUIRED, file)
    assert "zqx9" not in str(caught.value)
    file.write_text("MILVUE_AET=A\nMILVUE_AET=B\n")
    _, warnings = load_with_warnings(REQUIRED, file)
    assert warnings == [f"{file}: MILVUE_AET: given twice, in lines 1 and 2; the second counts"]


def test_every_name_that_is_read_past_is_one_of_pacsors_or_of_compose() -> None:
    ours = {"COMPOSE_FILE", "COMPOSE_PROFILES", "CLIENT_NAME", "DEBUG", "ISLOCALOR"}
    images = {"PACSOR_VERSION", "PACSOR_IMAGE", "PYTHON_IMAGE", "REDIS_IMAGE", "POSTGRES_IMAGE"}
    binds = {"ENV_FILE", "ADMIN_BIND", "FLOWER_BIND"}
    assert {name for _, name in WITHOUT_MEANING} | ours | images | binds >= IGNORED

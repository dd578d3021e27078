"""Settings: PACSOR's names, defaults and habits; and what is said when one is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.environment import normalise
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load, load_with_warnings
from pacsor_tasks.settings_peers import webps_destinations
from pacsor_tasks.settings_table import table

REQUIRED = {
    "API_URL": "https://predict.milvue.com",
    "TOKEN": "key",
    "PACS_IP": "192.0.2.1",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}
HL7 = {
    "RECEIVING_APPLICATION": "RIS",
    "RECEIVING_FACILITY": "SITE",
    "RIS_HOST_IP": "192.0.2.2",
    "RIS_HOST_PORT": "2575",
}


def settings(**more: str) -> Settings:
    return load({**REQUIRED, **more}, None)


def test_the_defaults_are_pacsors():
    found = settings()
    assert found.CONFIG_PROFILE == "WithSC"
    assert found.PORT == 1040
    assert found.MILVUE_AET == "MILVUE"
    core = found.cores["core"]
    assert core.signed_url
    assert core.no_duplicate_upload
    assert core.inference_commands == ("smarturgences", "smartxpert")
    assert core.destinations == ("storescu",)
    assert core.filters == ()


@pytest.mark.parametrize(
    ("name", "value", "setting", "read"),
    [
        ("SEN_APP", "A", "SENDING_APPLICATION", "A"),
        ("INFERENCE_COMMANDS", '"one", "two"', "INFERENCE_COMMANDS", ("one", "two")),
        ("INFERENCE_COMMANDS", "a, b ,,a", "INFERENCE_COMMANDS", ("a", "b")),
        ("MILVUE_AET", '"GATE"', "MILVUE_AET", "GATE"),
        ("SIGNED_URL", "False", "SIGNED_URL", False),
        ("SIGNED_URL", "0", "SIGNED_URL", False),
        ("DELIVERY_RETRY_HORIZON", "72h", "DELIVERY_RETRY_HORIZON", 259200),
        ("STUDY_QUIET_SECONDS", "1.5", "STUDY_QUIET_SECONDS", 1.5),
        ("STUDY_QUIET_SECONDS", "", "STUDY_QUIET_SECONDS", 30),  # empty counts as not set
        ("LOG_LEVEL", "warn", "PACSOR_LOG_LEVEL", "warn"),
        ("API_URL", "http://integrator:8080/", "API_URL", "http://integrator:8080"),
        ("PACS_IP", "pacs.hospital.example", "PACS_IP", "pacs.hospital.example"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(name: str, value: str, setting: str, read: object):
    assert getattr(settings(**{name: value}), setting) == read


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("API_URL", "predict.milvue.com", "API_URL: 'predict.milvue.com' is not an http"),
        ("PACS_PORT", "70000", "PACS_PORT: Input should be less than or equal to 65535"),
        ("PACS_PORT", "dicom", r"PACS_PORT: .*\(it is 'dicom'\)"),
        ("PACS_IP", "999.1.1.1", "PACS_IP: '999.1.1.1' is not a host name or address"),
        ("PACS_IP", "http://pacs", "PACS_IP: 'http://pacs' is not a host name or address"),
        ("PACS_IP", "pacs:104", "PACS_IP: 'pacs:104' is not a host name or address"),
        ("PACS_AET", "A_TITLE_OF_MORE_THAN_16", "PACS_AET: .* is not an AE title"),
        ("DICOM_FILTERS", "[{", "DICOM_FILTERS: not JSON"),
        (
            "DICOM_FILTERS",
            '[{"tag":{"group":"0008","element":"0060"},"pattern":"(","should_match":true}]',
            "DICOM_FILTERS.0.pattern: pattern '\\(' is not a regular expression",
        ),
        (
            "DICOM_FILTERS",
            '[{"tag":{"group":"8","element":"60"},"pattern":"x","should_match":true}]',
            "DICOM_FILTERS.0.tag: tag \\(8,60\\) is not",
        ),
        ("DESTINATIONS", "pacs", "DESTINATIONS: unknown destination 'pacs'"),
        ("CALLBACK_URLS", "storescu", "CALLBACK_URLS: 'storescu' is not a URL like"),
        ("DESTINATIONS", "storescu,storescu-2", "PACS_IP_2: required by destination storescu-2"),
        ("DESTINATIONS", "hl7", "RECEIVING_APPLICATION: required by destination hl7"),
        ("ADDITIONAL_CORES", "core1", "API_URL_1: required by core1"),
        ("ADDITIONAL_CORES", "other", "ADDITIONAL_CORES: 'other' is not core1"),
        ("PACSOR_LOGLEVEL", "x", "PACSOR_LOGLEVEL: no such setting; did you mean PACSOR_LOG_LEVEL"),
        ("ADMIN_HOST", "0.0.0.0", "ADMIN_TOKEN: required to listen beyond loopback"),
        ("FLOWER_HOST", "0.0.0.0", "FLOWER_BASIC_AUTH: required to listen beyond loopback"),
        ("INFERENCE_COMMANDS", ",", "INFERENCE_COMMANDS: empty"),
    ],
)
def test_a_wrong_value_is_refused_and_named(name: str, value: str, says: str):
    with pytest.raises(ConfigError, match=says):
        settings(**{name: value})


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load({"PORT": "x", "PACS_PORT": "y"}, None)
    said = str(caught.value)
    assert all(name in said for name in ("API_URL", "TOKEN", "PORT", "PACS_PORT"))


def test_a_wrong_value_does_not_hide_what_is_missing_elsewhere():
    with pytest.raises(ConfigError) as caught:
        load({"PORT": "x", "PACS_PORT": "y", "CALLBACK_URLS": "http://storescu:8000"}, None)
    said = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(said) == ["API_URL", "PACS_AET", "PACS_IP", "PACS_PORT", "PORT", "TOKEN"]


def test_everything_that_cores_and_destinations_lack_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        settings(
            ADDITIONAL_CORES="core1", DESTINATIONS="storescu-2,hl7-2,stow", ADMIN_HOST="0.0.0.0",
            CORE_TYPE_1="milvue",
        )  # fmt: skip
    by = "required by destination"
    assert str(caught.value).splitlines() == [
        "API_URL_1: required by core1 of ADDITIONAL_CORES",
        "TOKEN_1: required by core1 of ADDITIONAL_CORES",
        *(f"PACS_{name}_2: {by} storescu-2" for name in ("IP", "PORT", "AET")),
        f"RIS_HOST_IP_2: {by} hl7-2", f"RIS_HOST_PORT_2: {by} hl7-2",
        f"RECEIVING_APPLICATION: {by} hl7-2", f"RECEIVING_FACILITY: {by} hl7-2",
        f"STOW_URL: {by} stow",
        "ADMIN_TOKEN: required to listen beyond loopback (ADMIN_HOST=0.0.0.0)",
    ]  # fmt: skip


def test_a_core_of_type_tcr_is_told_all_it_lacks():
    with pytest.raises(ConfigError) as caught:
        settings(ADDITIONAL_CORES="core1", CORE_TYPE_1="tcr")
    assert str(caught.value).splitlines() == [
        f"{name}_1: required by CORE_TYPE_1=tcr"
        for name in ("TCR_API_URL", "PROVIDER_TOKEN", "ORGANIZATION_ID")
    ]


def test_secrets_are_never_repeated():
    secret = "very-secret-key"
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, "TOKEN": secret, "API_URL": "nope", "ADMIN_TOKEN": secret}, None)
    assert secret not in str(caught.value)
    assert secret not in repr(settings(TOKEN=secret))


def test_legacy_and_removed_names_work_or_are_ignored_with_a_warning():
    found, warnings = load_with_warnings(
        {**REQUIRED, "POPULATEPID": "false", "USE_PREDICTION_ID": "true", "SEN_FAC": "X"}, None
    )
    assert found.POPULATE_PID is False
    assert found.SENDING_FACILITY == "X"
    assert warnings == [
        "POPULATEPID is an old name: write POPULATE_PID",
        "USE_PREDICTION_ID no longer exists and is ignored",
    ]


def test_a_second_core_inherits_what_it_does_not_say():
    found = settings(
        ADDITIONAL_CORES="core1",
        API_URL_1="http://other",
        TOKEN_1="k1",
        INFERENCE_COMMANDS_1="trauma",
        NO_DUPLICATE_UPLOAD="false",
        DICOM_FILTERS='[{"tag":{"group":"0008","element":"0060"},"pattern":"DX","should_match":true}]',
    )
    core1 = found.cores["core1"]
    assert core1.inference_commands == ("trauma",)
    assert core1.filters == found.cores["core"].filters
    assert not core1.no_duplicate_upload
    assert core1.destinations == ("storescu",)
    assert core1.token.get_secret_value() == "k1"


def test_destinations_by_name_and_by_callback_urls_are_the_same_thing():
    peers = {**HL7, "PACS_IP_2": "192.0.2.9", "PACS_PORT_2": "11112", "PACS_AET_2": "TWO"}
    by_url = settings(
        CALLBACK_URLS="http://storescu:8000, http://storescu-2:8000,http://hl7:8000", **peers
    )
    by_name = settings(DESTINATIONS="storescu,storescu-2,hl7", **peers)
    for found in (by_url, by_name):
        assert found.cores["core"].destinations == ("storescu", "storescu-2", "hl7")
        assert found.storescu["storescu-2"].called_aet == "TWO"
        assert found.ris["hl7"].port == 2575


def test_hl7_switched_off_needs_no_ris():
    found = settings(DESTINATIONS="storescu,hl7", ENABLE_HL7="false")
    assert found.cores["core"].destinations == ("storescu",)
    assert found.ris == {}


def test_the_environment_wins_over_the_file(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("PORT=1041\nMILVUE_AET='FROM FILE'\nCOMPOSE_PROJECT_NAME=pacsor-x\n")
    found, warnings = load_with_warnings({**REQUIRED, "PORT": "1042"}, file)
    assert found.PORT == 1042
    assert found.MILVUE_AET == "FROM FILE"
    assert warnings == []


def test_a_misspelt_name_in_the_file_is_refused_with_the_right_one(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("STUDY_QUIET_SECOND=5\n")
    with pytest.raises(ConfigError, match=r"STUDY_QUIET_SECOND .*did you mean STUDY_QUIET_SECONDS"):
        load(REQUIRED, file)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("INFERENCE_COMMAND_1", "INFERENCE_COMMANDS_1"),
        ("CALLBACK_URL_1", "CALLBACK_URLS_1"),
        ("DICOM_FILTER_1", "DICOM_FILTERS_1"),
        ("POPULATEPID_2", "POPULATE_PID_2"),
        ("PACS_IP_02", "PACS_IP_2"),
        ("PACS_AETT_2", "PACS_AET_2"),
        ("pacs_ip_2", "PACS_IP_2"),
        ("signed_url", "SIGNED_URL"),
        ("Dicom_Filters", "DICOM_FILTERS"),
    ],
)
def test_a_hint_keeps_the_number_and_knows_the_case(tmp_path: Path, written: str, meant: str):
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"{written}=x\n")
    with pytest.raises(ConfigError, match=rf"{written} \(in .*\): .*did you mean {meant}\?$"):
        load(REQUIRED, dotenv)


def test_another_name_of_a_setting_may_have_a_number():
    assert normalise({"REC_APP_2": "B", "RIS_HOST_2": "h"})[0] == {
        "RECEIVING_APPLICATION_2": "B", "RIS_HOST_IP_2": "h",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["DICOM_FILTRES", "PORTT", "SIGNED_URLS", "pacs_ip"])
def test_where_env_has_become_the_environment_a_misspelt_name_stops_the_start(name: str):
    with pytest.raises(ConfigError, match=f"{name}: no such setting; did you mean"):
        settings(PACSOR_STRICT_ENVIRONMENT="true", **{name: "x"})


def test_what_containers_have_in_their_environment_is_not_taken_for_ours():
    names = (
        "PATH", "HOME", "HOSTNAME", "LANG", "LC_ALL", "TERM", "TZ", "USER", "PWD", "SHLVL",
        "PYTHON_VERSION", "PYTHON_SHA256", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "GPG_KEY",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
        "FLOWER_PERSISTENT", "FLOWER_DB", "FLOWER_STATE_SAVE_INTERVAL", "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "VIRTUAL_ENV",
    )  # fmt: skip
    _, warnings = load_with_warnings(
        {**REQUIRED, "PACSOR_STRICT_ENVIRONMENT": "true", **dict.fromkeys(names, "x")}, None
    )
    assert warnings == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"PACS_IP_1": "h", "PACS_AET_1": "A"}, "PACS_AET_1, PACS_IP_1: not used; the first dest"),
        ({"RIS_TIMEOUT_3": "9"}, "RIS_TIMEOUT_3: not used; nothing is delivered to hl7-3"),
        ({"SIGNED_URL_2": "no", "UPLOAD_RATE_2": "1"},
         "SIGNED_URL_2, UPLOAD_RATE_2: not used; a core reads it with ADDITIONAL_CORES=core2"),
    ],
)  # fmt: skip
def test_a_numbered_setting_that_nobody_reads_is_told_of(given: dict[str, str], said: str):
    _, warnings = load_with_warnings({**REQUIRED, **given}, None)
    assert [w for w in warnings if w.startswith(said)], warnings


@pytest.mark.parametrize(("theirs", "level"), [("trace", "debug"), ("FATAL", "error")])
def test_levels_of_pacsors_storescp_are_understood(theirs: str, level: str):
    found = settings(PACSOR_LOG_LEVEL=theirs)
    assert level == found.PACSOR_LOG_LEVEL


@pytest.mark.parametrize("written", ["a,b", "['a', 'b']", '["a","b"]', " [ 'a','b' ] "])
def test_a_list_may_be_written_as_one(written: str):
    assert settings(INFERENCE_COMMANDS=written).INFERENCE_COMMANDS == ("a", "b")


def test_findings_that_no_core_asks_for_are_told_of():
    ris = {"DESTINATIONS": "hl7", "RECEIVING_APPLICATION": "R", "RECEIVING_FACILITY": "F",
           "RIS_HOST_IP": "ris", "RIS_HOST_PORT": "2575"}  # fmt: skip
    _, warnings = load_with_warnings(
        {**REQUIRED, **ris, "INFERENCE_COMMANDS": "detection,smartxpert"}, None
    )
    assert warnings == [
        "DETECTION_INFERENCE_COMMAND: no core that delivers to hl7 asks for 'smarturgences', so its"
        " messages go without; did you mean detection?"
    ]
    for commands, more in (
        ("detection", {"DETECTION_INFERENCE_COMMAND": "detection"}),
        ("detection", {"INCLUDE_DETECTIONS_FINDINGS": "false"}),
        ("smarturgences,detection", {}),
        ("lungs", {}),
    ):
        _, warnings = load_with_warnings(
            {**REQUIRED, **ris, "INFERENCE_COMMANDS": commands, **more}, None
        )
        assert warnings == []


@pytest.mark.parametrize("old", ["https://t.example/report", "https://t.example/report/"])
def test_an_old_address_of_techcare_loses_its_path(old: str):
    assert settings(REPORT_URL=old).TCR_API_URL == "https://t.example"


def test_a_configuration_that_is_not_there_does_not_hide_the_rest():
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, "LOAD_CONFIG_AT_INIT": "gone", "PORT": "x"}, None)
    assert "LOAD_CONFIG_AT_INIT=gone" in str(caught.value)
    assert "PORT: " in str(caught.value)


def test_a_misspelt_name_in_the_environment_is_a_warning():
    _, warnings = load_with_warnings({**REQUIRED, "STUDY_QUIET_SECOND": "5", "PATHS": "x"}, None)
    assert warnings == ["STUDY_QUIET_SECOND: no such setting; did you mean STUDY_QUIET_SECONDS?"]


@pytest.mark.parametrize(
    ("line", "in_file", "in_environment"),
    [
        ("DICOM_FILTERS={}", "^SR$", "^SR$$"),
        ("DICOM_FILTERS='{}'", "^SR$$", "^SR$$"),
    ],
    ids=["bare", "in single quotes"],
)
def test_a_dollar_doubled_for_compose_is_one_where_compose_reads_it_so(
    tmp_path: Path, line: str, in_file: str, in_environment: str
):
    rule = '[{"tag":{"group":"0008","element":"0060"},"pattern":"^SR$$","should_match":true}]'
    file = tmp_path / ".env"
    file.write_text(line.format(rule))
    assert load(REQUIRED, file).DICOM_FILTERS[0].pattern == in_file
    # Compose has read the file already when a container's environment has the value.
    assert settings(DICOM_FILTERS=rule).DICOM_FILTERS[0].pattern == in_environment


def test_without_a_broker_url_the_embedded_one_of_the_data_directory_counts(tmp_path: Path):
    found = settings(DATA_DIR=str(tmp_path))
    with pytest.raises(ConfigError, match="BROKER_URL: not set, and no embedded Redis"):
        _ = found.broker_url
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "url").write_text("redis://:x@127.0.0.1:1/0\n")
    assert found.broker_url == "redis://:x@127.0.0.1:1/0"
    assert settings(BROKER_URL="redis://r/0").broker_url == "redis://r/0"


def test_the_page_of_settings_is_that_of_the_code():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == table(), "run `make docs`"


TCR = {"TCR_API_URL": "https://tcr.example", "PROVIDER_TOKEN": "mine", "ORGANIZATION_ID": "7"}
WEBPS = {"WEBPS_ENABLE": "true", "PROVIDERS": "radio-a, radio-b", "TCR_API_URL": "https://tcr"}


def test_a_provider_s_core_needs_no_milvue_and_delivers_hl7_only():
    found = load({"CORE_TYPE": "tcr", "CALLBACK_URLS": "http://storescu:8000", **TCR, **HL7}, None)
    core = found.cores["core"]
    assert (core.type, core.api_url, core.organization_id) == ("tcr", "https://tcr.example", "7")
    assert core.token.get_secret_value() == "mine"
    assert core.destinations == ("hl7",)
    assert core.inference_commands == ("report",)
    assert found.storescu == {}
    assert "mine" not in repr(found)


def test_a_provider_s_core_can_stand_beside_a_milvue_core():
    found = settings(
        ADDITIONAL_CORES="core1", CORE_TYPE_1="TCR", PROVIDER_TOKEN_1="mine",
        ORGANIZATION_ID_1="7", TCR_API_URL="https://tcr", DESTINATIONS_1="hl7-2",
        RIS_HOST_IP_2="192.0.2.3", RIS_HOST_PORT_2="2575", **HL7,
    )  # fmt: skip
    assert found.cores["core"].type == "milvue"
    assert found.cores["core1"].destinations == ("hl7-2",)
    assert set(found.ris) == {"hl7-2"}


def test_reports_of_other_providers_go_to_every_hl7_destination_in_use_else_to_hl7():
    alone = settings(**WEBPS, **HL7)
    assert alone.WEBPS_PROVIDERS == ("radio-a", "radio-b")
    assert webps_destinations(alone) == ("hl7",)
    assert set(alone.ris) == {"hl7"}
    second = {"RIS_HOST_IP_2": "192.0.2.3", "RIS_HOST_PORT_2": "2575"}
    both = settings(DESTINATIONS="storescu,hl7,hl7-2", **WEBPS, **HL7, **second)
    assert webps_destinations(both) == ("hl7", "hl7-2")
    one = settings(
        DESTINATIONS="storescu,hl7,hl7-2", WEBPS_DESTINATIONS="hl7-2", **WEBPS, **HL7, **second
    )
    assert webps_destinations(one) == ("hl7-2",)
    assert webps_destinations(settings()) == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"INCLUDE_REPORT": "true", "DESTINATIONS": "hl7", **HL7},
         "TCR_API_URL: required by INCLUDE_TECHCARE_REPORT"),
        ({**WEBPS, **HL7, "TCR_API_URL": ""}, "TCR_API_URL: required by WEBPS_ENABLE"),
        ({**WEBPS, **HL7, "PROVIDERS": ""}, "WEBPS_PROVIDERS: required by WEBPS_ENABLE"),
        ({**WEBPS, **HL7, "ENABLE_HL7": "false"}, "WEBPS_ENABLE: reports go to HL7"),
        ({**WEBPS, **HL7, "WEBPS_DESTINATIONS": "storescu"}, "WEBPS_DESTINATIONS: 'storescu'"),
        ({**WEBPS}, "RECEIVING_APPLICATION: required by destination hl7"),
        ({**TCR, **HL7, "CORE_TYPE": "tcr", "PROVIDER_TOKEN": ""}, "PROVIDER_TOKEN: required by"),
        ({**TCR, **HL7, "CORE_TYPE": "tcr", "ORGANIZATION_ID": ""}, "ORGANIZATION_ID: required by"),
        ({**TCR, **HL7, "CORE_TYPE": "tcr", "ENABLE_HL7": "false"}, "CORE_TYPE: tcr has only HL7"),
        ({"CORE_TYPE": "other"}, "CORE_TYPE: no type 'other' is installed; there are milvue, tcr"),
        ({"ADDITIONAL_CORES": "core1", "CORE_TYPE_1": "tcr"}, "TCR_API_URL_1: required by CORE_TY"),
        ({"ADDITIONAL_CORES": "core1", "CORE_TYPE_1": "x", "API_URL_1": "http://o",
          "TOKEN_1": "k"}, "CORE_TYPE_1: no type 'x' is installed; there are milvue, tcr"),
        ({"TCR_REPORT_PATH": "/report"}, "TCR_REPORT_PATH: .*study_instance_uid"),
        ({"TCR_STATUS_PATH": "/{study_instance_uid}/{token}"}, "TCR_STATUS_PATH: .*placeholders"),
        ({"TCR_UPLOAD_PATH": "studies"}, "TCR_UPLOAD_PATH: 'studies' is not a path"),
        ({"WEBPS_GROUP": "all"}, "WEBPS_GROUP: String should match"),
        ({"TCR_AUTH_HEADER": "x y"}, "TCR_AUTH_HEADER: String should match"),
    ],
)  # fmt: skip
def test_what_reports_need_is_said_at_start(given: dict[str, str], says: str):
    with pytest.raises(ConfigError, match=says):
        load({**REQUIRED, **given}, None)

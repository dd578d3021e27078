"""Configuration of the HL7 destinations: per destination, from a file, at run time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pacsor_tasks.environment import OF_ONE_RIS
from pacsor_tasks.errors import ConfigError, NotFound, Retryable
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.settings import Settings, load
from pacsor_tasks.settings_hl7 import PER_DESTINATION, loadable, strangers

REQUIRED = {
    "API_URL": "https://predict.milvue.com",
    "TOKEN": "key",
    "DESTINATIONS": "hl7,hl7-2",
    "RECEIVING_APPLICATION": "RIS",
    "RECEIVING_FACILITY": "SITE",
    "RIS_HOST_IP": "192.0.2.2",
    "RIS_HOST_PORT": "2575",
    "RIS_HOST_IP_2": "192.0.2.3",
    "RIS_HOST_PORT_2": "2576",
}
#: Contract §2.5: the keys, and the sample's values.
SAMPLE = {
    "SEN_APP": "MILVUE_GATEWAY", "SEN_FAC": "MILVUE", "REC_APP": "XPLORE", "REC_FAC": "EDL",
    "HL7_LANG": "FR", "PROC_ID": "P", "RIS_TIMEOUT": 15, "REPORT_FORMAT": "HTML",
    "DEF_PID_ISSUER": "MILVUE", "HTTP_TIMEOUT": 600, "LOG_LEVEL": "WARN", "GCP_LOGS": True,
    "ENABLE_HL7": True, "POPULATE_PID": True, "POPULATE_PV1": False, "POPULATE_ORC": True,
    "POPULATE_ZDS": True, "INCLUDE_REPORT": False, "INCLUDE_DETECTIONS_FINDINGS": True,
    "INCLUDE_MEASURES_FINDINGS": True, "SIUID_IN_OBX1": True, "OBX_UPPERCASE": True,
    "DETECTION_INFERENCE_COMMAND": "smarturgences", "MEASURES_INFERENCE_COMMAND": "smartxpert",
}  # fmt: skip


def settings(directory: Path, **more: str) -> Settings:
    places = {"DATA_DIR": str(directory / "data"), "HL7_CONF_DIR": str(directory / "conf")}
    return load({**REQUIRED, **places, **more}, None)


def write(directory: Path, values: object, name: str = "site") -> None:
    (directory / "conf").mkdir(exist_ok=True)
    (directory / "conf" / f"{name}.json").write_text(json.dumps(values))


def test_every_setting_of_a_destination_may_be_given_for_one_alone() -> None:
    assert set(OF_ONE_RIS) == set(PER_DESTINATION)


def test_a_second_ris_has_its_own_and_takes_the_rest_from_the_first(tmp_path: Path) -> None:
    config = Hl7Config(
        settings(
            tmp_path, POPULATE_ORC="false", POPULATE_PID_2="false", RECEIVING_APPLICATION_2="TWO",
            HL7_CONFORMANT_2="true", RIS_TIMEOUT_2="3s", HL7_LANGUAGE_2="en",
        )
    )  # fmt: skip
    first, second = config.contents["hl7"].options, config.contents["hl7-2"].options
    assert (first.populate_orc, second.populate_orc) == (False, False)
    assert (first.populate_pid, second.populate_pid) == (True, False)
    assert (first.receiving_application, second.receiving_application) == ("RIS", "TWO")
    assert second.template is CONFORMANT_TEMPLATE
    assert second.language == "EN"
    assert (config.ris["hl7"].timeout_s, config.ris["hl7-2"].timeout_s) == (15, 3)
    assert config.ris["hl7-2"].host == "192.0.2.3"


def test_a_wrong_value_for_one_destination_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PROC_ID_2: .*'X'"):
        settings(tmp_path, PROC_ID_2="X")
    with pytest.raises(ConfigError, match="RIS_HOST_IP_2: required by destination hl7-2"):
        settings(tmp_path, RIS_HOST_IP_2="")
    with pytest.raises(ConfigError, match="RIS_TLS_KEY: certificate and key belong together"):
        settings(tmp_path, RIS_TLS="true", RIS_TLS_CERT="x.pem")


def test_the_shipped_sample_is_loaded_over_the_environment(tmp_path: Path) -> None:
    write(tmp_path, SAMPLE)
    found = settings(tmp_path, LOAD_CONFIG_AT_INIT="site", SENDING_FACILITY="FROM ENVIRONMENT")
    assert found.RECEIVING_APPLICATION == "XPLORE"
    assert found.TECHCARE_REPORT_FORMAT == "HTML"
    assert found.SENDING_FACILITY == "MILVUE"
    assert found.PACSOR_LOG_LEVEL == "info"


def test_a_file_may_speak_of_one_destination(tmp_path: Path) -> None:
    write(tmp_path, {"REC_APP_2": "TWO", "POPULATE_PID_2": False, "POPULATE_ZDS": False})
    config = Hl7Config(settings(tmp_path, LOAD_CONFIG_AT_INIT="site", POPULATE_ZDS_2="true"))
    assert config.contents["hl7"].options.receiving_application == "RIS"
    second = config.contents["hl7-2"].options
    assert second.receiving_application == "TWO"
    assert not second.populate_pid
    # What is set for one destination alone is nearer than a file's word for all.
    assert second.populate_zds
    assert not config.contents["hl7"].options.populate_zds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"POPULATE_PDI": True}, "POPULATE_PDI: no setting of the HL7 messages"),
        ({"TOKEN": "x"}, "TOKEN: no setting of the HL7 messages"),
        ({"DATA_DIR": "/"}, "DATA_DIR: no setting"),
        ({"RIS_HOST": "x"}, "RIS_HOST: cannot be changed by a configuration file"),
        ({"RIS_HOST_PORT": 1}, "RIS_HOST_PORT: cannot be changed"),
        ({"RIS_TLS_CA": "/x"}, "RIS_TLS_CA: cannot be changed"),
        ({"HL7_CONF_DIR": "/"}, "HL7_CONF_DIR: cannot be changed"),
        ({"ENABLE_HL7_2": False}, "ENABLE_HL7_2: cannot be changed"),
        ({"PROC_ID": "X"}, r"PROC_ID: Input should be 'P', 'T' or 'D' \(it is 'X'\)"),
        ({"POPULATE_PID": 1}, "POPULATE_PID: true or false is expected"),
        ({"SEN_APP": True}, "SEN_APP: no boolean is expected"),
        ({"SEN_APP": None}, "SEN_APP: a text, number or boolean"),
        ({"SEN_APP": ["x"]}, "SEN_APP: a text, number or boolean"),
        ({"RIS_TIMEOUT": 0}, "RIS_TIMEOUT: .*greater than 0"),
        ({"SEN_APP": "a", "SENDING_APPLICATION": "b"}, "SENDING_APPLICATION: given twice"),
        ({"SEN_APP": "a\ud800"}, "^SEN_APP: half of a character"),
        ({"HL7_LANG": "\ud800"}, "^HL7_LANG: half of a character"),
        ({"\ud800": "a"}, r"^'\\ud800': no setting"),
        ({"RIS_TIMEOUT": float("inf")}, "RIS_TIMEOUT: .*finite"),
        ({"RIS_TIMEOUT": float("nan")}, "RIS_TIMEOUT: "),
        ({"RIS_TIMEOUT": 1e15}, "RIS_TIMEOUT: .*less than or equal to 86400"),
        ({"RIS_TIMEOUT": 10**400}, "RIS_TIMEOUT: "),
        ({"RIS_TIMEOUT_2": "2d"}, "RIS_TIMEOUT_2: .*less than or equal to 86400"),
        ({"RIS_KEEP_ALIVE": 86401}, "RIS_KEEP_ALIVE: .*less than or equal to 86400"),
        ({"HTTP_TIMEOUT": float("inf")}, "HTTP_TIMEOUT: .*finite"),
    ],
)  # fmt: skip
def test_a_bad_key_is_refused_by_name(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loadable(given)


def test_stray_quotes_and_blanks_are_taken_off_as_in_the_environment() -> None:
    given = {
        "DETECTION_INFERENCE_COMMAND": '"detection"',
        "SEN_APP": " 'A' ",
        "POPULATE_PID_2": '"no"',
    }
    assert loadable(given) == {
        "DETECTION_INFERENCE_COMMAND": "detection",
        "SENDING_APPLICATION": "A",
        "POPULATE_PID_2": False,
    }


@pytest.mark.parametrize(
    ("given", "unknown"),
    [
        ({"REC_APP": "x", "LOG_LEVEL": "x"}, []),
        ({"REC_APP_2": "x", "SENDING_APPLICATION_2": "x"}, []),
        ({"REC_APP_7": "x", "POPULATEPID_12": "x"}, ["REC_APP_7", "POPULATEPID_12"]),
        ({"NO_SETTING_7": "x"}, []),
    ],
)
def test_keys_of_a_destination_that_is_not_there_are_named(
    given: Mapping[str, Any], unknown: list[str]
) -> None:
    assert [line.split(":")[0] for line in strangers(given, {"", "_2"})] == unknown


def test_every_bad_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loadable({"A": 1, "PROC_ID": "X", "POPULATE_PID": False})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["A", "PROC_ID"]


def test_a_loaded_file_counts_in_every_process_and_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, {"REC_APP": "LATER", "RIS_TIMEOUT": 4})
    given = settings(tmp_path)
    one, other = Hl7Config(given), Hl7Config(given)
    assert other.contents["hl7"].options.receiving_application == "RIS"

    one.load("site")

    for config in (one, other, Hl7Config(given)):
        assert config.contents["hl7"].options.receiving_application == "LATER"
        assert config.ris["hl7"].timeout_s == 4
        assert config.shown()["loaded"]["name"] == "site"
    assert other.unload()
    assert one.contents["hl7"].options.receiving_application == "RIS"
    assert not one.unload()


def test_what_was_loaded_stays_when_the_file_in_conf_is_edited(tmp_path: Path) -> None:
    write(tmp_path, {"REC_APP": "LATER"})
    config = Hl7Config(settings(tmp_path))
    config.load("site")
    write(tmp_path, {"REC_APP": "HALF-EDITED"})
    assert config.contents["hl7"].options.receiving_application == "LATER"
    config.load("site")
    assert config.contents["hl7"].options.receiving_application == "HALF-EDITED"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"REC_APP": "X", "POPULATE_PDI": true}', "POPULATE_PDI"),
        ('{"REC_APP": "X", "REC_APP": "Y"}', "REC_APP is given twice"),
        ('["REC_APP"]', "not a JSON object"),
        ("{", "not JSON"),
        ('{"REC_APP": ""}', "RECEIVING_APPLICATION: required by destination hl7"),
        ('{"REC_FAC": "X", "REC_APP_7": "Y"}', "REC_APP_7: there is no destination hl7-7"),
        (
            '{"REC_FAC": "X", "INCLUDE_REPORT_2": true}',
            r"\(hl7-2\).* TCR_API_URL, which is not set",
        ),
        ('{"REC_FAC": "X", "RIS_TIMEOUT": 1e400}', "RIS_TIMEOUT: "),
        ('{"REC_FAC": "X", "SEN_APP": "a\\ud800"}', "SEN_APP: half of a character"),
        (" " * (1 << 20) + "{}", "longer than"),
    ],
)
def test_a_file_with_anything_wrong_changes_nothing(
    tmp_path: Path, content: str, said: str
) -> None:
    write(tmp_path, {"REC_FAC": "BEFORE"}, "good")
    write(tmp_path, {}, "bad")
    (tmp_path / "conf" / "bad.json").write_text(content)
    config = Hl7Config(settings(tmp_path))
    config.load("good")
    with pytest.raises(ConfigError, match=said):
        config.load("bad")
    assert config.contents["hl7"].options.receiving_facility == "BEFORE"
    assert config.shown()["loaded"]["name"] == "good"


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", ".env", "a/b", "a.json", "", "é"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    write(tmp_path, {})
    with pytest.raises(ConfigError, match="is not a file's stem"):
        Hl7Config(settings(tmp_path)).load(name)


def test_a_link_out_of_the_directory_is_refused_and_a_missing_file_said(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "secret.json").write_text('{"REC_APP": "X"}')
    (tmp_path / "conf" / "link.json").symlink_to(tmp_path / "secret.json")
    config = Hl7Config(settings(tmp_path))
    with pytest.raises(ConfigError, match="leads out of"):
        config.load("link")
    with pytest.raises(NotFound, match="no such file"):
        config.load("absent")


def test_hl7_can_be_switched_off_at_run_time_but_not_on_without_destinations(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"ENABLE_HL7": False})
    config = Hl7Config(settings(tmp_path))
    config.load("site")
    assert not config.contents["hl7"].is_enabled
    write(tmp_path, {"ENABLE_HL7": True})
    without = Hl7Config(settings(tmp_path, ENABLE_HL7="false"))
    with pytest.raises(ConfigError, match="ENABLE_HL7: false at start"):
        without.load("site")


def test_a_damaged_active_file_holds_messages_up_and_stops_a_start(tmp_path: Path) -> None:
    given = settings(tmp_path)
    config = Hl7Config(given)
    active = tmp_path / "data" / "hl7" / "active.json"
    active.parent.mkdir(parents=True)
    active.write_text('{"name": "x"')
    with pytest.raises(Retryable, match="loaded at run time"):
        _ = config.contents["hl7"]
    assert "hl7" in config.ris, "who the destinations are does not depend on it"
    with pytest.raises(ConfigError, match="not JSON"):
        Hl7Config(given)
    active.unlink()
    assert config.contents["hl7"].is_enabled


def test_a_sites_template_counts_for_the_destination_that_names_it(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "conf" / "ours.py").write_text('SEG_PID = "PID|ours"\n')
    config = Hl7Config(settings(tmp_path, LOAD_TEMPLATE_AT_INIT_2="ours", HL7_CONFORMANT="true"))
    second = config.contents["hl7-2"].options.template
    assert second.pid == "PID|ours"
    assert second.orc == CONFORMANT_TEMPLATE.orc
    assert config.contents["hl7"].options.template is CONFORMANT_TEMPLATE
    with pytest.raises(ConfigError, match=r"LOAD_TEMPLATE_AT_INIT: .*absent\.py: no such file"):
        Hl7Config(settings(tmp_path, LOAD_TEMPLATE_AT_INIT="absent"))


def test_a_template_that_was_refused_once_is_refused_again(tmp_path: Path) -> None:
    write(tmp_path, {"HL7_CONFORMANT": True})
    template = tmp_path / "conf" / "ours.py"
    template.write_text('SEG_PID = "PID|ours"\n')
    config = Hl7Config(settings(tmp_path, LOAD_TEMPLATE_AT_INIT="ours"))
    template.write_text('SEG_PID = "PID|{x}"\n')  # read anew with another form to start from
    for _ in range(2):
        with pytest.raises(ConfigError, match="SEG_PID"):
            config.load("site")


def test_a_file_at_start_speaks_of_destinations_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, {"REC_APP_2": "TWO", "REC_APP_7": "SEVEN"})
    with pytest.raises(ConfigError, match=r"^LOAD_CONFIG_AT_INIT=site: REC_APP_7"):
        Hl7Config(settings(tmp_path, LOAD_CONFIG_AT_INIT="site"))
    # Without HL7 there is none, and none of the keys has an effect.
    Hl7Config(settings(tmp_path, LOAD_CONFIG_AT_INIT="site", ENABLE_HL7="false"))


def test_reports_are_included_at_run_time_where_there_is_a_place_to_fetch_them(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"INCLUDE_REPORT": True})
    config = Hl7Config(settings(tmp_path, TCR_API_URL="https://tcr.example"))
    config.load("site")
    assert config.contents["hl7"].include_report
    with pytest.raises(ConfigError, match="TCR_API_URL, which is not set"):
        Hl7Config(settings(tmp_path))


def test_a_missing_file_at_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"LOAD_CONFIG_AT_INIT=site: .*site.json: no such file"):
        settings(tmp_path, LOAD_CONFIG_AT_INIT="site")

"""The environment and `.env` as sites write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.settings import Settings, load, load_with_warnings

REQUIRED = {
    "API_URL": "https://predict.milvue.com",
    "TOKEN": "key",
    "PACS_IP": "192.0.2.1",
    "PACS_PORT": "104",
    "PACS_AET": "PACS",
}


def of_file(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / ".env"
    file.write_text(text)
    return load({**REQUIRED, **(environ or {})}, file)


@pytest.mark.parametrize(
    ("line", "port"),
    [
        ("PORT=1041", 1041),
        ("export PORT=1041", 1041),
        ("PORT = 1041", 1041),
        ('PORT="1041"', 1041),
        ("PORT='1041'  # the SCP", 1041),
        ("PORT=1041 # the SCP", 1041),
        ("# PORT=1041", 1040),
        ("PORT=", 1040),
        ("PORT=''", 1040),
        ("PORT", 1040),
        ("PORT=1041\r\n", 1041),
        ("\ufeffPORT=1041", 1041),  # as Windows' editors save it
        ("PORT=1042\nPORT=1041", 1041),
    ],
)
def test_lines_of_the_file_are_read_as_they_are_written(tmp_path: Path, line: str, port: int):
    assert port == of_file(tmp_path, line).PORT


def test_values_keep_their_dollars_and_their_json(tmp_path: Path):
    rules = '[{"tag":{"group":"0008","element":"0060"},"pattern":"^(SR|US)$$","should_match":true}]'
    found = of_file(tmp_path, f"DICOM_FILTERS={rules}\nMILVUE_AET=A$B\n")
    assert found.DICOM_FILTERS[0].pattern == "^(SR|US)$"
    assert found.MILVUE_AET == "A$B"


def test_an_empty_variable_of_the_environment_takes_the_files_value_away(tmp_path: Path):
    assert of_file(tmp_path, "PORT=1041", {"PORT": ""}).PORT == 1040


@pytest.mark.parametrize(
    ("in_file", "name"),
    [
        ("PACSOR_LOG_LEVEL=info", "LOG_LEVEL"),
        ("LOG_LEVEL=info", "PACSOR_LOG_LEVEL"),
    ],
)
def test_the_environment_wins_over_the_file_by_whatever_name(
    tmp_path: Path, in_file: str, name: str
):
    assert of_file(tmp_path, in_file, {name: "error"}).PACSOR_LOG_LEVEL == "error"


def test_of_two_names_for_one_setting_todays_counts():
    found = load({**REQUIRED, "SEN_APP": "OLD", "SENDING_APPLICATION": "NEW"}, None)
    assert found.SENDING_APPLICATION == "NEW"


@pytest.mark.parametrize(
    ("name", "value", "setting", "read"),
    [
        ("LOG_LEVEL", "WARN", "PACSOR_LOG_LEVEL", "warn"),
        ("PACSOR_LOG_LEVEL", "DEBUG", "PACSOR_LOG_LEVEL", "debug"),
        ("HL7_LANG", "fr", "HL7_LANGUAGE", "FR"),
        ("REPORT_FORMAT", "b64", "TECHCARE_REPORT_FORMAT", "B64"),
        ("LOG_FORMAT", "JSON", "LOG_FORMAT", "json"),
        ("DUPLICATE_POLICY", "Replace", "DUPLICATE_POLICY", "replace"),
    ],
)
def test_words_may_be_in_capitals_or_not(name: str, value: str, setting: str, read: str):
    assert getattr(load({**REQUIRED, name: value}, None), setting) == read


def test_three_cores_have_three_tokens():
    found = load(
        {
            **REQUIRED,
            "ADDITIONAL_CORES": "core1,core2",
            "API_URL_1": "http://one",
            "TOKEN_1": "k1",
            "API_URL_2": "http://two",
            "TOKEN_2": "k2",
        },
        None,
    )
    tokens = [core.token.get_secret_value() for core in found.cores.values()]
    assert tokens == ["key", "k1", "k2"]


def test_the_second_core_of_before_is_core1_of_today():
    found, warnings = load_with_warnings(
        {**REQUIRED, "ADDITIONAL_CORES": "core1", "INTEGRATOR_URL_2": "http://one", "TOKEN_2": "k"},
        None,
    )
    assert found.cores["core1"].api_url == "http://one"
    assert found.cores["core1"].token.get_secret_value() == "k"
    assert warnings == [
        "INTEGRATOR_URL_2 is an old name: write API_URL_1",
        "TOKEN_2 is an old name: write TOKEN_1",
    ]


@pytest.mark.parametrize("command", ["a/b", "..", "hl7", "x" * 65, "smart urgences", "été"])
def test_a_command_that_cannot_be_a_directory_is_refused_at_start(command: str):
    with pytest.raises(ConfigError, match="INFERENCE_COMMANDS"):
        load({**REQUIRED, "INFERENCE_COMMANDS": f"smarturgences,{command}"}, None)
    with pytest.raises(ConfigError, match="INFERENCE_COMMANDS_1"):
        load(
            {
                **REQUIRED,
                "ADDITIONAL_CORES": "core1",
                "API_URL_1": "http://one",
                "TOKEN_1": "k1",
                "INFERENCE_COMMANDS_1": command,
            },
            None,
        )

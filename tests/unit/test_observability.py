"""What a log line looks like, and what never gets into one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from pacsor_tasks.observability import MASK, configure_logging, redact


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_utc_time_level_logger_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "json")
    structlog.get_logger("pacsor_tasks.x").info("upload.sent", n_instances=3)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == (
        "upload.sent",
        "info",
        "pacsor_tasks.x",
    )
    assert line["n_instances"] == 3
    assert line["timestamp"].endswith("Z")


def test_bound_ids_are_on_the_lines_of_libraries_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    with structlog.contextvars.bound_contextvars(study_uid="1.2.3", run_id="r"):
        logging.getLogger("some.library").warning("peer said %s", "no")
    (line,) = lines(capsys)
    assert (line["event"], line["study_uid"], line["run_id"]) == ("peer said no", "1.2.3", "r")


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_the_level_is_the_least_severe_line_written(
    level: str, seen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, "json")
    log = structlog.get_logger("x")
    for say in (log.debug, log.info, log.warning, log.error):
        say("a.b")
    assert len(lines(capsys)) == seen


def test_the_dicom_libraries_only_warn_even_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    logging.getLogger("pynetdicom.acse").info("PatientName: DOE^JANE")
    logging.getLogger("pydicom").debug("0010,0010 DOE^JANE")
    logging.getLogger("pydicom").warning("Invalid value for VR PN: 'DOE^JANE'")
    assert lines(capsys) == []


@pytest.mark.parametrize(("level", "seen"), [("debug", 1), ("info", 0)])
def test_the_life_of_every_task_is_told_only_at_debug(
    level: str, seen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, "json")
    logging.getLogger("celery.app.trace").info("Task pacsor.reconcile[1] succeeded in 0.01s")
    assert len(lines(capsys)) == seen


@pytest.mark.parametrize(
    "key",
    ["patient_name", "PatientName", "patient-id", "birth_date", "AccessionNumber", "token",
     "Authorization", "password", "ADMIN_TOKEN", "x-api-key", "FLOWER_BASIC_AUTH"],
)  # fmt: skip
def test_fields_with_patient_data_or_secrets_are_masked(key: str) -> None:
    assert redact(None, "info", {"event": "e", key: "DOE"}) == {"event": "e", key: MASK}
    assert redact(None, "info", {"headers": [{key: "DOE"}]}) == {"headers": [{key: MASK}]}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0"),
        ("postgresql+psycopg://u:pw@db/x", "postgresql+psycopg://u:***@db/x"),
        ("PUT https://s/o?X-Goog-Signature=abc&x=1", "PUT https://s/o?X-Goog-Signature=***&x=1"),
        ("http://127.0.0.1:7000/a:b", "http://127.0.0.1:7000/a:b"),
    ],
)
def test_secrets_inside_urls_are_masked(text: str, masked: str) -> None:
    assert redact(None, "info", {"event": text})["event"] == masked


def test_a_traceback_is_text_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    patient = "DOE^JANE"
    try:
        int(patient[:0])
    except ValueError:
        structlog.get_logger("x").exception("step.failed")
    (line,) = lines(capsys)
    assert "ValueError: invalid literal" in line["exception"]
    assert "DOE" not in json.dumps(line)


def test_a_warning_of_a_dicom_library_does_not_quote_the_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit(
            "Invalid value for VR PN: 'DOE^JANE'", UserWarning, "/x/pydicom/valuerep.py", 440
        )
        warnings.warn_explicit("old call", DeprecationWarning, "/x/celery/a.py", 1)
    first, second = lines(capsys)
    assert first["event"] == "/x/pydicom/valuerep.py:440: UserWarning"
    assert "old call" in second["event"]


def test_console_lines_cannot_carry_a_peers_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", "console")
    structlog.get_logger("x").info("association.rejected", calling_aet="A\x1b[2Jb")
    err = capsys.readouterr().err
    assert "association.rejected" in err
    assert "\x1b" not in err


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    configure_logging("info", "json")
    structlog.get_logger("x").info("a.b")
    assert len(lines(capsys)) == 1


def test_a_value_json_does_not_know_is_written_as_text() -> None:
    code = (
        "import structlog, pathlib; from pacsor_tasks.observability import configure_logging;"
        "configure_logging(); structlog.get_logger().info('a', path=pathlib.Path('/x'), b=b'1')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["path"] == "/x"

"""`pacsor demo` as a user runs it, and how it judges what arrived."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pacsor_tasks.demo.play import report
from pacsor_tasks.demo.stage import Stage, build_stage
from tests.support.gateway import PACSOR
from tests.support.net import wait_until
from tests.support.radiographs import radiographs

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("gateway")]


def environment(tmp_path: Path) -> dict[str, str]:
    # A real site's settings, in the environment and in `.env`: the demo must not touch that site.
    (tmp_path / ".env").write_text(
        "PACS_IP=10.255.255.1\nDICOM_FILTERS=[]\nADDITIONAL_CORES=core1\n"
    )
    site = {"API_URL": "https://real.example.org", "BROKER_URL": "redis://10.255.255.1/0"}
    return {**os.environ, **site, "TMPDIR": str(tmp_path), "PACS_IP_2": "10.255.255.2"}


def test_every_delivery_is_made_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [PACSOR, "demo"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every delivery was made" in done.stdout
    assert done.stdout.count("delivery.delivered") == 6  # as it went, and in the timeline
    assert "\x1b" not in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


def test_a_users_own_archive_is_kept_running_until_ctrl_c(tmp_path: Path) -> None:
    (own := tmp_path / "own").mkdir()
    for path in radiographs("RG1_J2KI", "RG3_J2KI"):
        (own / path.name).symlink_to(path)
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [PACSOR, "demo", "--keep", "--dicom", str(own)],
            cwd=tmp_path,
            env=environment(tmp_path) | {"PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with process:
        try:
            wait_until(lambda: "Ctrl-C ends it" in (tmp_path / "out").read_text(), 150, 0.2)
            everything = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert "2 instances sent to" in (tmp_path / "out").read_text()
    assert not [p for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


UID = "1.2.3"


def a_study(stage: Stage, **changes: Any) -> dict[str, Any]:
    """A study that every destination took, as its delivery records and journals have it."""
    journals = stage.journals
    for name in ("storescu", "storescu-2"):
        stored = {"kind": "store", "study_uid": UID, "status": 0, "sop_instance_uid": "1.2.3.4"}
        journals[name].write_text(json.dumps(stored) + "\n")
    message = {"kind": "message", "control_id": "M1", "answer": "AA"}
    journals["hl7"].write_text(json.dumps(message) + "\n")
    common = {"state": "delivered", "sent": 1, "total": 1, "error": None, "waiting_for": None}
    deliveries = [
        {**common, "destination": name, "kind": kind, "control_id": control_id}
        for name, kind, control_id in (
            ("hl7", "hl7", "M1"), ("storescu", "storescu", None), ("storescu-2", "storescu", None),
        )
    ]  # fmt: skip
    run = {"state": "done", "error": None, "waiting_for": None, "deliveries": deliveries}
    return {"study_instance_uid": UID, "events": [], "runs": [{**run, **changes}]}


def judged(stage: Stage, study: dict[str, Any] | None) -> tuple[bool, str]:
    output = io.StringIO()
    is_well = report(stage, {UID: study}, Console(file=output, width=160))
    return is_well, output.getvalue()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return build_stage(tmp_path / "demo")


def test_what_every_destination_confirms_is_well(stage: Stage) -> None:
    is_well, said = judged(stage, a_study(stage))
    assert is_well
    assert "message M1 acknowledged (AA)" in said


def test_a_delivery_its_destination_does_not_know_is_missing(stage: Stage) -> None:
    study = a_study(stage)
    stage.journals["storescu-2"].write_text("")
    is_well, said = judged(stage, study)
    assert not is_well
    assert "missing: 1.2.3 at storescu-2: delivered, its journal does not have it" in said


def test_a_message_the_ris_refused_is_missing(stage: Stage) -> None:
    study = a_study(stage)
    stage.journals["hl7"].write_text('{"kind": "message", "control_id": "M1", "answer": "AE"}\n')
    assert not judged(stage, study)[0]


def test_a_destination_without_a_delivery_is_missing(stage: Stage) -> None:
    study = a_study(stage)
    del study["runs"][0]["deliveries"][1]
    assert "missing: 1.2.3 at storescu: no delivery" in judged(stage, study)[1]


def test_a_run_that_is_not_done_is_missing_with_its_reason(stage: Stage) -> None:
    is_well, said = judged(stage, a_study(stage, state="failed", error="no token"))
    assert not is_well
    assert "the run is failed: no token" in said


def test_a_study_the_ledger_never_saw_is_missing(stage: Stage) -> None:
    assert judged(stage, None)[0] is False


def test_the_stage_uses_nothing_of_a_sites_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BROKER_URL", "LEDGER_URL", "PACS_IP_2", "SEN_APP", "FLOWER_PORT", "DICOM_FILTER"):
        monkeypatch.setenv(name, "site")
    monkeypatch.setenv("HTTP_PROXY", "http://10.255.255.1:3128")
    stage = build_stage(tmp_path / "demo")
    assert "site" not in stage.environment.values()
    assert stage.settings.BROKER_URL is None
    ports = {stage.settings.PORT, stage.settings.ADMIN_PORT, stage.settings.FLOWER_PORT}
    assert len(ports) == 3
    assert sys.executable in stage.simulators()[0].command

"""A gateway as its user runs it, among peers that were not written here (but for the AI).

One gateway serves all tests of this file: dcmtk sends to it and receives from it, the RIS is the
`hl7` package's server. Only the AI service is the simulator, over real HTTP.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from pydicom import dcmread
from pydicom.uid import generate_uid

from pacsor_tasks.dicom.scu import Pacs
from simulators.milvue import MilvueSimulator
from tests.support.dcmtk import storescu
from tests.support.gateway import Gateway, gateway
from tests.support.mllp_peers import Ris, hl7_package_server
from tests.support.net import wait_until
from tests.support.pacs_peers import received, storescp
from tests.support.peers import require_program
from tests.support.studies import make_study, study_uid_of

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("gateway")]

NAME, PATIENT_ID, ACCESSION = "ZORGLUB^Ysaline", "PID-94173", "ACC-58201"


@dataclass
class Site:
    """The gateway and who is around it."""

    gateway: Gateway
    api: MilvueSimulator
    pacs: Pacs
    pacs_dir: Path
    second_dir: Path
    ris: Ris
    tmp: Path

    def send(self, n: int = 2, **attributes: str) -> tuple[str, list[Path]]:
        """A new study by dcmtk's storescu; its UID and files."""
        identity = {"PatientName": NAME, "PatientID": PATIENT_ID, "AccessionNumber": ACCESSION}
        files = make_study(
            self.tmp / generate_uid()[-12:], n, side=64, **{**identity, **attributes}
        )
        storescu(self.gateway.port, *files)
        return study_uid_of(files), files

    def at_pacs(self, study_uid: str, directory: Path | None = None) -> list[Path]:
        """What the PACS holds of a study."""
        held = received(directory or self.pacs_dir).values()
        return [p for p in held if dcmread(p).StudyInstanceUID == study_uid]

    def messages(self, study_uid: str) -> list[str]:
        """The messages of a study at the RIS."""
        return [m.decode() for m in self.ris.received() if study_uid.encode() in m]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tmp = tmp_path_factory.mktemp("site")
    for name in ("gw", "pacs", "second"):
        (tmp / name).mkdir()
    with (
        MilvueSimulator(token="key", running_times=1) as api,
        storescp(tmp / "pacs", "+xa") as pacs,
        storescp(tmp / "second", "+x=") as second,  # takes uncompressed only
        hl7_package_server() as ris,
    ):
        environment = {
            "API_URL": api.url, "TOKEN": "key",
            "PACS_IP": "127.0.0.1", "PACS_PORT": str(pacs.port), "PACS_AET": "PACS",
            "PACS_IP_2": "127.0.0.1", "PACS_PORT_2": str(second.port), "PACS_AET_2": "SECOND",
            "RIS_HOST_IP": "127.0.0.1", "RIS_HOST_PORT": str(ris.port),
            "RECEIVING_APPLICATION": "RIS", "RECEIVING_FACILITY": "SITE",
            "CALLBACK_URLS": "http://storescu:8000,http://storescu-2:8000, http://hl7:8000",
            "POLL_INTERVAL": "0.5", "RETRY_MAX_DELAY": "3",
        }  # fmt: skip
        with gateway(tmp / "gw", environment) as running:
            yield Site(running, api, pacs, tmp / "pacs", tmp / "second", ris, tmp)


def states(study: dict[str, Any], run: int = 0) -> dict[str, str]:
    """Delivery states of a run, the latest first."""
    return {d["destination"]: d["state"] for d in study["runs"][run]["deliveries"]}


def test_a_study_goes_in_by_c_store_and_its_results_reach_both_pacs_and_the_ris(site: Site):
    study_uid, files = site.send(3)
    study = site.gateway.ended(study_uid)
    assert study["runs"][0]["state"] == "done", study
    assert set(states(study).values()) == {"delivered"}
    for file in files:
        assert site.api.journal.uploads(str(dcmread(file).SOPInstanceUID)) == 1
    first, second = site.at_pacs(study_uid), site.at_pacs(study_uid, site.second_dir)
    assert len(first) == len(second) == study["runs"][0]["deliveries"][1]["total"] > 0
    for path in first:
        result = dcmread(path)
        assert (result.PatientID, result.AccessionNumber) == (PATIENT_ID, ACCESSION)
    (message,) = site.messages(study_uid)
    segments = message.split("\r")
    assert [s[:3] for s in segments if s] == ["MSH", "PID", "ORC", "OBR", "ZDS", "OBX", "OBX"]
    assert f"|{PATIENT_ID}^^^MILVUE^PI|" in segments[1]
    assert segments[3].startswith(f"OBR|1||{ACCESSION}|^Milvue findings|||")
    assert segments[4] == f"ZDS|{study_uid}^milvue^Application^DICOM|"


def test_what_leaves_the_gateway_is_as_the_ai_sent_it(site: Site):
    checker = require_program("dciodvfy")
    study_uid, _ = site.send(1)
    site.gateway.ended(study_uid)
    for path in site.at_pacs(study_uid):
        said = subprocess.run([checker, path], capture_output=True, text=True, check=False)
        result = dcmread(path)
        is_copy = result.Modality == "DX"  # of our own incomplete DX image, errors and all
        assert is_copy or "Error" not in said.stderr, said.stderr
        assert str(result.file_meta.MediaStorageSOPInstanceUID) == str(result.SOPInstanceUID)


def test_the_same_study_again_is_neither_uploaded_nor_delivered_twice(site: Site):
    study_uid, files = site.send(2)
    site.gateway.ended(study_uid)
    before = len(site.messages(study_uid))
    storescu(site.gateway.port, *files)
    wait_until(lambda: len(site.gateway.study(study_uid)["revisions"]) == 2, 20)  # type: ignore[index]
    study = site.gateway.study(study_uid)
    assert study is not None
    assert len(study["runs"]) == 1
    assert study["revisions"][1]["instances"] == 0
    assert all(site.api.journal.uploads(str(dcmread(f).SOPInstanceUID)) == 1 for f in files)
    assert len(site.messages(study_uid)) == before == 1


def test_late_instances_make_a_second_revision_with_only_what_is_new(site: Site):
    study_uid, files = site.send(2)
    site.gateway.ended(study_uid)
    late = make_study(site.tmp / "late", 1, StudyInstanceUID=study_uid, PatientName=NAME,
                      PatientID=PATIENT_ID, AccessionNumber=ACCESSION)  # fmt: skip
    storescu(site.gateway.port, *late, files[0])
    study = site.gateway.ended(study_uid, runs=2)
    assert [(r["number"], r["instances"]) for r in study["revisions"]] == [(1, 2), (2, 1)]
    assert [r["state"] for r in study["runs"]] == ["done", "done"]
    for file in (*files, *late):
        assert site.api.journal.uploads(str(dcmread(file).SOPInstanceUID)) == 1


@pytest.mark.parametrize("door", ["celery", "pacsor", "http", "http as PACSOR"])
def test_a_study_is_relaunched_by_every_door(site: Site, door: str):
    study_uid, files = site.send(1)
    site.gateway.ended(study_uid)
    if door == "http":
        answer = requests.post(f"{site.gateway.url}/relaunch/{study_uid}", timeout=10)
        assert answer.status_code == 202
        assert len(answer.json()["run_ids"]) == 1
    elif door == "http as PACSOR":
        answer = requests.get(f"{site.gateway.url}/relaunch/{study_uid}", timeout=10)
        assert answer.status_code == 202
    elif door == "pacsor":
        done = site.gateway.run("pacsor", "relaunch", study_uid)
        assert done.returncode == 0, done.stderr
    else:
        args = f'["{study_uid}"]'
        done = site.gateway.run(
            "celery", "-A", "pacsor_tasks", "call", "pacsor.relaunch", "--args", args
        )
        assert done.returncode == 0, done.stderr
    study = site.gateway.ended(study_uid, runs=2)
    assert [r["relaunched"] for r in study["runs"]] == [True, False]
    assert study["runs"][0]["state"] == "done"
    assert site.api.journal.uploads(str(dcmread(files[0]).SOPInstanceUID)) == 2
    assert len(site.messages(study_uid)) == 2


@pytest.mark.parametrize("door", ["celery", "http"])
def test_for_one_destination_only_that_one_gets_the_results_again(site: Site, door: str):
    study_uid, files = site.send(1)
    site.gateway.ended(study_uid)
    held = {p.name: p.stat().st_mtime_ns for p in site.at_pacs(study_uid)}
    second = {p.name: p.stat().st_mtime_ns for p in site.at_pacs(study_uid, site.second_dir)}
    if door == "celery":
        wish = f'{{"study_uid": "{study_uid}", "only": "storescu-2", "by": "Ada"}}'
        done = site.gateway.run(
            "celery", "-A", "pacsor_tasks", "call", "pacsor.relaunch", "--kwargs", wish
        )
        assert done.returncode == 0, done.stderr
    else:
        url = f"{site.gateway.url}/relaunch/{study_uid}"
        refused = requests.post(f"{url}?from=deliver", timeout=10)
        assert refused.status_code == 409
        assert "from download would do" in refused.json()["detail"]
        wanted = {"from": "download", "only": "storescu-2", "by": "Ada"}
        assert requests.post(url, json=wanted, timeout=10).status_code == 202
    study = site.gateway.ended(study_uid, runs=2)
    assert states(study) == {"storescu-2": "delivered"}
    assert (study["runs"][0]["from"], study["runs"][0]["only"]) == ("download", "storescu-2")
    assert site.api.journal.uploads(str(dcmread(files[0]).SOPInstanceUID)) == 1
    assert len(site.messages(study_uid)) == 1
    assert {p.name: p.stat().st_mtime_ns for p in site.at_pacs(study_uid)} == held
    again = site.at_pacs(study_uid, site.second_dir)
    assert {p.name for p in again} == set(second)
    assert any(p.stat().st_mtime_ns > second[p.name] for p in again)
    assert "Ada" in {e["by"] for e in study["events"]}


def test_an_unknown_study_cannot_be_relaunched(site: Site):
    assert requests.post(f"{site.gateway.url}/relaunch/9.9.9", timeout=10).status_code == 404
    done = site.gateway.run("pacsor", "relaunch", "9.9.9")
    assert done.returncode == 1
    assert "never received" in done.stdout + done.stderr


def test_results_of_another_patient_are_delivered_nowhere(site: Site):
    files = make_study(site.tmp / "wrong", 1, PatientID=PATIENT_ID)
    study_uid = study_uid_of(files)
    site.api.switches.set(study_uid=study_uid, wrong_patient_id=True)
    storescu(site.gateway.port, *files)
    study = site.gateway.ended(study_uid)
    run = study["runs"][0]
    assert run["state"] == "failed"
    assert "PatientID differs" in run["error"]
    assert PATIENT_ID not in run["error"]
    assert set(states(study).values()) == {"skipped"}
    assert site.at_pacs(study_uid) == []
    assert site.messages(study_uid) == []


def test_a_worker_killed_while_it_uploads_delays_the_study_and_repeats_nothing(site: Site):
    files = make_study(site.tmp / "killed", 4, PatientID=PATIENT_ID, PatientName=NAME)
    study_uid = study_uid_of(files)
    site.api.switches.set(study_uid=study_uid, operation="put", delay_s=0.7)
    storescu(site.gateway.port, *files)

    def uploading() -> psutil.Process | None:
        study = site.gateway.study(study_uid)
        if not study or study["runs"][0]["state"] != "uploading":
            return None
        return next(p for p in site.gateway.processes() if "worker@%h" in p.cmdline())

    worker = wait_until(uploading, 20)
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    study = site.gateway.ended(study_uid, timeout_s=60)
    assert study["runs"][0]["state"] == "done", study
    assert len(site.messages(study_uid)) == 1
    # An instance that was on its way when the worker died may arrive a second time, no other.
    repeated = [f for f in files if site.api.journal.uploads(str(dcmread(f).SOPInstanceUID)) > 1]
    assert len(repeated) <= 4


def test_no_patient_data_is_in_redis_logs_metrics_or_flower(site: Site):
    study_uid, _ = site.send(2)
    site.gateway.ended(study_uid)
    flower = f"http://127.0.0.1:{site.gateway.environment['FLOWER_PORT']}"
    places = {
        "log": site.gateway.log.read_bytes(),
        "metrics": requests.get(f"{site.gateway.url}/metrics", timeout=10).content,
        "page": requests.get(f"{site.gateway.url}/studies/{study_uid}", timeout=10).content,
        "flower": requests.get(f"{flower}/tasks", timeout=10).content,
    }
    data = site.gateway.directory / "data"
    for path in [*data.glob("redis/**/*"), *data.glob("ledger*"), *data.glob("flower/**/*")]:
        if path.is_file():
            places[path.name] = path.read_bytes()
    assert any("aof" in name for name in places)
    assert study_uid.encode() in places["log"]
    for word in (b"ZORGLUB", b"Ysaline", PATIENT_ID.encode(), ACCESSION.encode(), b"19700101"):
        assert [name for name, content in places.items() if word in content] == []


def test_all_instances_filtered_means_no_call_and_no_delivery(tmp_path: Path):
    with MilvueSimulator(token="key") as api:
        rule = (
            '[{"tag":{"group":"0010","element":"0010"},"pattern":"^TEST.*","should_match":false}]'
        )
        environment = {
            "API_URL": api.url, "TOKEN": "key", "DICOM_FILTERS": rule, "SIGNED_URL": "false",
            "PACS_IP": "127.0.0.1", "PACS_PORT": "9", "PACS_AET": "PACS",
        }  # fmt: skip
        with gateway(tmp_path, environment) as running:
            files = make_study(tmp_path / "s", 2, PatientName="TEST^FILTER")
            storescu(running.port, *files)
            study = running.ended(study_uid_of(files))
            assert study["runs"][0]["state"] == "filtered"
            assert "(0010,0010)" in study["runs"][0]["error"]
            (why,) = study["runs"][0]["left_out"]
            assert (why["rule"], why["tag"], why["instances"]) == (1, "(0010,0010)", 2)
            explained = running.run("pacsor", "filter", "--explain", *map(str, files))
            assert explained.stdout.count(why["reason"]) == 4  # why, and among all rules
            assert "FILTER" not in study["runs"][0]["error"].replace("DICOM_FILTERS", "")
            assert states(study) == {"storescu": "skipped"}
            assert api.journal.summary()["posts"] == {}

            mixed = make_study(tmp_path / "m", 1, PatientName="REAL^ONE")
            storescu(running.port, *mixed)
            dead = study_uid_of(mixed)
            wait_until(lambda: _retrying(running, dead), 30)
            everything = running.processes()
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < 15
            assert [p for p in everything if p.is_running()] == []
            # Started again on a PACS that is there now, the delivery goes on where it was.
            (tmp_path / "pacs").mkdir()
            with storescp(tmp_path / "pacs", "+xa") as pacs:
                running.environment["PACS_PORT"] = str(pacs.port)
                running.start()
                assert running.ended(dead)["runs"][0]["state"] == "done"
            assert len(received(tmp_path / "pacs")) > 0


def _retrying(running: Gateway, study_uid: str) -> bool:
    study = running.study(study_uid)
    return bool(study) and states(study) == {"storescu": "retrying"}  # type: ignore[arg-type]

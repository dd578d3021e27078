"""The simulated AI service over real HTTP: status, results in every shape, findings, control."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread

from simulators.milvue import MilvueSimulator
from tests.support.peers import require_program
from tests.support.radiographs import radiographs
from tests.support.simulators import (
    HEADERS,
    KEY,
    datasets,
    get,
    parts,
    payload,
    upload,
)
from tests.support.studies import make_study

COPIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@pytest.fixture(scope="module")
def simulator() -> Iterator[MilvueSimulator]:
    with MilvueSimulator(token=KEY, running_times=0) as running:
        yield running


@pytest.fixture
def api(simulator: MilvueSimulator) -> MilvueSimulator:
    simulator.reset()
    return simulator


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 2, PatientName="LEGRAND^Anaïs")


@pytest.fixture
def uid(api: MilvueSimulator, files: list[Path]) -> str:
    return upload(api, files)


def results(
    api: MilvueSimulator, uid: str, command: str = "smarturgences", accept: str = "*/*", **more: Any
) -> requests.Response:
    query = "".join(f"&{name}={value}" for name, value in more.items())
    return get(api, f"/v3/studies/{uid}?inference_command={command}{query}", accept)


def test_the_status_goes_from_unknown_over_running_to_done(
    api: MilvueSimulator, files: list[Path]
) -> None:
    api.switches.set(not_found_times=1, running_times=2)
    uid = upload(api, files)
    answers = [get(api, f"/v3/studies/{uid}/status") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [404, 200, 200, 200, 200]
    statuses = [answer.json().get("status") for answer in answers]
    assert statuses == [None, "running", "running", "done", "done"]
    polls = api.journal.polls(uid)
    assert [poll["answer"] for poll in polls] == ["not_found", *statuses[1:]]
    assert [poll["at"] for poll in polls] == sorted(poll["at"] for poll in polls)


def test_a_prediction_can_end_in_an_error(api: MilvueSimulator, uid: str) -> None:
    api.switches.set(outcome="error", status_message="no body part found", study_uid=uid)
    answer = get(api, f"/v3/studies/{uid}/status").json()
    assert (answer["status"], answer["message"]) == ("error", "no body part found")
    assert results(api, uid).status_code == 400


def test_results_are_dicom_of_the_same_patient_and_study(
    api: MilvueSimulator, uid: str, files: list[Path]
) -> None:
    source = dcmread(files[0])
    found = datasets(results(api, uid))
    assert len(found) == 3  # a recap per image, and a copy
    for result in found:
        for keyword in COPIED:
            assert result[keyword].value == source[keyword].value, keyword
        assert result.SeriesInstanceUID != source.SeriesInstanceUID
        assert result.pixel_array.size
    assert [str(r.SOPClassUID.name) for r in found] == [
        "Secondary Capture Image Storage",
        "Secondary Capture Image Storage",
        "Digital X-Ray Image Storage - For Presentation",
    ]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "LEGRAND^Anaïs"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 144", "Щукин^Юля"),
    ],
)
def test_names_keep_their_bytes_in_every_character_set(
    api: MilvueSimulator, tmp_path: Path, charset: str, name: str
) -> None:
    files = make_study(tmp_path, 1, SpecificCharacterSet=charset, PatientName=name)
    for found in datasets(results(api, upload(api, files))):
        assert found.PatientName == name


def test_a_second_download_brings_the_same_instances_and_another_command_others(
    api: MilvueSimulator, uid: str
) -> None:
    first, second = ([ds.SOPInstanceUID for ds in datasets(results(api, uid))] for _ in range(2))
    other = [ds.SOPInstanceUID for ds in datasets(results(api, uid, "smartxpert"))]
    assert first == second
    assert len(set(first) | set(other)) == 6


def test_the_copy_of_a_compressed_image_stays_compressed(api: MilvueSimulator) -> None:
    (file,) = radiographs("RG3_J2KR")
    source = dcmread(file)
    copy = datasets(results(api, upload(api, [file]), output_selection="no_recap"))[0]
    assert copy.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert copy.PixelData == source.PixelData
    assert copy.SOPInstanceUID != source.SOPInstanceUID


def test_nothing_is_wrong_with_the_results(api: MilvueSimulator, uid: str, tmp_path: Path) -> None:
    dciodvfy = require_program("dciodvfy")
    api.switches.set(structured_report=True, copies=0)
    for number, part in enumerate(parts(results(api, uid))):
        file = tmp_path / f"{number}.dcm"
        file.write_bytes(payload(part))
        done = subprocess.run([dciodvfy, file], check=False, capture_output=True, text=True)
        assert "Error" not in done.stdout + done.stderr, done.stderr


def test_a_structured_report_can_be_read(api: MilvueSimulator, uid: str, tmp_path: Path) -> None:
    dsrdump = require_program("dsrdump")
    answer = results(api, uid, structured_report_format="lite", output_selection="none")
    (tmp_path / "sr.dcm").write_bytes(payload(parts(answer)[0]))
    done = subprocess.run(
        [dsrdump, tmp_path / "sr.dcm"], check=True, capture_output=True, text=True
    )
    assert "Fracture : YES" in done.stdout


def test_gzip_parts_hold_the_same_files(api: MilvueSimulator, uid: str) -> None:
    plain = [payload(part) for part in parts(results(api, uid))]
    api.switches.set(e3_shape="dicom+gzip")
    answer = parts(results(api, uid))
    assert {part.get_content_type() for part in answer} == {"application/dicom+gzip"}
    assert [gzip.decompress(payload(part)) for part in answer] == plain


@pytest.mark.parametrize(("length", "size"), [(32, 38), (16, 22)])
def test_no_results_are_only_a_closing_delimiter(
    api: MilvueSimulator, uid: str, length: int, size: int
) -> None:
    api.switches.set(e3_shape="empty", boundary_length=length)
    answer = results(api, uid)
    assert (answer.status_code, len(answer.content)) == (200, size)
    assert answer.headers["content-type"].startswith("multipart/related")


@pytest.mark.parametrize(
    ("shape", "status"),
    [
        ("running", "running"),
        ("forbidden", "forbidden"),
        ("status_empty", "empty"),
        ("status_done", "done"),
    ],
)
def test_a_json_status_is_raw_for_who_accepts_it_and_wrapped_for_others(
    api: MilvueSimulator, uid: str, shape: str, status: str
) -> None:
    api.switches.set(e3_shape=shape)
    raw = results(api, uid, accept="multipart/related, application/json")
    assert raw.headers["content-type"] == "application/json"
    assert raw.json()["status"] == status
    (part,) = parts(results(api, uid))
    assert part.get_content_type() == "application/json"
    assert payload(part) == raw.content
    api.switches.set(json_wrapping="raw")
    assert results(api, uid).json() == raw.json()


def test_one_command_can_be_forbidden(api: MilvueSimulator, uid: str) -> None:
    api.switches.set(e3_shape="forbidden", findings="forbidden", command="smartxpert")
    assert results(api, uid, "smartxpert", "application/json").json()["status"] == "forbidden"
    assert get(api, f"/v3/smartxpert/{uid}").json()["status"] == "forbidden"
    assert len(datasets(results(api, uid))) == 3
    assert get(api, f"/v3/smarturgences/{uid}").json()["status"] == "done"


def test_results_can_lag_behind_the_status(api: MilvueSimulator, uid: str) -> None:
    api.switches.set(e3_running_times=1)
    assert get(api, f"/v3/studies/{uid}/status").json()["status"] == "done"
    answers = [results(api, uid, accept="application/json") for _ in range(2)]
    assert answers[0].json()["status"] == "running"
    assert answers[1].headers["content-type"].startswith("multipart/related")


@pytest.mark.parametrize("status", [400, 500])
def test_a_rendering_that_failed(api: MilvueSimulator, uid: str, status: int) -> None:
    api.switches.set(e3_shape="formatting_error", formatting_status=status)
    answer = results(api, uid)
    assert (answer.status_code, answer.json()) == (status, {"message": "Error formatting study"})


def test_answers_that_are_not_what_they_should_be(api: MilvueSimulator, uid: str) -> None:
    whole = results(api, uid).content
    api.switches.set(e3_shape="wrong_content_type", times=1)
    assert results(api, uid).headers["content-type"].startswith("text/html")
    api.switches.set(e3_shape="truncated", times=1)
    cut = results(api, uid)
    assert cut.status_code == 200
    assert 0 < len(cut.content) < len(whole)
    assert b"--\r\n" not in cut.content[-6:]
    api.switches.set(fault="reset", reset_after_bytes=20000, operation="results", times=1)
    with pytest.raises(requests.RequestException):
        results(api, uid)
    assert len(results(api, uid).content) == len(whole)


def test_results_of_another_study_or_patient_or_no_dicom_at_all(
    api: MilvueSimulator, uid: str, files: list[Path]
) -> None:
    api.switches.set(wrong_study_uid=True, wrong_patient_id=True, wrong_accession_number=True)
    for found in datasets(results(api, uid)):
        assert found.StudyInstanceUID != uid
        assert found.PatientID == "WRONG-PATIENT"
        assert found.AccessionNumber == "WRONG-ACCESSION"
    api.switches.clear()
    api.switches.set(unparsable=True, running_times=0)
    assert payload(parts(results(api, uid))[-1])[128:132] != b"DICM"


def test_duplicate_answers(api: MilvueSimulator, uid: str) -> None:
    api.switches.set(duplicate=True)
    uids = [ds.SOPInstanceUID for ds in datasets(results(api, uid))]
    assert (len(uids), len(set(uids))) == (6, 3)


def test_a_slow_body_arrives_whole(api: MilvueSimulator, uid: str) -> None:
    whole = datasets(results(api, uid))
    api.switches.set(slow_chunk_s=0.001, chunk_bytes=5000)
    assert len(datasets(results(api, uid))) == len(whole)


def test_signed_results_are_a_list_of_urls_on_the_storage(api: MilvueSimulator, uid: str) -> None:
    direct = [payload(part) for part in parts(results(api, uid))]
    urls = results(api, uid, signed_url="true").json()["signed_urls"]
    assert all(url.startswith(f"http://127.0.0.1:{api.storage_port}/") for url in urls)
    files = [requests.get(url, headers=HEADERS, timeout=10) for url in urls]
    assert [file.content for file in files] == direct
    assert {file.headers["content-type"] for file in files} == {"application/dicom"}
    assert dcmread(BytesIO(files[0].content)).StudyInstanceUID == uid
    api.switches.set(expired=True, times=1)
    assert requests.get(urls[0], headers=HEADERS, timeout=10).status_code == 403
    assert len(api.journal.events("download", study_uid=uid)) == 4


@pytest.mark.parametrize(
    ("shape", "status", "n_urls"),
    [
        ("list", "done", 3),
        ("empty_list", "done", 0),
        ("absent", "done", None),
        ("list_running", "running", 3),
    ],
)
def test_signed_lists_of_every_kind(
    api: MilvueSimulator, uid: str, shape: str, status: str, n_urls: int | None
) -> None:
    api.switches.set(e3_signed=shape)
    answer = results(api, uid, signed_url="True").json()
    assert answer["status"] == status
    urls = answer.get("signed_urls")
    assert (None if urls is None else len(urls)) == n_urls


@pytest.mark.parametrize("command", ["smarturgences", "detection", "smartchest", "trauma"])
def test_detections_of_each_command(api: MilvueSimulator, uid: str, command: str) -> None:
    answer = get(api, f"/v3/{command}/{uid}?language=fr").json()
    assert answer["status"] == "done"
    assert answer["hl7"].startswith("Fracture : OUI\nLuxation : NON")
    assert len(answer["instances"]) == 2


@pytest.mark.parametrize("command", ["smartxpert", "measures"])
def test_measures_of_each_command(api: MilvueSimulator, uid: str, command: str) -> None:
    answer = get(api, f"/v3/{command}/{uid}").json()
    assert [len(instance["measures"]) for instance in answer["instances"]] == [2, 2]


def test_findings_that_run_are_forbidden_or_not_there(api: MilvueSimulator, uid: str) -> None:
    api.switches.set(findings_running_times=2)
    path = f"/v3/smarturgences/{uid}"
    assert [get(api, path).json()["status"] for _ in range(3)] == ["running", "running", "done"]
    api.switches.set(findings="forbidden", times=1)
    assert get(api, path).json()["status"] == "forbidden"
    api.switches.set(findings="not_found", times=1)
    assert get(api, path).status_code == 404
    assert get(api, "/v3/smarturgences/1.2.3").status_code == 404


def test_interesting_needs_a_known_study_in_its_path(api: MilvueSimulator, uid: str) -> None:
    def interesting(path: str) -> requests.Response:
        return requests.post(f"{api.url}/v3/interesting{path}", headers=HEADERS, timeout=10)

    assert interesting(f"/{uid}").json() == {}
    assert interesting("/1.2.3").status_code == 404
    assert interesting("").status_code == 404
    assert get(api, "/v3/interesting").status_code == 404
    assert get(api, f"/v3/interesting/{uid}").status_code == 405


def test_parameters_are_checked(api: MilvueSimulator, uid: str) -> None:
    assert get(api, f"/v3/studies/{uid}").status_code == 422
    assert results(api, uid, output_format="svg").status_code == 422
    assert results(api, uid, command="palmistry").status_code == 400
    assert results(api, uid, language="fr", recap_theme="dark", timezone="+2").status_code == 200


def test_the_control_api_sets_and_shows_switches(api: MilvueSimulator, uid: str) -> None:
    url = f"{api.url}/_simulator/switches"
    rule = {"fault": 503, "operation": "status", "times": 1}
    shown = requests.put(url, json=[rule, {"running_times": 4}], timeout=10).json()
    assert shown["rules"] == [rule]
    assert shown["values"]["running_times"] == 4
    assert get(api, f"/v3/studies/{uid}/status").status_code == 503
    assert requests.get(url, timeout=10).json()["rules"] == []
    bad = requests.put(url, json={"nonsense": 1}, timeout=10)
    assert (bad.status_code, "nonsense" in bad.json()["message"]) == (400, True)
    assert requests.delete(url, timeout=10).json()["values"]["running_times"] == 0


def test_the_control_api_shows_and_forgets_the_journal(api: MilvueSimulator, uid: str) -> None:
    get(api, f"/v3/studies/{uid}/status")
    url = f"{api.url}/_simulator/journal"
    journal = requests.get(url, timeout=10).json()
    assert list(journal["posts"].values()) == [1, 1]
    assert journal["tokens"] == {uid: [KEY]}
    host = journal["hosts"][f"127.0.0.1:{api.port}"]
    assert host["x-goog-meta-owner"] == KEY
    polls = requests.get(f"{url}?kind=status&study_uid={uid}", timeout=10).json()["events"]
    assert [poll["answer"] for poll in polls] == ["done"]
    assert requests.post(f"{api.url}/_simulator/reset", timeout=10).status_code == 200
    assert requests.get(url, timeout=10).json()["events"] == []
    assert get(api, f"/v3/studies/{uid}/status").status_code == 404
    assert requests.get(f"{api.url}/healthz", timeout=10).json() == {"status": "ok"}

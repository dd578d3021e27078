"""Multipart bodies in and out, predictions, and how a study goes on."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pacsor_tasks.errors import BadResponse
from simulators.milvue import predictions
from simulators.milvue.multipart import PartWriter, closer, new_boundary, write_parts
from simulators.milvue.predictions import LANGUAGES
from simulators.milvue.received import Received
from simulators.milvue.rendering import plan
from simulators.milvue.signing import Signer
from simulators.milvue.studies import Studies
from simulators.milvue.switches import MilvueSwitches
from tests.support.simulators import BOUNDARY, PYTHON_PART, TYPE, multipart


def image(uid: str = "1.2.3", pixel_length: int | None = 512, *, is_kept: bool = True) -> Received:
    return Received(
        path=Path(f"{uid}.dcm"),
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        study_uid="1.2",
        series_uid="1.2.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CR",
        pixel_offset=1000,
        pixel_length=pixel_length,
        copied={},
        is_kept=is_kept,
    )


def written(content_type: str, body: bytes, folder: Path, step: int = 7) -> list[bytes]:
    writer = PartWriter(content_type, folder)
    try:
        for start in range(0, len(body), step):
            writer.feed(body[start : start + step])
        return [part.path.read_bytes() for part in writer.close()]
    finally:
        writer.remove()


@pytest.mark.parametrize(
    "content_type",
    [
        f"multipart/related; boundary={BOUNDARY}",  # python client: no type
        f'multipart/related; boundary={BOUNDARY}; type="application/dicom"',  # Go client
        f'Multipart/Related; type=application/dicom; boundary="{BOUNDARY}"',  # quoted
        f"multipart/form-data; boundary={BOUNDARY}",  # curl without the header
    ],
)
@pytest.mark.parametrize("part_head", [TYPE, PYTHON_PART, ""])
def test_parts_are_read_however_they_are_announced(
    content_type: str, part_head: str, tmp_path: Path
) -> None:
    bodies = [b"one\r\n--not a boundary", b"", b"\x00\r\n--0123\r\n" * 50]
    assert written(content_type, multipart(bodies, part_head), tmp_path) == bodies
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/dicom", b"x"),  # no multipart
        ("multipart/related", b"x"),  # no boundary
        (f"multipart/related; boundary={BOUNDARY}", b""),  # nothing
        (f"multipart/related; boundary={BOUNDARY}", closer(BOUNDARY)),  # no part
        (f"multipart/related; boundary={BOUNDARY}", multipart([b"x"])[:-6]),  # cut short
        (f"multipart/related; boundary={BOUNDARY}", b"--other\r\n\r\nx\r\n--other--\r\n"),
        (f"multipart/related; boundary={'b' * 300}", b"x"),  # RFC 2046: 70 at most
    ],
)
def test_a_body_that_is_not_multipart_is_refused_and_leaves_nothing(
    content_type: str, body: bytes, tmp_path: Path
) -> None:
    with pytest.raises(BadResponse):
        written(content_type, body, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("length", "size"), [(32, 38), (1, 7), (70, 76), (33, 39)])
def test_no_results_are_a_lone_closing_delimiter(length: int, size: int) -> None:
    assert len(closer(new_boundary(length))) == size


async def _one(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _collect(*, gzipped: bool = False, truncate_part: int | None = None) -> bytes:
    async def bodies() -> AsyncIterator[AsyncIterator[bytes]]:
        yield _one(b"first", b" body")
        yield _one(b"second body")

    stream = write_parts(bodies(), BOUNDARY, gzip=gzipped, truncate_part=truncate_part)
    return b"".join([chunk async for chunk in stream])


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    body = asyncio.run(_collect())
    content_type = f"multipart/related; boundary={BOUNDARY}"
    assert written(content_type, body, tmp_path) == [b"first body", b"second body"]


def test_gzip_parts_are_gzip_files(tmp_path: Path) -> None:
    body = asyncio.run(_collect(gzipped=True))
    parts = written(f"multipart/related; boundary={BOUNDARY}", body, tmp_path)
    assert [gzip.decompress(part) for part in parts] == [b"first body", b"second body"]
    assert b"Content-Type: application/dicom+gzip" in body


def test_a_truncated_body_ends_inside_its_last_part() -> None:
    body = asyncio.run(_collect(truncate_part=1))
    assert b"first body\r\n" in body
    assert body.endswith(b"secon")


def test_detections_have_every_field_in_six_languages() -> None:
    answer = predictions.detections("1.2", [image()], MilvueSwitches(), None)
    assert {"flag", "hl7", "findings", "instances", "report", "version"} <= set(answer)
    for finding in answer["findings"]:
        assert set(finding["translation"]) == set(LANGUAGES)
        assert 0 <= finding["score"] <= 1
    (instance,) = answer["instances"]
    assert {"SOPInstanceUID", "SeriesInstanceUID", "body_parts", "findings"} < set(instance)
    assert [box["value"] for box in instance["bounding_boxes"]] == ["fracture"]


@pytest.mark.parametrize(
    ("language", "text"), [(None, "Luxation : NON"), ("EN", "Dislocation : NO"), ("xx", ": YES")]
)
def test_the_hl7_text_is_in_the_language_asked_for(language: str | None, text: str) -> None:
    answer = predictions.detections("1.2", [image()], MilvueSwitches(), language)
    assert text in answer["hl7"]


def test_the_hl7_text_can_be_empty() -> None:
    answer = predictions.detections("1.2", [], MilvueSwitches(hl7_text=""), "fr")
    assert answer["hl7"] == ""


def test_an_angle_has_two_lines_and_a_length_one() -> None:
    (instance,) = predictions.measures("1.2", [image()], MilvueSwitches())["instances"]
    lines = {measure["type"]: len(measure["lines"]) for measure in instance["measures"]}
    assert lines == {"angle": 2, "length": 1}


@pytest.mark.parametrize(
    ("switches", "params", "kinds"),
    [
        ({}, {}, ["recap", "recap", "copy"]),  # the default
        ({"copies": 2, "recaps": 1}, {}, ["recap", "copy", "copy"]),
        ({}, {"output_selection": "no_recap"}, ["copy"]),
        ({}, {"output_selection": "none"}, []),
        ({"structured_report": True, "recaps": 0, "copies": 0}, {}, ["report"]),
        ({"recaps": 0, "copies": 0}, {"structured_report_format": "lite"}, ["report"]),
        ({"recaps": 0, "copies": 0, "unparsable": True}, {}, ["unparsable"]),
    ],
)
def test_the_results_follow_switches_and_parameters(
    switches: dict[str, object], params: dict[str, str], kinds: list[str]
) -> None:
    results = plan([image("1.1"), image("1.2")], MilvueSwitches.model_validate(switches), params)
    assert [result.kind for result in results] == kinds


def test_the_copy_is_of_a_compressed_image_when_there_is_one() -> None:
    instances = [image("1.1"), image("1.2", pixel_length=0xFFFFFFFF)]
    copy = plan(instances, MilvueSwitches(recaps=0), {})
    assert [result.source.sop_instance_uid for result in copy] == ["1.2"]


def test_what_was_not_kept_is_not_copied_and_what_has_no_pixels_has_no_recap() -> None:
    instances = [image("1.1", is_kept=False), image("1.2", pixel_length=None)]
    results = plan(instances, MilvueSwitches(), {})
    assert [(r.kind, r.source.sop_instance_uid) for r in results] == [("recap", "1.1")]


def test_a_study_runs_so_many_polls_then_is_done_and_a_new_upload_starts_again() -> None:
    studies, switches = Studies(), MilvueSwitches(running_times=2, not_found_times=1)
    assert studies.progress("1.2", switches) == "unknown"
    studies.add([image()])
    polls = [studies.progress("1.2", switches) for _ in range(5)]
    assert polls == ["unknown", "running", "running", "done", "done"]
    studies.add([image()])
    assert studies.progress("1.2", MilvueSwitches(running_times=1)) == "running"


def test_a_declared_study_starts_when_its_last_instance_is_whole() -> None:
    studies, switches = Studies(), MilvueSwitches(running_times=0, outcome="error")
    studies.declare([image("1.1", 0), image("1.2", 0)])
    assert studies.progress("1.2", switches) == "uploading"
    studies.add([image("1.1")])
    assert studies.progress("1.2", switches) == "uploading"
    studies.add([image("1.2")])
    assert studies.progress("1.2", switches) == "error"


def test_a_signed_url_is_good_for_its_path_and_its_time_only() -> None:
    signer = Signer()
    path = "/storage/upload/1.2/1.2.3"
    url = signer.sign("http://storage:1", path, 60)
    expires, signature = (pair.split("=")[1] for pair in url.split("?")[1].split("&"))
    assert signer.is_valid(path, expires, signature)
    assert not signer.is_valid(path + "4", expires, signature)
    assert not signer.is_valid(path, str(float(expires) + 1), signature)
    assert not Signer().is_valid(path, expires, signature)
    late = signer.sign("http://storage:1", path, 0)
    expires, signature = (pair.split("=")[1] for pair in late.split("?")[1].split("&"))
    assert not signer.is_valid(path, expires, signature)

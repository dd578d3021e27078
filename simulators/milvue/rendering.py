"""Which DICOM results a command gives for a study, and their bodies in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from simulators.milvue import dicom
from simulators.milvue.predictions import report_lines
from simulators.milvue.received import Received
from simulators.milvue.switches import MilvueSwitches

Kind = Literal["recap", "copy", "report", "unparsable"]


@dataclass(frozen=True, slots=True)
class Result:
    """One result to be made: from which instance, of which kind, and its InstanceNumber."""

    kind: Kind
    source: Received
    number: int


def plan(
    instances: list[Received], switches: MilvueSwitches, params: Mapping[str, str]
) -> list[Result]:
    """The results of one command, in the order they are sent.

    Args:
        instances: What was uploaded, in a stable order.
        switches: How many of which kind.
        params: Query parameters of E3; ``output_selection`` and ``structured_report_format`` count.
    """
    images = [instance for instance in instances if instance.is_image]
    selection = params.get("output_selection", "all")
    kept = [image for image in images if image.is_kept]
    # compressed ones first, so that there is a compressed result whenever there can be one
    copies = sorted(kept, key=lambda image: not image.is_compressed)[: switches.copies]
    recaps = images if switches.recaps is None else images[: switches.recaps]
    results: list[Result] = []
    if selection not in ("none", "no_recap"):
        results += [Result("recap", image, n) for n, image in enumerate(recaps, 1)]
    if selection != "none":
        results += [Result("copy", image, n) for n, image in enumerate(copies, 1)]
    wants_report = params.get("structured_report_format", "none") != "none"
    if instances and (switches.structured_report or wants_report):
        results.append(Result("report", instances[0], 1))
    if instances and switches.unparsable:
        results.append(Result("unparsable", instances[0], 1))
    return results


def find(instances: list[Received], kind: str, sop_instance_uid: str, number: int) -> Result | None:
    """The result that a signed URL names; None when there is no such source instance."""
    for instance in instances:
        if instance.sop_instance_uid == sop_instance_uid:
            for known in ("recap", "copy", "report", "unparsable"):
                if kind == known:
                    return Result(known, instance, number)
    return None


async def body(
    result: Result, command: str, switches: MilvueSwitches, executor: Executor
) -> AsyncIterator[bytes]:
    """The Part-10 file of a result, made when asked for; pixels come straight from disk."""
    loop = asyncio.get_running_loop()
    made = await loop.run_in_executor(executor, _make, result, command, switches)
    for start in range(0, len(made.head), switches.chunk_bytes):
        yield made.head[start : start + switches.chunk_bytes]
    if made.tail is None:
        return
    with made.tail.open("rb") as file:
        file.seek(made.tail_offset)
        while chunk := file.read(switches.chunk_bytes):
            yield chunk


def _make(result: Result, command: str, switches: MilvueSwitches) -> dicom.Body:
    wrong = dicom.Wrong(
        study_uid=switches.wrong_study_uid,
        patient_id=switches.wrong_patient_id,
        accession_number=switches.wrong_accession_number,
    )
    if result.kind == "recap":
        return dicom.recap(result.source, command, result.number, wrong)
    if result.kind == "copy":
        return dicom.copy(result.source, command, result.number, wrong)
    if result.kind == "report":
        return dicom.report(result.source, command, report_lines(switches), wrong)
    return dicom.Body(b"this is no DICOM file\n" * 20)

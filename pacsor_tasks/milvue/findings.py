"""Findings and measures as JSON: what the HL7 message is built from.

The API documents only `smarturgences` and `smartxpert`; newer products use the same two shapes
under their own command's name.

Source: contract §1.1, §1.3.
"""

from __future__ import annotations

from typing import Any

from pacsor_tasks.milvue.download import outcome_of
from pacsor_tasks.milvue.outcomes import CommandForbidden, Outcome
from pacsor_tasks.milvue.refusals import clean
from pacsor_tasks.milvue.schemas import Detections, GotStudy, Measures, validated
from pacsor_tasks.milvue.transport import Transport

DETECTING = frozenset({"smarturgences", "detection", "smartchest", "trauma"})
MEASURING = frozenset({"smartxpert", "measures"})


def read_findings(
    transport: Transport, study_uid: str, command: str, language: str | None
) -> Detections | Measures:
    """Ask for one command's findings; the language is only sent where there are detections."""
    what = f"{command} findings of {study_uid}"
    has_language = language is not None and command not in MEASURING
    params = {"language": language or ""} if has_language else {}
    with transport.api("GET", (command, study_uid), what, params=params) as answer:
        value = answer.json_object()
    status = validated(GotStudy, value, what)
    if outcome_of(status, study_uid, what) is Outcome.FORBIDDEN:
        said = clean(status.message)
        raise CommandForbidden(f"{what}: not allowed for this token" + (said and f": {said}"))
    return validated(_shape(command, value), value, what)


def _shape(command: str, value: dict[str, Any]) -> type[Detections] | type[Measures]:
    """The model of a command; one we have not met is judged by what its instances carry."""
    if command in DETECTING:
        return Detections
    if command in MEASURING:
        return Measures
    instances = value.get("instances")
    rows = instances if isinstance(instances, list) else []
    has_measures = any(isinstance(row, dict) and "measures" in row for row in rows)
    return Measures if has_measures else Detections

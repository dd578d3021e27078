"""A report that another provider published: who and what it is about, and its parts. Pure.

Source: docs/techcare-report.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import BadResponse
from pacsor_tasks.hl7.metadata import KEYWORDS
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.tcr.reports import is_empty, read_object, report_of

#: What a message may be known by, the first that is there.
IDS = ("id", "message_id", "report_id")
STUDY_UIDS = ("StudyInstanceUID", "study_instance_uid")
NAMESPACE = uuid.UUID("6f0f5f7e-6f0b-5a0b-9d39-0a4a3f5e6b21")
WHAT = "a provider's report"
#: Levels of lists and objects that are kept of a message; a report has no more than ten. JSON is
#: read and written by recursion, and one process has less room for it than another.
LEVELS = 64
TOO_DEEP = "…"


# No repr: it is a patient's.
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReceivedReport:
    """One message, understood."""

    provider: str
    study_uid: str
    report: Report
    #: DICOM keyword → text, of what the message says of patient and study
    study: Mapping[str, str]


def envelope_of(provider: str, data: Any) -> dict[str, Any]:
    """A message as it is kept. Never raises, and JSON can be made of it.

    Args:
        provider: Who published it.
        data: JSON, its text, or the bytes of that, as it came.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        data = _text(bytes(data))
    return {"provider": provider, "data": _cut(data, LEVELS)}


def run_id_of(envelope: Mapping[str, Any]) -> str:
    """The same for every arrival of a message: made from its provider, id and what it tells.

    A corrected report under the id of the first is another one: it must not be taken for a
    repetition. What only says how the message travelled makes no difference. A message without an
    id, or that cannot be understood, is known by all of its content.

    Never raises, whatever the message says.
    """
    data = envelope.get("data")
    value: Mapping[str, Any] = {}
    with suppress(BadResponse):
        value = _object(data)
    given = next((value[name] for name in IDS if isinstance(value.get(name), str | int)), "")
    told = str(given).strip()
    content = (told and _told_by(envelope)) or _digest(data)
    name = f"{envelope.get('provider')}\n{told}\n{content}"
    # Half a surrogate pair, which JSON can spell, is no text that can be hashed.
    return str(uuid.uuid5(NAMESPACE, name.encode("utf-8", "backslashreplace").decode()))


def received_of(envelope: Mapping[str, Any]) -> ReceivedReport:
    """Read a message.

    Args:
        envelope: `provider`, and `data` as it came: an object, or its JSON as text.

    Raises:
        BadResponse: Not JSON, no study, or no report. Says nothing of its content.
    """
    value = _object(envelope.get("data"))
    provider = envelope.get("provider")
    if not isinstance(provider, str) or not provider or not provider.isprintable():
        raise BadResponse(f"{WHAT}: no provider")
    study = value if value.get("study") is None else value["study"]
    if not isinstance(study, Mapping):
        raise BadResponse(f"{WHAT}: `study` is no object")
    given = next((v[name] for v in (value, study) for name in STUDY_UIDS if v.get(name)), "")
    study_uid = str(given).strip() if isinstance(given, str | int) else ""
    if not is_uid(study_uid):
        raise BadResponse(f"{WHAT}: no StudyInstanceUID")
    report = report_of(value, WHAT)
    if is_empty(report):
        raise BadResponse(f"{WHAT}: it is empty")
    return ReceivedReport(
        provider=provider,
        study_uid=study_uid,
        report=report,
        study={k: str(study[k]) for k in KEYWORDS if isinstance(study.get(k), str | int)},
    )


def _told_by(envelope: Mapping[str, Any]) -> str:
    """A digest of the report and of whom it is about; empty when that cannot be read."""
    try:
        found = received_of(envelope)
    except Exception:  # noqa: BLE001 - it is called in another's thread, with anything
        return ""
    report = found.report
    told: dict[str, Any] = {"parts": report.parts, "is_html": report.is_html}
    if report.html_parts:
        told["html_parts"] = sorted(report.html_parts)
    return _digest([found.study_uid, sorted(found.study.items()), told])


def _object(data: Any) -> Mapping[str, Any]:
    if isinstance(data, str):
        return read_object(data, WHAT)
    if not isinstance(data, Mapping):
        raise BadResponse(f"{WHAT}: not a JSON object")
    return data


def _text(data: bytes) -> str:
    """Bytes as UTF-8; in base64 when they are something else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")


def _cut(value: Any, levels: int) -> Any:
    """A copy without what is deeper."""
    if not isinstance(value, Mapping | list):
        return value
    if not levels:
        return TOO_DEEP
    if isinstance(value, list):
        return [_cut(entry, levels - 1) for entry in value]
    return {str(name): _cut(entry, levels - 1) for name, entry in value.items()}


def _digest(data: Any) -> str:
    if isinstance(data, str):
        content = data
    else:
        content = json.dumps(_cut(data, LEVELS), sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

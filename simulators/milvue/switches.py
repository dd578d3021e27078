"""Every switch of the simulated AI service. Contract §5.1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulators.switches import Switches, Words

DETECTIONS = ("smarturgences", "detection", "smartchest", "trauma")
MEASURES = ("smartxpert", "measures")

Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
ErrorCode = Annotated[int, Field(ge=400, le=599)]

E3Shape = Literal[
    "dicom",  # multipart/related, parts application/dicom
    "dicom+gzip",  # parts application/dicom+gzip
    "empty",  # only the closing delimiter: 38 bytes for a boundary of 32
    "status_empty",  # JSON, status empty
    "status_done",  # JSON, status done, where DICOM was asked for
    "running",  # JSON, status running, whatever the status route says
    "forbidden",  # JSON, status forbidden
    "formatting_error",  # {"message": "Error formatting study"}, see formatting_status
    "wrong_content_type",  # 200 text/html
    "truncated",  # the body ends inside the last part, no closing delimiter
]


class MilvueSwitches(BaseModel):
    """Values in force for one request. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: accepted API keys; none = any key that is not empty
    tokens: Words = ()
    #: suite version in the answers
    version: str = "2.11.0-simulated"
    #: inference commands this service knows
    commands: Words = (*DETECTIONS, *MEASURES)

    #: an HTTP status, `reset` (connection reset), or `reset_after` (done, then reset unanswered)
    fault: ErrorCode | Literal["reset", "reset_after"] | None = None
    #: answer the fault without reading the request's body
    fault_early: bool = False
    #: how much of the body passes before `reset`: of the request, or of the response of a download
    reset_after_bytes: Count = 0
    #: Retry-After of a fault (seconds or an HTTP date); None = no such header
    retry_after: str | None = None
    #: before the answer begins
    delay_s: Seconds = 0
    #: between two chunks of a downloaded body
    slow_chunk_s: Seconds = 0
    chunk_bytes: Annotated[int, Field(ge=1)] = 65536
    #: every part and every signed URL twice
    duplicate: bool = False

    #: keep what is uploaded; else only the header, and no result is a copy of an image
    keep_files: bool = True
    #: azure: 201, needs x-ms-blob-type: BlockBlob; gcs: 200, needs x-goog-meta-owner
    storage: Literal["azure", "gcs"] = "azure"
    signed_url_ttl_s: Seconds = 3600
    #: answer signed URLs with 403 as if their time was over
    expired: bool = False
    #: how many UIDs to leave out of the signed_urls map
    omit_uids: Count = 0

    #: how many polls (E2 to E5) are answered 404 after an upload
    not_found_times: Count = 0
    #: how many polls are answered `running` after that
    running_times: Count = 1
    #: and for how long after the upload at least
    running_s: Seconds = 0
    outcome: Literal["done", "error"] = "done"
    status_message: str | None = None

    e3_shape: E3Shape = "dicom"
    #: auto: raw if Accept names application/json, else wrapped in a multipart part
    json_wrapping: Literal["auto", "raw", "wrapped"] = "auto"
    #: `running` answers of E3 per study and command although the status is done
    e3_running_times: Count = 0
    boundary_length: Annotated[int, Field(ge=1, le=70)] = 32
    formatting_status: ErrorCode = 500
    #: list_running: status running with a list all the same
    e3_signed: Literal["list", "empty_list", "absent", "list_running"] = "list"

    findings: Literal["done", "running", "forbidden", "not_found"] = "done"
    #: `running` answers of E4/E5 per study and command although the status is done
    findings_running_times: Count = 0
    #: the hl7 text of E4; None = made from the findings
    hl7_text: str | None = None
    label: Literal["abnormal", "normal", "doubt", "unknown", "out_scope"] = "abnormal"

    #: recap Secondary Captures per command at most; None = one per uploaded instance
    recaps: Count | None = None
    #: copies of uploaded images per command, in their transfer syntax
    copies: Count = 1
    #: a Basic Text SR per command
    structured_report: bool = False
    wrong_study_uid: bool = False
    wrong_patient_id: bool = False
    wrong_accession_number: bool = False
    #: one more part that is no DICOM
    unparsable: bool = False


_UPLOAD = frozenset({"upload"})
_SIGNED = frozenset({"put", "download"})
_RESULTS = frozenset({"results", "download"})
_FINDINGS = frozenset({"findings"})
_POLLS = frozenset({"status", "results", "findings"})
_START = frozenset({"upload", "put"})

#: The operations that look at a switch; those not named concern all. upload = E1, put, status = E2,
#: results = E3, download = a signed URL, findings = E4/E5, interesting = E6.
OPERATIONS: dict[str, frozenset[str]] = {
    "slow_chunk_s": _RESULTS,
    "chunk_bytes": _RESULTS,
    "duplicate": frozenset({"results"}),
    "keep_files": _START,
    "storage": frozenset({"put"}),
    "signed_url_ttl_s": frozenset({"upload", "results"}),
    "expired": _SIGNED,
    "omit_uids": _UPLOAD,
    "not_found_times": _POLLS,
    "running_times": _POLLS,
    "running_s": _POLLS,
    "outcome": _POLLS,
    "status_message": _POLLS,
    "e3_shape": frozenset({"results"}),
    "json_wrapping": frozenset({"results"}),
    "e3_running_times": frozenset({"results"}),
    "boundary_length": frozenset({"results"}),
    "formatting_status": frozenset({"results"}),
    "e3_signed": frozenset({"results"}),
    "findings": _FINDINGS,
    "findings_running_times": _FINDINGS,
    "hl7_text": _FINDINGS,
    "label": _FINDINGS,
    "recaps": _RESULTS,
    "copies": _RESULTS,
    "structured_report": _RESULTS,
    "wrong_study_uid": _RESULTS,
    "wrong_patient_id": _RESULTS,
    "wrong_accession_number": _RESULTS,
    "unparsable": _RESULTS,
}
SCOPES = ("study_uid", "command", "operation")


def milvue_switches(initial: dict[str, Any], file: Path | None) -> Switches[MilvueSwitches]:
    """The run-time switches of one simulated service."""
    return Switches(
        MilvueSwitches, scopes=SCOPES, operations=OPERATIONS, initial=initial, file=file
    )

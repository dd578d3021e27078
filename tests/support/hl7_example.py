"""The worked example of contract §3.2 as values and as bytes."""

from __future__ import annotations

from datetime import datetime

from pacsor_tasks.hl7.message import MessageOptions, build_message
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.hl7.report import Section, b64_obx

CONTROL_ID = "GW26061914301500001"
AT = datetime(2026, 6, 19, 14, 30, 15)  # noqa: DTZ001 - a site's wall clock
INFERENCE = "Fracture : NON\nLuxation : NON"
METADATA = StudyMetadata(
    study_uid="2.25.3321457788990011",
    patient_id="PX-4711",
    issuer_of_patient_id="MILVUE",
    patient_name="LEGRAND^Anaïs",
    patient_birth_date="19610412",
    patient_sex="F",
    accession_number="ACC-2026-0042",
)
OPTIONS = MessageOptions(
    sending_application="MILVUE_GATEWAY",
    sending_facility="MILVUE",
    receiving_application="RISDEMO",
    receiving_facility="NORTHSITE",
)
#: Without the report, which is not part of the default message.
GOLDEN = (
    "MSH|^~\\&|MILVUE_GATEWAY|MILVUE|RISDEMO|NORTHSITE|20260619143015||ORU^R01"
    "|GW26061914301500001|P|2.5.1|||AL|NE||UNICODE UTF-8|FR||\r"
    "PID|||PX-4711^^^MILVUE^PI||LEGRAND^Anaïs||19610412|F|\r"
    "ORC|NW||||||^^^||20260619143015\r"
    "OBR|1||ACC-2026-0042|^Milvue findings|||20260619143015||||||||||||||||||F\r"
    "ZDS|2.25.3321457788990011^milvue^Application^DICOM|\r"
    "OBX||HD|^STUDYINSTANCEUID^||2.25.3321457788990011||||||X\r"
    "OBX||ST|milvue^SmartUrgences^LN||Fracture : NON\\X0A\\Luxation : NON||||||F\r"
).encode()


def example(inference: str | None = INFERENCE, control_id: str = CONTROL_ID) -> bytes:
    """The example's message with other findings."""
    return build_message(METADATA, OPTIONS, control_id=control_id, at=AT, inference=inference)


def example_of_size(size_bytes: int, control_id: str = CONTROL_ID) -> bytes:
    """The example with a B64 report that brings it to about that size, accents included."""
    text = "Épaule : pas de fracture déplacée. " * (size_bytes * 3 // 4 // 38)
    report = b64_obx(Section(key="results", label="Résultats", text=text))
    return example(control_id=control_id) + f"{report}\r".encode()

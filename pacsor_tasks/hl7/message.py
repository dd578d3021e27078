"""One study's ORU^R01 as bytes. Pure: the same arguments give the same bytes.

Source: contract §3.1 to §3.3; HL7 v2.5.1 chapters 2 and 7.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from datetime import datetime

from pacsor_tasks.hl7.escape import Er7, escape, escape_components
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, INFERENCE, Template, fill, is_about

_BASE36 = string.digits + string.ascii_uppercase


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOptions:
    """How a site wants its messages."""

    sending_application: str
    sending_facility: str
    receiving_application: str
    receiving_facility: str
    #: MSH-19 and the language of the findings
    language: str = "FR"
    #: MSH-11: P, T or D
    processing_id: str = "P"
    populate_pid: bool = True
    #: an empty PV1 is not valid HL7 (PV1-2 is required): only for a RIS that asks for it
    populate_pv1: bool = False
    populate_orc: bool = True
    populate_zds: bool = True
    siuid_in_obx1: bool = True
    template: Template = DEFAULT_TEMPLATE

    @property
    def populated(self) -> frozenset[str]:
        """The optional segments that are sent, by their names in the template."""
        switches = {
            "pid": self.populate_pid,
            "pv1": self.populate_pv1,
            "orc": self.populate_orc,
            "zds": self.populate_zds,
            "obx1": self.siuid_in_obx1,
        }
        return frozenset(name for name, is_on in switches.items() if is_on)


def new_control_id(at: datetime) -> str:
    """Make an MSH-10: `GW`, yymmddHHMMSS and six random base-36 characters, 20 in all.

    Unique over processes and restarts without a shared counter: two messages of the same second
    meet with probability 1 in 2 billion. Make it once per message and keep it over retries.
    """
    return f"GW{at:%y%m%d%H%M%S}" + "".join(secrets.choice(_BASE36) for _ in range(6))


def build_message(
    metadata: StudyMetadata,
    options: MessageOptions,
    *,
    control_id: str,
    at: datetime,
    inference: str | None,
) -> bytes:
    r"""Build the message: UTF-8, every segment ended by CR, no MLLP frame.

    Args:
        metadata: Of the study; plain text, escaped here and only here.
        options: Of the destination.
        control_id: MSH-10, at most 20 characters.
        at: MSH-7, ORC-9 and OBR-7, written without offset as PACSOR does: give it in the site's
            own time zone.
        inference: Text of the findings, lines parted by `\n`. Without any, no findings OBX.
    """
    values = _values(metadata, options, control_id, f"{at:%Y%m%d%H%M%S}")
    values[INFERENCE] = escape(inference or "")
    lines = options.template.lines(options.populated)
    if not values[INFERENCE]:
        lines = [line for line in lines if not is_about(line, INFERENCE)]
    return "".join(fill(line, values) + "\r" for line in lines).encode("utf-8")


def _values(
    metadata: StudyMetadata, options: MessageOptions, control_id: str, timestamp: str
) -> dict[str, Er7]:
    # MSH-3 to MSH-6 are HD: a site may write `name^oid^ISO`.
    defaults = {
        "SEN_APP": escape_components(options.sending_application),
        "SEN_FAC": escape_components(options.sending_facility),
        "REC_APP": escape_components(options.receiving_application),
        "REC_FAC": escape_components(options.receiving_facility),
        "HL7_LANG": escape(options.language),
        "PROC_ID": escape(options.processing_id),
        "MessageTimestamp": escape(timestamp),
        "MessageID": escape(control_id),
    }
    study = {
        "PatientID": escape(metadata.patient_id),
        "IssuerOfPatientID": escape(metadata.issuer_of_patient_id),
        "PatientName": escape_components(metadata.patient_name),
        "PatientBirthDate": escape(metadata.patient_birth_date),
        "PatientSex": escape(metadata.patient_sex),
        "Modality": escape(metadata.modality),
        "BodyPartExamined": escape(metadata.body_part_examined),
        "AccessionNumber": escape(metadata.accession_number),
        "StudyInstanceUID": escape(metadata.study_uid),
        "SeriesDescription": escape(metadata.series_description),
        "SeriesInstanceUID": escape(metadata.series_uid),
        "SOPInstanceUID": escape(metadata.sop_instance_uid),
        "SOPClassUID": escape(metadata.sop_class_uid),
        "MessageTimestamp": escape(timestamp),
        "MessageID": escape(control_id),
    }
    return {f"hl7_defaults[{key}]": value for key, value in defaults.items()} | {
        f"study_metadata[{key}]": value for key, value in study.items()
    }

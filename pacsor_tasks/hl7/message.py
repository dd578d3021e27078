"""One study's ORU^R01 as bytes. Pure: the same arguments give the same bytes.

Source: contract §3.1 to §3.3; HL7 v2.5.1 chapters 2 and 7.
"""

from __future__ import annotations

import itertools
import secrets
import string
from dataclasses import dataclass
from datetime import datetime

from pacsor_tasks.hl7.escape import Er7, escape, escape_components
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.hl7.report import Report, ReportFormat, report_obx
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, INFERENCE, Template, fill, is_about

_BASE36 = string.digits + string.ascii_uppercase
_UNNUMBERED_OBX = "OBX||"
#: Segments that are there for their text.
_TEXTS = frozenset({"OBX", "NTE"})


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
    report_format: ReportFormat = ReportFormat.B64
    #: the keys of report sections in capitals
    obx_uppercase: bool = True
    #: DICOM's prefix^suffix become HL7's suffix^prefix
    swap_name_affixes: bool = False
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


def build_message(  # noqa: PLR0913 - a message's parts
    metadata: StudyMetadata,
    options: MessageOptions,
    *,
    control_id: str,
    at: datetime,
    inference: str | None,
    report: Report | None = None,
) -> bytes:
    r"""Build the message: UTF-8, every segment ended by CR, no MLLP frame.

    Args:
        metadata: Of the study; plain text, escaped here and only here.
        options: Of the destination.
        control_id: MSH-10, at most 20 characters.
        at: MSH-7, ORC-9 and OBR-7, written without offset as PACSOR does: give it in the site's
            own time zone.
        inference: Text of the findings, lines parted by `\n`. Without any, no OBX or NTE of them.
        report: Its segments follow; an empty one has none.
    """
    template = options.template
    values = _values(metadata, options, control_id, f"{at:%Y%m%d%H%M%S}")
    values[INFERENCE] = escape(inference or "", template.controls)
    lines = template.lines(options.populated)
    if not values[INFERENCE]:
        # A site may have them in its OBR too, which the RIS needs all the same.
        lines = [line for line in lines if line[:3] not in _TEXTS or not is_about(line, INFERENCE)]
    segments = [fill(line, values) for line in lines]
    if report is not None:
        segments += report_obx(
            report,
            options.report_format,
            uppercase=options.obx_uppercase,
            template=template,
            values=values,
        )
    if template.numbers_obx:
        segments = _numbered(segments)
    return "".join(f"{segment}\r" for segment in segments).encode("utf-8")


def _numbered(segments: list[Er7]) -> list[Er7]:
    numbers = itertools.count(1)
    return [
        Er7(f"OBX|{next(numbers)}|" + segment.removeprefix(_UNNUMBERED_OBX))
        if segment.startswith(_UNNUMBERED_OBX)
        else segment
        for segment in segments
    ]


def _values(
    metadata: StudyMetadata, options: MessageOptions, control_id: str, timestamp: str
) -> dict[str, Er7]:
    controls = options.template.controls

    def text(value: str) -> Er7:
        return escape(value, controls)

    def components(value: str) -> Er7:
        return escape_components(value, controls)

    name = metadata.patient_name
    # MSH-3 to MSH-6 are HD: a site may write `name^oid^ISO`.
    defaults = {
        "SEN_APP": components(options.sending_application),
        "SEN_FAC": components(options.sending_facility),
        "REC_APP": components(options.receiving_application),
        "REC_FAC": components(options.receiving_facility),
        "HL7_LANG": text(options.language),
        "PROC_ID": text(options.processing_id),
        "MessageTimestamp": text(timestamp),
        "MessageID": text(control_id),
    }
    study = {
        "PatientID": text(metadata.patient_id),
        "IssuerOfPatientID": text(metadata.issuer_of_patient_id),
        "PatientName": components(swapped(name) if options.swap_name_affixes else name),
        "PatientBirthDate": text(metadata.patient_birth_date),
        "PatientSex": text(metadata.patient_sex),
        "Modality": text(metadata.modality),
        "BodyPartExamined": text(metadata.body_part_examined),
        "AccessionNumber": text(metadata.accession_number),
        "StudyInstanceUID": text(metadata.study_uid),
        "SeriesDescription": text(metadata.series_description),
        "SeriesInstanceUID": text(metadata.series_uid),
        "SOPInstanceUID": text(metadata.sop_instance_uid),
        "SOPClassUID": text(metadata.sop_class_uid),
        "MessageTimestamp": text(timestamp),
        "MessageID": text(control_id),
    }
    return {f"hl7_defaults[{key}]": value for key, value in defaults.items()} | {
        f"study_metadata[{key}]": value for key, value in study.items()
    }


def swapped(name: str) -> str:
    """A DICOM name family^given^middle^prefix^suffix in the order of HL7's XPN: suffix^prefix."""
    parts = name.split("^")
    if len(parts) < 4:
        return name
    parts += [""] * (5 - len(parts))
    parts[3], parts[4] = parts[4], parts[3]
    return "^".join(parts).rstrip("^")

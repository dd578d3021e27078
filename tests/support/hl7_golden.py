"""The messages of tests/golden/hl7, one for every form, report format and switch.

`python -m tests.support.hl7_golden` writes them anew: look at the difference before it is
committed, since receivers are built on these bytes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacsor_tasks.hl7.message import build_message
from pacsor_tasks.hl7.report import Report, ReportFormat
from pacsor_tasks.hl7.template import CONFORMANT_TEMPLATE, DEFAULT_TEMPLATE
from pacsor_tasks.hl7.template_file import constants, template_of
from tests.support.hl7_example import AT, CONTROL_ID, INFERENCE, METADATA, OPTIONS

DIRECTORY = Path(__file__).parents[1] / "golden" / "hl7"
FORMS = {"legacy": DEFAULT_TEMPLATE, "conformant": CONFORMANT_TEMPLATE}
#: name → the switches that differ from the defaults
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "no-pid": {"populate_pid": False},
    "pv1": {"populate_pv1": True},
    "no-orc": {"populate_orc": False},
    "no-zds": {"populate_zds": False},
    "no-study-uid": {"siuid_in_obx1": False},
    "lower-case-keys": {"obx_uppercase": False},
    "swapped-affixes": {"swap_name_affixes": True},
    "bare": {
        "populate_pid": False, "populate_orc": False, "populate_zds": False,
        "siuid_in_obx1": False,
    },
}  # fmt: skip
#: Everything that has to be escaped, and accents.
TEXT = Report(
    parts={
        "title": "Radiographie du poignet",
        "indication": "Chute ; douleur > 3 jours",
        "technique": "Face & profil",
        "results": "Fracture déplacée : non.\r\nAngle ^12°|\\F\\~\n\n\tRAS",
        "conclusion": "Pas de lésion\x0b osseuse\x1c.",
        "type": "trauma",
    }
)
HTML = Report(
    parts={
        "title": "<b>Radiographie</b> du poignet",
        "technique": "<p>Face &amp; profil</p>",
        "results": (
            "<div>\n    <p>Fracture <b>déplacée</b> : non.</p>\n\n    <ul>\n      <li>RAS</li>\n"
            "    </ul>\n</div>"
        ),
        "conclusion": "  <p>Pas de lésion.</p>  ",
    },
    is_html=True,
)
SITE_TEMPLATE = b'''
"""A site's own."""
HEAD = "MSH|^~\\\\&|{hl7_defaults[SEN_APP]}|X|{hl7_defaults[REC_APP]}||"
HL7_MESSAGE = (
    HEAD + "{hl7_defaults[MessageTimestamp]}" + "||ORU^R01|{hl7_defaults[MessageID]}|P|2.5.1\\r"
    "SEG_PIDSEG_ZDS"
    "OBR|1||{study_metadata[AccessionNumber]}|{study_metadata[Modality]}\\r"
    "OBX||TX|AI||{study_metadata[Inference]}||||||F\\r"
)
SEG_PID = "PID|||{study_metadata[PatientID]}||{study_metadata[PatientName]}"
SEG_ZDS = "ZDS|{study_metadata[StudyInstanceUID]}\\r"
SEG_OBX_PLAIN = "OBX||{obx_2}|{section}||{content}||||||P\\r"
DEFAULT_REPORT_MAPPING = {
    "results": "18748-4^Compte rendu", "conclusion": "Synth\xc3\xa8se", "title": ""
}
DEFAULT_HL7_ESCAPE_DICT = {"\\r\\n": "\\\\.br\\\\", "\\r": "", "\\n": "\\\\.br\\\\"}
MAN_METADATA_DICT = {"PatientID": "P12345", "PatientBirthDate": 19700101, "PatientSex": "M"}
'''


def messages() -> dict[str, bytes]:
    """File name → bytes."""
    metadata = replace(METADATA, patient_name="LEGRAND^Anaïs^Zoé^Dr^PhD", modality="DX")
    found: dict[str, bytes] = {}

    def add(name: str, report: Report | None, inference: str | None = INFERENCE, **given: Any):
        options = replace(OPTIONS, **given)
        found[f"{name}.hl7"] = build_message(
            metadata, options, control_id=CONTROL_ID, at=AT, inference=inference, report=report
        )

    for form, template in FORMS.items():
        for kind in ReportFormat:
            for switch, changed in SWITCHES.items():
                given = {"template": template, "report_format": kind, **changed}
                add(f"{form}-{kind.lower()}-{switch}", TEXT, **given)
            add(f"{form}-{kind.lower()}-from-html", HTML, template=template, report_format=kind)
        add(f"{form}-no-report", None, template=template)
        add(f"{form}-no-findings", None, inference=None, template=template)
        add(f"{form}-nothing-known", None, inference=None, template=template, populate_pid=False)
    site = template_of(constants(SITE_TEMPLATE))
    for kind in ReportFormat:
        add(f"site-{kind.lower()}", TEXT, template=site, report_format=kind)
    return found


def main() -> None:
    """Write them all; what is no longer made goes away."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    made = messages()
    for old in DIRECTORY.glob("*.hl7"):
        if old.name not in made:
            old.unlink()
    for name, content in made.items():
        (DIRECTORY / name).write_bytes(content)
    sys.stdout.write(f"{len(made)} messages in {DIRECTORY}\n")


if __name__ == "__main__":
    main()

"""An invented study with an invented report: what a RIS's integrator sees before there is one."""

from __future__ import annotations

from datetime import datetime

from pacsor_tasks.hl7.message import MessageOptions, build_message
from pacsor_tasks.hl7.metadata import StudyMetadata
from pacsor_tasks.hl7.report import Report

STUDY = StudyMetadata(
    study_uid="2.25.161803398874989484820458683436563811",
    patient_id="EXAMPLE-0001",
    issuer_of_patient_id="EXAMPLE",
    patient_name="EXAMPLE^Zoé",
    patient_birth_date="19700101",
    patient_sex="O",
    accession_number="EXAMPLE-ACC-1",
    modality="DX",
    body_part_examined="HAND",
    series_description="Wrist",
)
FINDINGS = {
    "FR": "Fracture : DOUTE\nLuxation : NON\nAngle radial : 22.0 deg",
    "EN": "Fracture : DOUBT\nDislocation : NO\nRadial angle : 22.0 deg",
}
REPORTS = {
    "FR": Report(
        parts={
            "title": "Radiographie du poignet",
            "indication": "Chute, douleur > 3 jours",
            "technique": "Face & profil",
            "results": "Doute sur une fracture de l'extrémité distale du radius.\nPas de luxation.",
            "conclusion": "À confronter à la clinique.",
            "type": "trauma",
        }
    ),
    "EN": Report(
        parts={
            "title": "Radiograph of the wrist",
            "indication": "Fall, pain for > 3 days",
            "technique": "Frontal & lateral",
            "results": "Doubtful fracture of the distal radius.\nNo dislocation.",
            "conclusion": "To be compared with the clinical findings.",
            "type": "trauma",
        }
    ),
}


def example_message(
    options: MessageOptions, *, control_id: str, at: datetime, with_report: bool = True
) -> bytes:
    """The example as a site's options make it."""
    return build_message(
        STUDY,
        options,
        control_id=control_id,
        at=at,
        inference=FINDINGS.get(options.language, FINDINGS["EN"]),
        report=REPORTS.get(options.language, REPORTS["EN"]) if with_report else None,
    )

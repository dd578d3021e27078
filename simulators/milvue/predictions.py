"""The JSON predictions of E4 and E5, made up but in every field of their schema. Contract §1.3."""

from __future__ import annotations

from typing import Any

from simulators.milvue.received import Received
from simulators.milvue.switches import MilvueSwitches

Json = dict[str, Any]
LANGUAGES = ("en", "fr", "es", "de", "it", "pt")
#: value → its name in each of LANGUAGES
FINDINGS: dict[str, tuple[str, ...]] = {
    "fracture": ("Fracture", "Fracture", "Fractura", "Fraktur", "Frattura", "Fratura"),
    "dislocation": ("Dislocation", "Luxation", "Luxación", "Luxation", "Lussazione", "Luxação"),
    "effusion": ("Effusion", "Épanchement", "Derrame", "Erguss", "Versamento", "Derrame"),
}
BODY_PARTS = ("Wrist", "Poignet", "Muñeca", "Handgelenk", "Polso", "Punho")
ANGLE = (
    "Radial tilt",
    "Inclinaison radiale",
    "Inclinación radial",
    "Radiale Neigung",
    "Inclinazione radiale",
    "Inclinação radial",
)
LENGTH = (
    "Ulnar variance",
    "Index radio-ulnaire",
    "Varianza cubital",
    "Ulnavarianz",
    "Varianza ulnare",
    "Variância ulnar",
)
#: label → (its word in each of LANGUAGES, score, deprecated `type`)
LABELS: dict[str, tuple[tuple[str, ...], float, str]] = {
    "abnormal": (("YES", "OUI", "SÍ", "JA", "SÌ", "SIM"), 0.97, "yes"),
    "normal": (("NO", "NON", "NO", "NEIN", "NO", "NÃO"), 0.03, "no"),
    "doubt": (("DOUBT", "DOUTE", "DUDA", "ZWEIFEL", "DUBBIO", "DÚVIDA"), 0.55, "doubt"),
    "unknown": (("UNKNOWN",) * 6, 0.5, "unknown"),
    "out_scope": (("OUT OF SCOPE",) * 6, 0.0, "out_scope"),
}


def detections(
    study_uid: str, instances: list[Received], switches: MilvueSwitches, language: str | None
) -> Json:
    """SmarturgencesV3: study findings, and the same per instance with boxes."""
    labels = _labels(switches.label)
    findings = [_finding(value, label) for value, label in labels.items()]
    lines = _lines(labels, language or "fr")
    return {
        **head(study_uid, "done", switches),
        "flag": {"score": LABELS[switches.label][1], "label": switches.label},
        "hl7": "\n".join(lines) if switches.hl7_text is None else switches.hl7_text,
        "findings": findings,
        "instances": [_detection_instance(instance, findings) for instance in instances],
        "report": {
            "title": "Wrist",
            "techniques": ["Standard radiograph"],
            "results": [{"region": "Wrist", "items": _lines(labels, language or "en")}],
        },
    }


def measures(study_uid: str, instances: list[Received], switches: MilvueSwitches) -> Json:
    """SmartxpertV3: an angle and a length per instance."""
    angle = {
        "type": "angle",
        "value": "radial_tilt",
        "translation": _translation(ANGLE),
        "measure": 23.5,
        "unit": "deg",
        "lines": [[10, 20, 110, 40], [10, 20, 90, 90]],
    }
    length = {
        "type": "length",
        "value": "ulnar_variance",
        "translation": _translation(LENGTH),
        "measure": 1.8,
        "unit": "mm",
        "lines": [[30, 40, 30, 58]],
    }
    return {
        **head(study_uid, "done", switches),
        "instances": [{**_instance(one), "measures": [angle, length]} for one in instances],
    }


def head(study_uid: str, status: str, switches: MilvueSwitches) -> Json:
    """What every answer about a study begins with."""
    answer: Json = {"StudyInstanceUID": study_uid, "status": status, "version": switches.version}
    if switches.status_message is not None:
        answer["message"] = switches.status_message
    return answer


def report_lines(switches: MilvueSwitches) -> list[str]:
    """The findings in English, for a structured report: plain ASCII fits any character set."""
    return _lines(_labels(switches.label), "en")


def _labels(label: str) -> dict[str, str]:
    """The first finding has the study's label, the others are normal."""
    first, *others = FINDINGS
    return {first: label} | dict.fromkeys(others, "normal")


def _lines(labels: dict[str, str], language: str) -> list[str]:
    index = LANGUAGES.index(language.lower()) if language.lower() in LANGUAGES else 0
    return [
        f"{FINDINGS[value][index]} : {LABELS[label][0][index]}" for value, label in labels.items()
    ]


def _finding(value: str, label: str) -> Json:
    _, score, deprecated = LABELS[label]
    translation = _translation(FINDINGS[value])
    finding = {"value": value, "translation": translation, "label": label, "score": score}
    return {**finding, "type": deprecated}


def _instance(instance: Received) -> Json:
    return {
        "SOPInstanceUID": instance.sop_instance_uid,
        "SeriesInstanceUID": instance.series_uid,
        "body_parts": [{"value": "wrist", "translation": _translation(BODY_PARTS), "score": 0.99}],
    }


def _detection_instance(instance: Received, findings: list[Json]) -> Json:
    boxes = [
        {
            **{key: finding[key] for key in ("value", "translation", "label", "score")},
            "top_left": [60, 40],
            "bottom_right": [190, 120],
        }
        for finding in findings
        if finding["label"] in ("abnormal", "doubt")
    ]
    return {**_instance(instance), "findings": findings, "bounding_boxes": boxes}


def _translation(words: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(LANGUAGES, words, strict=True))

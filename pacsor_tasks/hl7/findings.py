"""The text of the findings OBX: the AI's own, or its findings and measures in words. Pure.

Source: contract §1.3 (shapes of E4 and E5), §3.1 (where the text goes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: PathoLabel in words, most severe first: the order also decides between instances.
LABELS: dict[str, dict[str, str]] = {
    "abnormal": {"fr": "OUI", "en": "YES"},
    "doubt": {"fr": "DOUTE", "en": "DOUBT"},
    "unknown": {"fr": "INDETERMINE", "en": "UNKNOWN"},
    "out_scope": {"fr": "HORS CHAMP", "en": "OUT OF SCOPE"},
    "normal": {"fr": "NON", "en": "NO"},
}
_SEVERITY = {label: rank for rank, label in enumerate(LABELS)}
_UNKNOWN_LABEL = "unknown"
#: The deprecated `type` (PathoStatus), where it is all there is.
_STATUSES = {"yes": "abnormal", "no": "normal"}

Answer = Mapping[str, Any]


def inference_text(detections: Answer | None, measures: Answer | None, language: str) -> str:
    r"""Say what the AI found, one line each: `Fracture : NON`, `Angle : 12.3 deg`.

    The same answers always give the same text.

    Args:
        detections: The JSON of the detection command (shape SmarturgencesV3) or None. Its `hl7`
            text is used when there is one, else its study's findings, else its instances'.
        measures: The JSON of the measures command (shape SmartxpertV3) or None.
        language: `FR`, `EN` or another language of the API.

    Returns:
        Lines parted by `\n`; empty when neither says anything (running, forbidden, nothing found).
    """
    parts = [
        _detections(detections or {}, language.lower()),
        "\n".join(dict.fromkeys(_measure_lines(measures or {}, language.lower()))),
    ]
    return "\n".join(part for part in parts if part)


def _detections(answer: Answer, language: str) -> str:
    text = str(answer.get("hl7") or "").strip()
    if text:
        return text
    findings = answer.get("findings") or _in_instances(answer, "findings")
    return "\n".join(
        f"{_name(finding, language)} : {_word(finding, language)}"
        for finding in _most_severe(findings, language)
    )


def _most_severe(findings: Iterable[Answer], language: str) -> list[Answer]:
    """One finding of each name, in the order the names first appear."""
    chosen: dict[str, Answer] = {}
    for finding in findings:
        name = _name(finding, language)
        if name not in chosen or _SEVERITY[_label(finding)] < _SEVERITY[_label(chosen[name])]:
            chosen[name] = finding
    return list(chosen.values())


def _label(finding: Answer) -> str:
    status = str(finding.get("type") or "").lower()
    label = str(finding.get("label") or "").lower() or _STATUSES.get(status, status)
    return label if label in LABELS else _UNKNOWN_LABEL


def _word(finding: Answer, language: str) -> str:
    words = LABELS[_label(finding)]
    return words.get(language, words["en"])


def _measure_lines(answer: Answer, language: str) -> list[str]:
    return [
        f"{_name(measure, language)} : {_quantity(measure)}"
        for measure in _in_instances(answer, "measures")
        if _is_number(measure.get("measure"))
    ]


def _quantity(measure: Answer) -> str:
    # z: -0.04 is 0.0, not -0.0
    return f"{measure['measure']:z.1f} {measure.get('unit') or ''}".rstrip()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _in_instances(answer: Answer, field: str) -> Iterator[Answer]:
    for instance in answer.get("instances") or ():
        yield from instance.get(field) or ()


def _name(item: Answer, language: str) -> str:
    """The item in the language, else in English, else as the API names it; never left out."""
    words = item.get("translation") or {}
    return str(words.get(language) or words.get("en") or item.get("value") or "?").strip()

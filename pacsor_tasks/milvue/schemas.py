"""The API's JSON bodies, read tolerantly: unknown fields are kept out of the way, not refused.

What decides something (a status, a map of URLs) is validated; what only describes has a default.

Source: contract §1.3.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pacsor_tasks.errors import BadResponse
from pacsor_tasks.milvue.outcomes import StudyState


def _or_default(default: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


#: null where a word is expected means there is none
Text = Annotated[str, _or_default("")]
Number = Annotated[float, _or_default(0.0)]
_LOWER = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
Word = Annotated[str, _LOWER]
T = TypeVar("T")
Many = Annotated[list[T], _or_default([])]


class Record(BaseModel):
    """Base of every body: frozen, unknown fields ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PostedStudy(Record):
    """The answer to an upload (PostDicomWeb, PostSignedUrl)."""

    StudyInstanceUID: Text = ""
    #: SOP Instance UID → URL; None when the API answered to a direct upload
    signed_urls: dict[str, str | None] | None = None


class PolledStudy(Record):
    """The answer to a status call (StudyStatus)."""

    StudyInstanceUID: Text = ""
    status: Annotated[StudyState, _LOWER]
    version: Text = ""
    message: Text = ""


class GotStudy(Record):
    """The status in a results answer, or in a findings answer (GetStudy, ResponseV3)."""

    StudyInstanceUID: Text = ""
    #: done, running, empty or forbidden; an open word here, judged by the reader
    status: Word
    version: Text = ""
    message: Text = ""


class SignedResults(Record):
    """The URLs in a results answer; to be read only once its status says there are results."""

    signed_urls: Many[str] = []


class Translation(Record):
    """A label in the six languages."""

    en: Text = ""
    fr: Text = ""
    es: Text = ""
    de: Text = ""
    it: Text = ""
    pt: Text = ""

    def to(self, language: str) -> str:
        """The label in a language by its two letters, any case; "" if there is none."""
        code = language.lower()
        value = getattr(self, code) if code in type(self).model_fields else ""
        return str(value)


class Labelled(Record):
    """Something with a code word and its translations."""

    value: Text = ""
    translation: Annotated[Translation, _or_default(Translation())] = Translation()
    score: Number = 0.0


class BodyPart(Labelled):
    """What the image shows."""


class Finding(Labelled):
    """One pathology looked for."""

    #: abnormal, normal, doubt, unknown, out_scope
    label: Text = ""
    #: the deprecated form of `label`
    type: Text = ""


class BoundingBox(Labelled):
    """Where a finding is, in pixels."""

    label: Text = ""
    top_left: Many[float] = []
    bottom_right: Many[float] = []


class Measure(Labelled):
    """A length or an angle."""

    #: angle, length
    type: Text = ""
    #: None where nothing was measured: that is no 0.0
    measure: float | None = None
    #: mm, deg
    unit: Text = ""
    #: [x1, y1, x2, y2] in pixels: two for an angle, one for a length
    lines: Many[list[float]] = []


class DetectionInstance(Record):
    """The detections on one instance."""

    SOPInstanceUID: Text = ""
    SeriesInstanceUID: Text = ""
    body_parts: Many[BodyPart] = []
    findings: Many[Finding] = []
    bounding_boxes: Many[BoundingBox] = []


class MeasuredInstance(Record):
    """The measures on one instance."""

    SOPInstanceUID: Text = ""
    SeriesInstanceUID: Text = ""
    body_parts: Many[BodyPart] = []
    measures: Many[Measure] = []


class Flag(Record):
    """The study's verdict."""

    score: Number = 0.0
    label: Text = ""


class Region(Record):
    """The report's lines on one region."""

    region: Text = ""
    items: Many[str] = []


class Report(Record):
    """The report in words."""

    title: Text = ""
    techniques: Many[str] = []
    results: Many[Region] = []


class Detections(Record):
    """What the detecting commands found (SmarturgencesV3)."""

    StudyInstanceUID: Text = ""
    version: Text = ""
    message: Text = ""
    flag: Annotated[Flag, _or_default(Flag())] = Flag()
    hl7: Text = ""
    findings: Many[Finding] = []
    instances: Many[DetectionInstance] = []
    #: of the recapitulative DICOM; grants access, so never log it
    signed_url: str | None = Field(default=None, repr=False)
    report: Report | None = None


class Measures(Record):
    """What the measuring commands found (SmartxpertV3): per instance only."""

    StudyInstanceUID: Text = ""
    version: Text = ""
    message: Text = ""
    instances: Many[MeasuredInstance] = []


R = TypeVar("R", bound=Record)


def validated(model: type[R], value: dict[str, Any], what: str) -> R:
    """Read a body as `model`.

    Raises:
        BadResponse: It does not fit. Names the fields, never their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        wrong = sorted({".".join(map(str, e["loc"][:4])) for e in exc.errors(include_input=False)})
        raise BadResponse(
            f"{what}: wrong or missing in the answer: {', '.join(wrong[:5])}"
        ) from None

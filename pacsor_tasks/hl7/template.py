r"""The message template: segments as data, and the formatter that fills in the placeholders.

The format is PACSOR's `template.py`: `HL7_MESSAGE` with the words SEG_PID, SEG_PV1, SEG_ORC,
SEG_ZDS and SEG_OBX1, each replaced by its segment or by nothing *before* any patient data goes in,
then `{hl7_defaults[K]}`, `{study_metadata[K]}`, `{obx_2}`, `{section}` and `{content}`.
Source: contract §3.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from string import Formatter

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.escape import FORMATTED, HEXADECIMAL, Er7

HL7_DEFAULTS = (
    "SEN_APP", "SEN_FAC", "REC_APP", "REC_FAC", "HL7_LANG", "PROC_ID",
    "MessageTimestamp", "MessageID",
)  # fmt: skip
STUDY_METADATA = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "Modality",
    "BodyPartExamined", "AccessionNumber", "StudyInstanceUID", "SeriesDescription",
    "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "MessageTimestamp", "MessageID",
    "Inference",
)  # fmt: skip
INFERENCE = "study_metadata[Inference]"
PLACEHOLDERS = frozenset(
    {f"hl7_defaults[{key}]" for key in HL7_DEFAULTS}
    | {f"study_metadata[{key}]" for key in STUDY_METADATA}
    | {"obx_2", "section", "content"}
)
# The words may touch: PACSOR writes "SEG_PIDSEG_PV1SEG_ORC".
_SEGMENT_WORD = re.compile(r"SEG_(PID|PV1|ORC|ZDS|OBX1)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROLS = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The segments of one message form. Constructing one refuses what `fill` could not fill.

    Raises:
        ConfigError: A placeholder that is not documented, a stray brace or a control character.
    """

    message: str
    pid: str
    pv1: str
    orc: str
    zds: str
    #: the OBX with the StudyInstanceUID
    obx1: str
    obx_b64: str
    obx_plain: str
    obx_html: str
    obx_html_split: str
    #: part of a report → its OBX-3, `Name` or `KEY^Label`; what is not here keeps its own name
    report_names: Mapping[str, str] = field(default_factory=dict)
    #: what stands for CR, LF and TAB in a field
    controls: Mapping[str, str] = field(default_factory=lambda: dict(HEXADECIMAL))
    #: OBX-1 counts the OBX segments
    numbers_obx: bool = False

    def __post_init__(self) -> None:
        """Validate every segment."""
        for each in fields(self):
            text = getattr(self, each.name)
            if not isinstance(text, str):
                continue
            if _CONTROLS.search(text):
                raise ConfigError(f"HL7 template, {each.name}: a control character")
            try:
                _pieces(text)
            except ConfigError as exc:
                raise ConfigError(f"HL7 template, {each.name}: {exc}") from exc

    def lines(self, populated: Collection[str]) -> list[str]:
        """The segments of the message, placeholders not yet filled in, one string each.

        Args:
            populated: Which of pid, pv1, orc, zds, obx1 are sent. The others leave no trace.
        """

        def segment(match: re.Match[str]) -> str:
            name = match[1].lower()
            # Blank lines vanish, so that a constant without line end is a segment all the same.
            return f"\r{getattr(self, name)}\r" if name in populated else "\r"

        text = _SEGMENT_WORD.sub(segment, self.message)
        return [line for line in _LINE_END.split(text) if line.strip()]


def fill(line: str, values: Mapping[str, Er7]) -> Er7:
    """Put the values in. What a value holds is never looked at for placeholders.

    Args:
        line: A segment of a template.
        values: Encoded text by placeholder, e.g. `study_metadata[PatientID]`; absent means empty.

    Raises:
        ConfigError: The line has a placeholder that is not documented.
    """
    return Er7(
        "".join(literal + (values.get(name, "") if name else "") for literal, name in _pieces(line))
    )


def is_about(line: str, placeholder: str) -> bool:
    """Whether a segment of a template holds this placeholder."""
    return any(name == placeholder for _, name in _pieces(line))


@lru_cache(maxsize=256)
def _pieces(text: str) -> list[tuple[str, str | None]]:
    """Literal text and the placeholder after it; the last piece may have none.

    `str.format` would follow attributes and indexes wherever a template leads it
    (`{x.__class__}`), so only names of the documented list are let through, as plain words.
    """
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as exc:
        raise ConfigError(f"unbalanced braces ({exc})") from exc
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if name not in PLACEHOLDERS or spec or conversion:
            raise ConfigError(f"{{{name}}} is not a documented placeholder")
    return [(literal, name) for literal, name, _, _ in parsed]


def _segment(name: str, last: int, **populated: str) -> str:
    """A segment with fields 1 to `last`, all empty but `f<number>`, ended by CR."""
    by_number = [populated.get(f"f{number}", "") for number in range(1, last + 1)]
    return "|".join([name, *by_number]) + "\r"


# MSH-1 is the bar itself, so the fields of MSH are numbered one lower here: f1 is MSH-2.
_MSH = _segment(
    "MSH", 20, f1="^~\\&", f2="{hl7_defaults[SEN_APP]}", f3="{hl7_defaults[SEN_FAC]}",
    f4="{hl7_defaults[REC_APP]}", f5="{hl7_defaults[REC_FAC]}",
    f6="{hl7_defaults[MessageTimestamp]}", f8="ORU^R01", f9="{hl7_defaults[MessageID]}",
    f10="{hl7_defaults[PROC_ID]}", f11="2.5.1", f14="AL", f15="NE", f17="UNICODE UTF-8",
    f18="{hl7_defaults[HL7_LANG]}",
)  # fmt: skip
_OBR = _segment(
    "OBR", 25, f1="1", f3="{study_metadata[AccessionNumber]}", f4="^Milvue findings",
    f7="{hl7_defaults[MessageTimestamp]}", f25="F",
)  # fmt: skip


def _obx(kind: str, name: str, value: str, status: str = "F") -> str:
    # OBX-1 stays empty: receivers are built on these bytes.
    return _segment("OBX", 11, f2=kind, f3=name, f5=value, f11=status)


DEFAULT_TEMPLATE = Template(
    message=_MSH
    + "SEG_PIDSEG_PV1SEG_ORC"
    + _OBR
    + "SEG_ZDSSEG_OBX1"
    + _obx("ST", "milvue^SmartUrgences^LN", f"{{{INFERENCE}}}"),
    pid=_segment(
        "PID", 9, f3="{study_metadata[PatientID]}^^^{study_metadata[IssuerOfPatientID]}^PI",
        f5="{study_metadata[PatientName]}", f7="{study_metadata[PatientBirthDate]}",
        f8="{study_metadata[PatientSex]}",
    ),
    pv1=_segment("PV1", 42),
    orc=_segment("ORC", 9, f1="NW", f7="^^^", f9="{hl7_defaults[MessageTimestamp]}"),
    zds=_segment("ZDS", 2, f1="{study_metadata[StudyInstanceUID]}^milvue^Application^DICOM"),
    obx1=_obx("HD", "^STUDYINSTANCEUID^", "{study_metadata[StudyInstanceUID]}", "X"),
    # Four components where HL7's ED has five: the form PACSOR 2.10.1 went back to.
    obx_b64=_obx("{obx_2}", "{section}^LN", "Text^^Base64^{content}"),
    obx_plain=_obx("{obx_2}", "{section}^LN", "{content}"),
    obx_html=_obx("ED", "CRHTML^^MOTEURIA", "^text^^Base64^{content}"),
    obx_html_split=_obx("ED", "{section}^LN", "^html^^Base64^{content}"),
)  # fmt: skip

#: What the standard wants where PACSOR's forms differ. ED has five components (v2.5.1 §2.A.24), its
#: type of table 0191 and subtype of 0291; a result's order control is RE (0119); PV1-2 is required.
CONFORMANT_TEMPLATE = replace(
    DEFAULT_TEMPLATE,
    message=_MSH.replace("|ORU^R01|", "|ORU^R01^ORU_R01|")
    + "SEG_PIDSEG_PV1SEG_ORC"
    + _OBR
    + "SEG_ZDSSEG_OBX1"
    + _obx("FT", "milvue^SmartUrgences^L", f"{{{INFERENCE}}}"),
    pv1=_segment("PV1", 42, f2="U"),
    orc=_segment(
        "ORC", 9, f1="RE", f3="{study_metadata[AccessionNumber]}",
        f9="{hl7_defaults[MessageTimestamp]}",
    ),
    obx1=_obx("HD", "113014^DICOM Study^DCM", "^{study_metadata[StudyInstanceUID]}^ISO"),
    obx_b64=_obx("ED", "{section}^L", "^TEXT^^Base64^{content}"),
    obx_plain=_obx("FT", "{section}^L", "{content}"),
    obx_html=_obx("ED", "CRHTML^^MOTEURIA", "^TEXT^HTML^Base64^{content}"),
    obx_html_split=_obx("ED", "{section}^L", "^TEXT^HTML^Base64^{content}"),
    controls=dict(FORMATTED),
    numbers_obx=True,
)  # fmt: skip

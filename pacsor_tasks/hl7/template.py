r"""The message template: segments as data, and the formatter that fills in the placeholders.

The format is PACSOR's `template.py`: `HL7_MESSAGE` with the words SEG_PID, SEG_PV1, SEG_ORC,
SEG_ZDS and SEG_OBX1, each replaced by its segment or by nothing *before* any patient data goes in,
then `{hl7_defaults[K]}`, `{study_metadata[K]}`, `{obx_2}`, `{section}` and `{content}`.
Source: contract §3.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
#: What only the segments of a report can say.
OF_A_REPORT = frozenset({"obx_2", "section", "content"})
PLACEHOLDERS = frozenset(
    {f"hl7_defaults[{key}]" for key in HL7_DEFAULTS}
    | {f"study_metadata[{key}]" for key in STUDY_METADATA}
    | OF_A_REPORT
)
#: The segments that are sent or not.
OPTIONAL = ("pid", "pv1", "orc", "zds", "obx1")
#: MSH-10: an acknowledgement is known by it.
CONTROL_ID = ("{hl7_defaults[MessageID]}", "{study_metadata[MessageID]}")
MAX_CHARS = 1024 * 1024
# The words may touch: PACSOR writes "SEG_PIDSEG_PV1SEG_ORC".
_SEGMENT_WORD = re.compile(r"SEG_(PID|PV1|ORC|ZDS|OBX1)")
_ANY_WORD = re.compile(r"SEG_[A-Z0-9_]+")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}(\||$)")
_LINE_END = re.compile(r"\r\n|\r|\n")
# What no field can carry, and half of a surrogate pair, which UTF-8 cannot.
_UNFIT = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The segments of one message form. Constructing one refuses what no RIS could acknowledge.

    Raises:
        ConfigError: Names the constant of `template.py` and what is wrong with it.
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
            if isinstance(text, str):
                with _naming(each.name):
                    _check_text(text, is_message=each.name == "message")
                    _check_placeholders(text, is_of_a_report=each.name.startswith("obx_"))
                    _check_segments(parted(text) if each.name != "message" else self.lines(()))
        with _naming("message"):
            _check_header(self.lines(OPTIONAL))

    def lines(self, populated: Collection[str]) -> list[str]:
        """The segments of the message, placeholders not yet filled in, one string each.

        Args:
            populated: Which of pid, pv1, orc, zds, obx1 are sent. The others leave no trace.
        """

        def segment(match: re.Match[str]) -> str:
            name = match[1].lower()
            # Blank lines vanish, so that a constant without line end is a segment all the same.
            return f"\r{getattr(self, name)}\r" if name in populated else "\r"

        return parted(_SEGMENT_WORD.sub(segment, self.message))


def parted(text: str) -> list[str]:
    """The segments of a constant; text in triple quotes may be indented and have blank lines."""
    return [line.lstrip() for line in _LINE_END.split(text) if line.strip()]


@contextmanager
def _naming(field_name: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as exc:
        name = "HL7_MESSAGE" if field_name == "message" else f"SEG_{field_name.upper()}"
        also = " (or SEG_OBX)" if field_name == "obx_b64" else ""
        raise ConfigError(f"HL7 template, {name}{also}: {exc}") from exc


def _check_text(text: str, *, is_message: bool) -> None:
    if len(text) > MAX_CHARS:
        raise ConfigError(f"longer than {MAX_CHARS} characters")
    if _UNFIT.search(text):
        raise ConfigError("a control character or half of a character")
    word = _ANY_WORD.search(_SEGMENT_WORD.sub("\r", text) if is_message else text)
    if word:
        raise ConfigError(f"{word[0]} stands for nothing here and would be sent as it is")


def _check_placeholders(text: str, *, is_of_a_report: bool) -> None:
    for _, name in _pieces(text):
        if name in OF_A_REPORT and not is_of_a_report:
            raise ConfigError(f"{{{name}}} is known in a report's segments (SEG_OBX_…) only")
    if is_of_a_report and not parted(text):
        raise ConfigError("no segment: a report of this form would be lost")


def _check_segments(lines: Sequence[str]) -> None:
    for line in lines:
        if not _SEGMENT.match(line):
            raise ConfigError(f"{line[:20]!r} is not the beginning of a segment")


def _check_header(lines: Sequence[str]) -> None:
    """Refuse a message that is not HL7, or whose acknowledgement could not be told from others."""
    if not lines or not lines[0].startswith("MSH|"):
        raise ConfigError("does not begin with MSH|")
    if any(line.startswith("MSH") for line in lines[1:]):
        raise ConfigError("a second MSH; one message is sent at a time")
    header = lines[0].split("|")
    if header[1] != "^~\\&":
        raise ConfigError(r"MSH-2 is not ^~\&, for which the text is escaped")
    if header[9:10] not in ([name] for name in CONTROL_ID):
        raise ConfigError(f"MSH-10 is not {CONTROL_ID[0]}, by which its acknowledgement is known")


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

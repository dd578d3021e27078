"""A site's own `template.py`: read as literals, never executed.

PACSOR runs that file. Here only assignments of constants count: text, text joined by `+`, names of
texts assigned above, and dictionaries of texts. Anything else is refused with its line.
Source: contract §3.1.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.escape import HEXADECIMAL
from pacsor_tasks.hl7.report import PARTS
from pacsor_tasks.hl7.template import DEFAULT_TEMPLATE, MAX_CHARS, Template

MAX_BYTES = 1024 * 1024
#: Characters joined by `+` in the whole file, each time a part is added counted anew.
MAX_JOINED = 32 * MAX_CHARS
#: constant of the file → field of the template
SEGMENTS = {
    "HL7_MESSAGE": "message",
    "SEG_PID": "pid",
    "SEG_PV1": "pv1",
    "SEG_ORC": "orc",
    "SEG_ZDS": "zds",
    "SEG_OBX1": "obx1",
    # The form PACSOR falls back to is the B64 one; SEG_OBX_B64 wins over it.
    "SEG_OBX": "obx_b64",
    "SEG_OBX_B64": "obx_b64",
    "SEG_OBX_PLAIN": "obx_plain",
    "SEG_OBX_HTML": "obx_html",
    "SEG_OBX_HTML_SPLIT": "obx_html_split",
}
MAPPING = "DEFAULT_REPORT_MAPPING"
ESCAPES = "DEFAULT_HL7_ESCAPE_DICT"
IDENTITY = "MAN_METADATA_DICT"
KNOWN = frozenset({*SEGMENTS, MAPPING, ESCAPES, IDENTITY})
#: What a site may write for a control character: one escape sequence, or text without delimiters.
_UNFIT = r"\x00-\x1f\x7f\ud800-\udfff"
_SUBSTITUTE = re.compile(rf"(?:\\[^\\|^&~{_UNFIT}]+\\|[^\\|^&~{_UNFIT}])*")

Literal = str | dict[str, str]


class _Known(dict[str, Literal]):
    """The constants read so far."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_JOINED

    def joined(self, left: str, right: str, line: int) -> str:
        """Two texts as one; a few lines of `A = A + A` would fill any memory."""
        length = len(left) + len(right)
        self._left -= length
        if length > MAX_CHARS or self._left < 0:
            raise ConfigError(f"line {line}: the text is longer than {MAX_CHARS} characters")
        return left + right


def read_template(path: Path, base: Template = DEFAULT_TEMPLATE) -> Template:
    """Read a template. What the file leaves out is as in `base`.

    `MAN_METADATA_DICT`, the sample identity, is read and never applied: it would make up a patient.

    Raises:
        ConfigError: The file cannot be read, holds something else than constants, or a constant
            has a placeholder that is not documented. Names the file and the line.
    """
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"HL7 template {path}: {exc.strerror}") from exc
    if len(source) > MAX_BYTES:
        raise ConfigError(f"HL7 template {path}: longer than {MAX_BYTES} bytes")
    try:
        return template_of(constants(source), base)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def constants(source: bytes) -> dict[str, Literal]:
    """The constants of a file, by name.

    Raises:
        ConfigError: It is no Python, or more than constants.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        where = f"line {exc.lineno}: " if isinstance(exc, SyntaxError) and exc.lineno else ""
        raise ConfigError(f"{where}not a Python file ({exc.__class__.__name__})") from exc
    found = _Known()
    for statement in tree.body:
        if _is_idle(statement):
            continue
        name, value = _assignment(statement)
        _refuse_misspelt(name, statement.lineno)
        try:
            found[name] = _value(value, found)
        except RecursionError as exc:
            raise ConfigError(f"line {statement.lineno}: {name} is nested too deeply") from exc
    return found


def template_of(given: Mapping[str, Literal], base: Template = DEFAULT_TEMPLATE) -> Template:
    """A template from constants; see `read_template`."""
    changed: dict[str, Any] = {}
    for name, field in SEGMENTS.items():
        if name in given:
            changed[field] = _text(name, given[name])
    return replace(
        base,
        **changed,
        report_names=_report_names(given.get(MAPPING, base.report_names)),
        controls=_controls(given[ESCAPES]) if ESCAPES in given else base.controls,
    )


def _is_idle(statement: ast.stmt) -> bool:
    """A docstring or `pass`: nothing that would have an effect."""
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or isinstance(statement, ast.Pass)


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr]:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target, value = statement.target, statement.value
    else:
        raise ConfigError(f"line {statement.lineno}: only constants are read; nothing is executed")
    if not isinstance(target, ast.Name):
        raise ConfigError(f"line {statement.lineno}: write NAME = value")
    return target.id, value


def _refuse_misspelt(name: str, line: int) -> None:
    # Other names are a site's own pieces; but one that is nearly ours would be silently without
    # effect.
    close = difflib.get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.8)
    is_ours = name.startswith(("SEG_", "HL7_", "DEFAULT_", "MAN_"))
    if name not in KNOWN and close and is_ours:
        raise ConfigError(f"line {line}: {name} means nothing; did you mean {close[0]}?")


def _value(node: ast.expr, known: _Known) -> Literal:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _value(node.left, known), _value(node.right, known)
        if isinstance(left, str) and isinstance(right, str):
            return known.joined(left, right, node.lineno)
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Dict):
        return {_key(key, known): _entry(value, known) for key, value in _pairs(node)}
    raise ConfigError(
        f"line {node.lineno}: neither text nor a dictionary of texts; nothing is executed"
    )


def _pairs(node: ast.Dict) -> list[tuple[ast.expr, ast.expr]]:
    if any(key is None for key in node.keys):
        raise ConfigError(f"line {node.lineno}: ** in a dictionary; nothing is executed")
    return [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key]


def _key(node: ast.expr, known: _Known) -> str:
    return _entry(node, known)


def _entry(node: ast.expr, known: _Known) -> str:
    if isinstance(node, ast.Constant) and not isinstance(node.value, str | bytes):
        return "" if node.value is None else str(node.value)
    value = _value(node, known)
    if not isinstance(value, str):
        raise ConfigError(f"line {node.lineno}: text is expected here")
    return value


def _text(name: str, value: Literal) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}: text is expected")
    return value


def _report_names(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{MAPPING}: a dictionary is expected")
    unknown = [part for part in given if part not in PARTS]
    if unknown:
        raise ConfigError(f"{MAPPING}: no part {unknown[0]!r} of a report; {', '.join(PARTS)}")
    names = {part: str(name) for part, name in given.items()}
    if unfit := [part for part, name in names.items() if re.search(r"[\ud800-\udfff]", name)]:
        raise ConfigError(f"{MAPPING}: {unfit[0]}: half of a character, which nothing can carry")
    return names


def _controls(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{ESCAPES}: a dictionary is expected")
    for control, substitute in given.items():
        if control not in {*HEXADECIMAL, "\r\n"}:
            raise ConfigError(f"{ESCAPES}: {control!r} is not CR, LF, TAB or CR LF")
        if not _SUBSTITUTE.fullmatch(substitute):
            raise ConfigError(
                f"{ESCAPES}: {substitute!r} would break a field; write e.g. '\\\\.br\\\\'"
            )
    return {**HEXADECIMAL, **given}

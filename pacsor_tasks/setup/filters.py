"""The rules of DICOM_FILTERS, one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.setup import values as v
from pacsor_tasks.setup.validation import checked
from pacsor_tasks.setup.values import Values
from pacsor_tasks.words import counted


def rules_of(values: Values) -> list[dict[str, Any]]:
    """The rules as they are written; none where they are not readable."""
    return _read(values) or []


def counted_rules(values: Values) -> str:
    """How many there are, for the menu; empty: none."""
    rules = _read(values)
    if rules is None:
        return "not readable"
    return counted(len(rules), "rule") if rules else ""


def _read(values: Values) -> list[dict[str, Any]] | None:
    try:
        found = json.loads(values.get("DICOM_FILTERS") or "[]")
    except ValueError:
        return None
    return list(found) if isinstance(found, list) else None


def with_rules(values: Values, rules: list[dict[str, Any]]) -> Values:
    """The values with these rules.

    Raises:
        ConfigError: What is wrong with one.
    """
    text = json.dumps(rules, separators=(",", ":"), ensure_ascii=False) if rules else ""
    return v.changed(values, {"DICOM_FILTERS": checked("DICOM_FILTERS", text, values)})


def described(rule: Mapping[str, Any]) -> str:
    """A rule as a person says it."""
    try:
        group, element = rule["tag"]["group"], rule["tag"]["element"]
        name = keyword_for_tag(int(f"{group}{element}", 16))
        verb = "must match" if rule["should_match"] else "must not match"
        return f"{name or ''} ({group},{element}) {verb} {rule['pattern']}".lstrip()
    except (KeyError, TypeError, ValueError):
        return json.dumps(rule)


def tag_of(text: str) -> dict[str, str]:
    """An element by its keyword (`Modality`) or tag (`0008,0060`).

    Raises:
        ConfigError: It is neither.
    """
    bare = text.strip().strip("()").replace(",", "").replace(" ", "")
    tag = tag_for_keyword(text.strip()) if bare else None
    if tag is None:
        try:
            tag = int(bare, 16) if len(bare) == 8 else None
        except ValueError:
            tag = None
    if tag is None:
        raise ConfigError(f"{text!r} is no element: write Modality or 0008,0060")
    return {"group": f"{tag >> 16:04X}", "element": f"{tag & 0xFFFF:04X}"}

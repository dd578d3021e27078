"""SOP classes by the short names people use for them: `SR`, `SC`, `GSPS`, …

Source: DICOM PS3.6 Annex A, PS3.4 §B.5.
"""

from __future__ import annotations

import re

from pydicom.uid import (  # type: ignore[attr-defined]  # imported there, not exported
    UID,
    UID_dictionary,
)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: below the root of the storage classes; what ends in a dot stands for all that begin so
_SHORT_NAMES = {
    "CR": ("1",),
    "DX": ("1.1", "1.1.1"),
    "GSPS": ("11.",),
    "KO": ("88.59",),
    "PDF": ("104.1",),
    "PR": ("11.",),
    "SC": ("7", "7."),
    "SEG": ("66.4", "66.7"),
    "SR": ("88.",),
}
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def uids_of(name: str) -> tuple[str, ...]:
    """The SOP Class UIDs that a name stands for.

    Args:
        name: A short name (`SR`: any structured report, `SC`: any secondary capture, …), the
            standard's keyword (`EncapsulatedPDFStorage`) or a UID.

    Raises:
        ValueError: It stands for none.
    """
    if (found := _SHORT.get(name.upper())) or (found := _KEYWORDS.get(name.casefold())):
        return found
    if _UID.fullmatch(name) and len(name) <= 64:
        return (name,)
    raise ValueError(
        f"{name!r} is no SOP class: write {', '.join(sorted(_SHORT))}, a keyword such as"
        " EncapsulatedPDFStorage, or a UID"
    )


def name_of(uid: str) -> str:
    """A SOP class for people."""
    return UID(uid).name


def _short() -> dict[str, tuple[str, ...]]:
    known = sorted(uid for uid in UID_dictionary if uid.startswith(_STORAGE))
    found = {}
    for name, wanted in _SHORT_NAMES.items():
        exact = {_STORAGE + part for part in wanted if not part.endswith(".")}
        below = tuple(_STORAGE + part for part in wanted if part.endswith("."))
        found[name] = tuple(uid for uid in known if uid in exact or uid.startswith(below))
    # A key object selection is a document of references and no report.
    found["SR"] = tuple(uid for uid in found["SR"] if uid not in found["KO"])
    return found


_SHORT = _short()
_KEYWORDS = {
    entry[4].casefold(): (uid,)
    for uid, entry in UID_dictionary.items()
    if entry[4] and uid.startswith("1.2.840.10008.5.1.4.")
}

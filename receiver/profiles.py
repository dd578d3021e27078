"""filter.cfg: which SOP classes and transfer syntaxes the receiver accepts, in DCMTK's syntax.

Source: DCMTK's asconfig.txt; contract §2.3. Names are compared without case, as DCMTK does.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydicom._uid_dict import UID_dictionary

from pacsor_tasks.dicom.elements import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.errors import ConfigError

PROJECT = Path(__file__).resolve().parent.parent
SYNTAXES, CONTEXTS, PROFILES = "TransferSyntaxes", "PresentationContexts", "Profiles"
#: Read past: what DCMTK knows beside the three.
OTHER_PARTS = ("RoleSelection", "ExtendedNegotiation")
IS_LITTLE = sys.byteorder == "little"

#: DCMTK's names of transfer syntaxes (dcuid.cc); those of SOP classes are pydicom's keywords.
SYNTAX_NAMES: dict[str, str] = {
    "LocalEndianExplicit": EXPLICIT_LE if IS_LITTLE else EXPLICIT_BE,
    "OppositeEndianExplicit": EXPLICIT_BE if IS_LITTLE else EXPLICIT_LE,
    "LittleEndianExplicit": EXPLICIT_LE,
    "BigEndianExplicit": EXPLICIT_BE,
    "LittleEndianImplicit": IMPLICIT_LE,
    "DeflatedLittleEndianExplicit": DEFLATED_LE,
    "DeflatedExplicitVRLittleEndian": DEFLATED_LE,
    "JPEGBaseline": "1.2.840.10008.1.2.4.50",
    "JPEGExtended:Process2+4": "1.2.840.10008.1.2.4.51",
    "JPEGLossless:Non-hierarchical:Process14": "1.2.840.10008.1.2.4.57",
    "JPEGLossless:Non-hierarchical-1stOrderPrediction": "1.2.840.10008.1.2.4.70",
    "JPEGLSLossless": "1.2.840.10008.1.2.4.80",
    "JPEGLSLossy": "1.2.840.10008.1.2.4.81",
    "JPEG2000LosslessOnly": "1.2.840.10008.1.2.4.90",
    "JPEG2000": "1.2.840.10008.1.2.4.91",
    "JPEG2000MulticomponentLosslessOnly": "1.2.840.10008.1.2.4.92",
    "JPEG2000Multicomponent": "1.2.840.10008.1.2.4.93",
    "MPEG2MainProfile@MainLevel": "1.2.840.10008.1.2.4.100",
    "MPEG2MainProfile@HighLevel": "1.2.840.10008.1.2.4.101",
    "MPEG4HighProfile/Level4.1": "1.2.840.10008.1.2.4.102",
    "MPEG4BDcompatibleHighProfile/Level4.1": "1.2.840.10008.1.2.4.103",
    "MPEG4HighProfile/Level4.2For2DVideo": "1.2.840.10008.1.2.4.104",
    "MPEG4HighProfile/Level4.2For3DVideo": "1.2.840.10008.1.2.4.105",
    "MPEG4StereoHighProfile/Level4.2": "1.2.840.10008.1.2.4.106",
    "HEVCMainProfile/Level5.1": "1.2.840.10008.1.2.4.107",
    "HEVCMain10Profile/Level5.1": "1.2.840.10008.1.2.4.108",
    "RLELossless": "1.2.840.10008.1.2.5",
}


@dataclass(frozen=True, slots=True)
class Context:
    """One SOP class the receiver accepts."""

    sop_class_uid: str
    #: in order of preference
    transfer_syntax_uids: tuple[str, ...]


class _Entry(NamedTuple):
    value: str
    line: int


class _Section(NamedTuple):
    line: int
    #: by the key in lower case
    entries: dict[str, _Entry]


def load(path: Path, profile: str) -> tuple[Context, ...]:
    """Read one profile of a filter.cfg.

    Args:
        path: Relative paths count from the working directory, then from the project's.
        profile: Its name, as in CONFIG_PROFILE.

    Raises:
        ConfigError: The file cannot be read or is malformed (file, line, what), or has no such
            profile.
    """
    if not path.is_absolute() and not path.exists() and (PROJECT / path).exists():
        path = PROJECT / path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"FILTER_CFG: {path} cannot be read: {reason}") from exc
    return _File(path, text).contexts(profile)


class _File:
    """A parsed filter.cfg."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        #: part → section → entries, names in lower case
        self.parts: dict[str, dict[str, _Section]] = {}
        self._part: dict[str, _Section] | None = None
        self._section: _Section | None = None
        for number, line in enumerate(text.splitlines(), start=1):
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                self._read(stripped, number)

    def contexts(self, profile: str) -> tuple[Context, ...]:
        """The contexts of a profile; all lists of the file are checked on the way."""
        syntaxes = {n: self._syntaxes(n) for n in self._names(SYNTAXES)}
        lists = {n: self._context_list(n, syntaxes) for n in self._names(CONTEXTS)}
        profiles = {n: self._profile(n, lists) for n in self._names(PROFILES)}
        if profile.lower() not in profiles:
            known = ", ".join(self._names(PROFILES)) or "none"
            raise ConfigError(
                f"CONFIG_PROFILE: {self.path} has no profile {profile!r} (it has: {known})"
            )
        return profiles[profile.lower()]

    def _read(self, line: str, number: int) -> None:
        if match := re.fullmatch(r"\[\[\s*(.+?)\s*\]\]", line):
            self._begin_part(match[1], number)
        elif match := re.fullmatch(r"\[\s*([^\[\]]+?)\s*\]", line):
            self._begin_section(match[1], number)
        elif match := re.fullmatch(r"([A-Za-z]+[0-9]*)\s*=\s*(\S.*)", line):
            self._add(match[1], match[2], number)
        else:
            raise self._error(number, f"neither [[part]], [section] nor Key = Value: {line!r}")

    def _begin_part(self, name: str, number: int) -> None:
        if name.lower() not in {n.lower() for n in (SYNTAXES, CONTEXTS, PROFILES, *OTHER_PARTS)}:
            raise self._error(number, f"unknown part [[{name}]]")
        if name.lower() in self.parts:
            raise self._error(number, f"[[{name}]] is there twice")
        self._part, self._section = self.parts.setdefault(name.lower(), {}), None

    def _begin_section(self, name: str, number: int) -> None:
        if self._part is None:
            raise self._error(number, f"[{name}] stands before any [[part]]")
        if name.lower() in self._part:
            first = self._part[name.lower()].line
            raise self._error(number, f"[{name}] is there twice, first in line {first}")
        self._section = self._part[name.lower()] = _Section(number, {})

    def _add(self, key: str, value: str, number: int) -> None:
        if self._section is None:
            raise self._error(number, f"{key} stands before any [section]")
        entries = self._section.entries
        if key.lower() in entries:
            first = entries[key.lower()].line
            raise self._error(number, f"{key} is there twice, first in line {first}")
        entries[key.lower()] = _Entry(value.strip().strip('"'), number)

    def _syntaxes(self, name: str) -> tuple[str, ...]:
        entries = self._numbered(SYNTAXES, name, "TransferSyntax")
        uids = (self._uid(entry.value, entry.line, "transfer syntax") for entry in entries)
        return tuple(dict.fromkeys(uids))

    def _context_list(
        self, name: str, syntaxes: dict[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for entry in self._numbered(CONTEXTS, name, "PresentationContext"):
            sop_class, *rest = (part.strip() for part in entry.value.split("\\"))
            if not rest or rest[0].lower() not in syntaxes:
                raise self._error(
                    entry.line, f"{entry.value!r} is not SOPClass\\ListOfTransferSyntaxes"
                )
            uid = self._uid(sop_class, entry.line, "SOP class")
            if uid in found:
                raise self._error(entry.line, f"{sop_class} is in [{name}] twice")
            found[uid] = syntaxes[rest[0].lower()]
        return found

    def _profile(
        self, name: str, lists: dict[str, dict[str, tuple[str, ...]]]
    ) -> tuple[Context, ...]:
        section = self.parts[PROFILES.lower()][name]
        entry = section.entries.get("presentationcontexts")
        if entry is None:
            raise self._error(section.line, f"[{name}] has no PresentationContexts")
        if entry.value.lower() not in lists:
            raise self._error(entry.line, f"no presentation contexts [{entry.value}]")
        return tuple(Context(uid, uids) for uid, uids in lists[entry.value.lower()].items())

    def _numbered(self, part: str, name: str, key: str) -> list[_Entry]:
        section = self.parts[part.lower()][name]
        wanted = {f"{key.lower()}{n}" for n in range(1, len(section.entries) + 1)}
        for given, entry in section.entries.items():
            if given not in wanted:
                raise self._error(
                    entry.line, f"[{name}] has {given}, but not {key}1, {key}2, … without gaps"
                )
        if not wanted:
            raise self._error(section.line, f"[{name}] is empty")
        return [section.entries[f"{key.lower()}{n}"] for n in range(1, len(wanted) + 1)]

    def _names(self, part: str) -> list[str]:
        return list(self.parts.get(part.lower(), {}))

    def _uid(self, value: str, line: int, what: str) -> str:
        uid = value if is_uid(value) else _NAMES.get(value.lower())
        if uid is None:
            raise self._error(line, f"{value!r} is not a {what} known here; write its UID")
        return uid

    def _error(self, line: int, message: str) -> ConfigError:
        return ConfigError(f"FILTER_CFG: {self.path}, line {line}: {message}")


def _class_names() -> dict[str, str]:
    names = {
        entry[4]: uid
        for uid, entry in UID_dictionary.items()
        if entry[1] == "SOP Class" and entry[4]
    }
    retired = {
        f"RETIRED_{name.removesuffix('Retired').removesuffix('Trial')}": uid
        for name, uid in names.items()
        if UID_dictionary[uid][3]
    }
    return names | retired | {"VerificationSOPClass": "1.2.840.10008.1.1"}


_NAMES = {name.lower(): uid for name, uid in (_class_names() | SYNTAX_NAMES).items()}

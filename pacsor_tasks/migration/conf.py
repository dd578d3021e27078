"""PACSOR's `conf/`: what of it is ours as it is, what is mended, what would be refused.

Source: contract §2.3, §2.5 (config.json), §3.1 (template.py).
"""

from __future__ import annotations

import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pacsor_tasks.conf_files import MAX_BYTES, read_json_object
from pacsor_tasks.errors import ConfigError
from pacsor_tasks.hl7.template_file import read_template
from pacsor_tasks.settings_hl7 import loadable

FILTER_CFG = "filter.cfg"
_SECTION = re.compile(r"\s*\[")
_NUMBERED = re.compile(r"(?P<key>\s*[A-Za-z]+)(?P<number>[0-9]+)(?P<rest>\s*=.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ConfFile:
    """A file of `conf/` as it will be written."""

    name: str
    content: bytes
    #: what was done to it or is wrong with it; empty: nothing
    note: str = ""
    #: the gateway would not start with it
    is_wrong: bool = False
    #: it is not copied: nobody knows what it is, and it may hold secrets
    is_left_out: bool = False
    #: everybody may read it, as the user of the container has to; else its owner alone
    is_public: bool = True


def conf_files(
    directory: Path | None, check_profile: Callable[[Path], object], values: Mapping[str, str]
) -> list[ConfFile]:
    """The files of a `conf/` that mean something here.

    Args:
        directory: None: there is none.
        check_profile: Reads the profile in use of a filter.cfg; raises ConfigError.
        values: The settings, for which of the files are in use.
    """
    if directory is None:
        return []
    found = []
    for path in sorted(directory.iterdir()):
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            continue
        if path.name == FILTER_CFG:
            found.append(_filter_cfg(path, check_profile))
        elif path.suffix == ".py":
            is_used = values.get("LOAD_TEMPLATE_AT_INIT") == path.stem
            found.append(_checked(path, read_template, is_used))
        elif path.suffix == ".json":
            is_used = values.get("LOAD_CONFIG_AT_INIT") == path.stem
            found.append(_checked(path, lambda p: loadable(read_json_object(p)), is_used))
    return found


def renumbered(text: str) -> tuple[str, list[str]]:
    """A filter.cfg whose keys count 1, 2, 3 … in each section that has one twice.

    PACSOR 1.0 had PresentationContext5 twice in CR_DX_SC_RF, and DCMTK silently lost a class.

    Returns:
        The text, and the names of the sections that were changed.
    """
    sections: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if _SECTION.match(line):
            sections.append([])
        sections[-1].append(line)
    mended = [section[0].strip().strip("[]") for section in sections[1:] if _has_twins(section)]
    return "".join(
        "".join(_counted(section) if _has_twins(section) else section) for section in sections
    ), mended


def _filter_cfg(path: Path, check_profile: Callable[[Path], object]) -> ConfFile:
    raw = _content(path)
    text, mended = renumbered(raw.decode("utf-8", "surrogateescape"))
    content = text.encode("utf-8", "surrogateescape")
    note = f"a number was there twice in {', '.join(mended)}: counted anew" if mended else ""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / FILTER_CFG
        copy.write_bytes(content)
        try:
            check_profile(copy)
        except ConfigError as exc:
            said = str(exc).replace(str(copy), FILTER_CFG)
            return ConfFile(FILTER_CFG, content, said, is_wrong=True)
    return ConfFile(FILTER_CFG, content, note)


def _checked(path: Path, check: Callable[[Path], object], is_used: bool) -> ConfFile:
    """A template or configuration: one that loads holds nothing but what messages are made of."""
    content = _content(path)
    try:
        check(path)
    except ConfigError as exc:
        said = str(exc).replace(f"{path}: ", "").replace("\n", "; ")
    else:
        return ConfFile(path.name, content)
    if path.suffix == ".json" and not is_used:
        said = f"not copied, since it may hold secrets: no configuration of HL7 messages ({said})"
        return ConfFile(path.name, content, said, is_left_out=True)
    is_public = bool(path.stat().st_mode & stat.S_IROTH)
    said = said if is_used else f"not in use, and would be refused: {said}"
    said += (
        "" if is_public else "; its owner's alone as it was: the container's user cannot read it"
    )
    return ConfFile(path.name, content, said, is_wrong=is_used, is_public=is_public)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _has_twins(section: list[str]) -> bool:
    keys = [
        m["key"].strip().lower() + str(int(m["number"])) for m in map(_NUMBERED.match, section) if m
    ]
    return len(keys) != len(set(keys))


def _counted(section: list[str]) -> list[str]:
    lines, number = [], 0
    for line in section:
        match = _NUMBERED.match(line)
        if match:
            number += 1
            line = f"{match['key']}{number}{match['rest']}"  # noqa: PLW2901
        lines.append(line)
    return lines

"""What becomes of a PACSOR installation, as a value: what is written and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pacsor_tasks.migration.conf import ConfFile
from pacsor_tasks.migration.install import Install


class Kind(StrEnum):
    """What is said about a name or file."""

    CHANGED = "changed"
    DROPPED = "not carried over"
    LOOK = "look at this"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for the report."""

    kind: Kind
    about: str
    text: str


@dataclass(slots=True)
class Plan:
    """What will be written, and what is said about it."""

    install: Install
    values: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    files: list[ConfFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    #: why the gateway does not start with it yet; empty: it does
    problems: list[str] = field(default_factory=list)

    def say(self, kind: Kind, about: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, about, text))

    def change(self, name: str, value: str, why: str) -> None:
        """Set a value and say so."""
        self.values[name] = value
        self.say(Kind.CHANGED, name, why)

    @property
    def untouched(self) -> list[str]:
        """Names taken over as they are."""
        said = {finding.about for finding in self.findings}
        return [name for name in self.values if name not in said]

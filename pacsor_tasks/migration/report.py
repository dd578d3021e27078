"""A plan in words: names, files and what was done, never a secret."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from pacsor_tasks.migration.outcome import Finding, Kind, Plan

WIDTH = 100


def report(plan: Plan) -> str:
    """What was understood, changed, left out and is to be looked at."""
    install = plan.install
    sources = [source.path for source in (install.env, install.config) if source]
    lines = [f"PACSOR in {install.root}: read {_names(install.root, sources, plan)}", ""]
    if install.unread:
        unread = ", ".join(str(path.relative_to(install.root)) for path in install.unread)
        lines[1:1] = [_indented(f"not read: {unread}")]
    if plan.untouched:
        lines += [f"as it is ({len(plan.untouched)})", _indented(", ".join(plan.untouched)), ""]
    for kind in Kind:
        found = [finding for finding in plan.findings if finding.kind is kind]
        if found:
            lines += [kind.value, *_table(found), ""]
    if plan.problems:
        lines += ["the gateway does not start with it yet", *map(_indented, plan.problems), ""]
    return "\n".join(lines)


def _names(root: Path, sources: Iterable[Path], plan: Plan) -> str:
    named = [str(path.relative_to(root)) for path in sources]
    named += [f"conf/{file.name}" for file in plan.files]
    return ", ".join(named)


def _table(findings: list[Finding]) -> list[str]:
    """Names that the same is said of stand together."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        names.setdefault(finding.text, []).append(finding.about)
    return [
        _indented(f"{', '.join(dict.fromkeys(about))}: {text}") for text, about in names.items()
    ]


def _indented(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip

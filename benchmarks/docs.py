"""Puts a benchmark's tables into the documentation, between the markers of their name."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def write(name: str, text: str) -> None:
    """Replace what is between the markers, which are added at the end if they are not there."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = DOCS.read_text().partition(begin)
    _, _, after = rest.partition(end)
    after = f"\n{after.lstrip()}" if after.strip() else ""
    DOCS.write_text(f"{before.rstrip()}\n\n{begin}\n{text}\n{end}\n{after}")

"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """`1 instance`, `3 instances`, `2 studies`; the plural by a plain s unless it is given."""
    return f"{n} {noun}" if n == 1 else f"{n} {plural or noun + 's'}"

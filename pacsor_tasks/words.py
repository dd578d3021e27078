"""Numbers in sentences."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 instance`, `3 instances`; the plural by a plain s."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"

"""journal.jsonl beside a study's instances: when it began, who sent, what came twice.

Lines are appended by many processes with one write each. They tell the story for the revision's
manifest; no instance depends on them, so they are not synced.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Instances named per kind of event in a manifest; beyond, only their number is kept.
MAX_NAMED = 50


@dataclass(frozen=True, slots=True)
class Beginning:
    """When a study's directory was made, on a clock that runs through restarts and clock steps."""

    boot_id: str
    #: CLOCK_BOOTTIME, seconds
    boottime_s: float
    #: epoch seconds: only used when the machine was restarted since
    wall_s: float

    @classmethod
    def now(cls) -> Beginning:
        """This moment."""
        return cls(_boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def elapsed_s(self, now: Beginning) -> float:
        """Seconds from this moment to `now`; never negative."""
        if self.boot_id and self.boot_id == now.boot_id:
            return max(0.0, now.boottime_s - self.boottime_s)
        return max(0.0, now.wall_s - self.wall_s)


def begin(directory: Path) -> None:
    """Write the first line."""
    now = Beginning.now()
    append(directory, "first", boot_id=now.boot_id, boottime_s=now.boottime_s, wall_s=now.wall_s)


def append(directory: Path, kind: str, **fields: Any) -> None:
    """Add one line.

    Raises:
        OSError: It cannot be written.
    """
    # The line's end comes first: after a line that a full disk cut off, this one is whole.
    line = b"\n" + json.dumps({"kind": kind, **fields}).encode()
    fd = os.open(directory / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def read(directory: Path) -> list[Mapping[str, Any]]:
    """All whole lines; none if there is no journal."""
    try:
        lines = (directory / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: list[Mapping[str, Any]] = []
    for line in lines:
        with suppress(ValueError):  # cut off by a crash
            record = json.loads(line)
            if isinstance(record, dict) and "kind" in record:
                found.append(record)
    return found


def beginning(directory: Path) -> Beginning | None:
    """When the study began; None if the journal does not say."""
    with suppress(KeyError, TypeError, ValueError):
        for record in read(directory):
            if record["kind"] == "first":
                return Beginning(
                    str(record["boot_id"]), float(record["boottime_s"]), float(record["wall_s"])
                )
    return None


def size(directory: Path) -> int:
    """Bytes in the journal: it grows with every arrival that adds no file."""
    try:
        return (directory / NAME).stat().st_size
    except FileNotFoundError:
        return 0


def remove(directory: Path) -> None:
    """Delete it. Safe to repeat."""
    (directory / NAME).unlink(missing_ok=True)


def calling_aets(records: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Who sent, in order of appearance."""
    senders = (str(r.get("calling_aet", "")) for r in records if r["kind"] == "association")
    return tuple(dict.fromkeys(sender for sender in senders if sender))


def events(records: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """What is worth telling an operator, one entry per kind, the instances counted."""
    told: dict[str, dict[str, Any]] = {}
    for record in records:
        uid = record.get("instance_uid")
        if uid is not None:
            event = told.setdefault(
                record["kind"], {"kind": record["kind"], "count": 0, "instance_uids": []}
            )
            event["count"] += 1
            if len(event["instance_uids"]) < MAX_NAMED and uid not in event["instance_uids"]:
                event["instance_uids"].append(uid)
    return tuple(told.values())


@cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""

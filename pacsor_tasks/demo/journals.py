"""What the simulated peers say they received: the demo believes them, not the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pacsor_tasks.words import counted

STORED_OR_WARNED = range(0xB000, 0xC000)


def instances_stored(journal: Path, study_uid: str) -> int:
    """Different instances of the study that a PACS answered with success."""
    return len(
        {
            event["sop_instance_uid"]
            for event in _events(journal, "store")
            if event["study_uid"] == study_uid
            and (event["status"] == 0 or event["status"] in STORED_OR_WARNED)
        }
    )


def messages_acknowledged(journal: Path) -> dict[str, str]:
    """The messages a RIS took: MSH-10 → acknowledgement."""
    return {
        event["control_id"]: event["answer"]
        for event in _events(journal, "message")
        if event["answer"] in {"AA", "CA"}
    }


def instances_uploaded(journal: Path, study_uid: str) -> int:
    """Uploads of the study's instances that the AI service took."""
    return sum(
        bool(event["accepted"])
        for event in _events(journal, "put")
        if event["study_uid"] == study_uid
    )


def is_received(journals: Mapping[str, Path], study_uid: str, delivery: Mapping[str, Any]) -> str:
    """In words what a destination's journal says of a delivery; "" when it is not whole."""
    journal = journals[delivery["destination"]]
    if delivery["kind"] == "storescu":
        stored = instances_stored(journal, study_uid)
        return f"{counted(stored, 'instance')} stored" if 0 < delivery["total"] <= stored else ""
    answer = messages_acknowledged(journal).get(delivery["control_id"])
    return f"message {delivery['control_id']} acknowledged ({answer})" if answer else ""


def _events(journal: Path, kind: str) -> Iterator[dict[str, Any]]:
    try:
        with journal.open(encoding="utf-8") as file:
            for line in file:
                event = json.loads(line)
                if event["kind"] == kind:
                    yield event
    except FileNotFoundError:
        return

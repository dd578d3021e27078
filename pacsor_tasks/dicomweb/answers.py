"""What a server says became of the instances of one STOW-RS request.

Source: DICOM PS3.18 §10.5.3 and Annex I.2 (Store Instances Response Module), PS3.18 Annex F (JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.statuses import Verdict, classify

FAILED, REFERENCED, OTHER_FAILURES = "00081198", "00081199", "0008119A"
SOP_INSTANCE_UID, WARNING_REASON, FAILURE_REASON = "00081155", "00081196", "00081197"
#: SOPInstanceUID in what a search finds.
FOUND_UID = "00080018"
#: Ours, for a failure or warning without a reason: it may pass; it was stored.
PROCESSING_FAILURE, STORED_WITH_WARNING = 0x0110, 0xB000
#: Ours, for a request about one instance that was refused without a reason.
REFUSED = 0xC000
#: The server took the request but is not at one with all of it.
ACCEPTED = 202
#: … or refuses it, perhaps for one of its instances.
REFUSALS = frozenset({400, 406, 409, 413, 415, 422})
#: A reason as text: of 16 bits, and `int` takes no text of thousands of digits.
_DECIMAL = re.compile(r"\s*[0-9]{1,9}\s*")


class Said(NamedTuple):
    """What became of one instance: a status as of C-STORE, and in words, if any are given."""

    status: int
    words: str = ""


def read(http_status: int, body: bytes, asked: Collection[str]) -> dict[str, Said]:
    """What the answer says of the instances of its request.

    Args:
        http_status: Of the answer: 2xx, or one of REFUSALS.
        body: `application/dicom+json`, or anything else, which says nothing.
        asked: SOP Instance UIDs of the request.

    Returns:
        By SOP Instance UID; nothing of an instance of which it does not say enough.
    """
    data_set = _object(body)
    found: dict[str, Said] = {}
    for item in _items(data_set, REFERENCED):
        # A reason that is no warning there is one of those that made a server take nothing.
        reason = _number(item, WARNING_REASON)
        status = 0 if reason is None else reason
        if classify(status) is not Verdict.DELIVERED:
            status = STORED_WITH_WARNING
        found[_uid(item)] = Said(status, _words(reason))
    for item in _items(data_set, FAILED):
        reason = _number(item, FAILURE_REASON)
        status = PROCESSING_FAILURE if reason in {None, 0} else reason
        assert status is not None  # noqa: S101 - for mypy
        found[_uid(item)] = Said(status, _words(reason))
    for uid in asked:
        if uid not in found and http_status != ACCEPTED and 200 <= http_status < 300:
            found[uid] = Said(0)
        elif uid not in found and len(asked) == 1:
            found[uid] = _alone(http_status)
    return {uid: said for uid, said in found.items() if uid in asked}


def lists(body: bytes, sop_instance_uid: str) -> bool:
    """Whether the answer to a search names an instance. Source: DICOM PS3.18 §10.6.3."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return False
    items = found if isinstance(found, list) else []
    return any(
        isinstance(item, dict) and _uid(item, FOUND_UID) == sop_instance_uid for item in items
    )


def _alone(http_status: int) -> Said:
    """What a status means for the only instance of a request when nothing else is said."""
    status = STORED_WITH_WARNING if http_status == ACCEPTED else REFUSED
    return Said(status)


def _words(reason: int | None) -> str:
    return meaning(reason) if reason else ""


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # XML from a server that knows no other, a page, nothing
        return {}
    if isinstance(found, list):  # seen in the field: the data set as an array of one
        found = found[0] if found else {}
    return found if isinstance(found, dict) else {}


def _items(data_set: Mapping[str, Any], tag: str) -> Iterator[Mapping[str, Any]]:
    element = data_set.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    for item in values if isinstance(values, list) else ():
        if isinstance(item, dict):
            yield item


def _value(item: Mapping[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _uid(item: Mapping[str, Any], tag: str = SOP_INSTANCE_UID) -> str:
    value = _value(item, tag)
    return value.strip(" \0") if isinstance(value, str) else ""


def _number(item: Mapping[str, Any], tag: str) -> int | None:
    value = _value(item, tag)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= 0xFFFF else None

"""What a C-STORE status means for the delivery: done, again, or an operator's affair.

Source: DICOM PS3.4 Annex B.2.3, PS3.7 §9.1.1.1.9 and Annex C.
"""

from __future__ import annotations

from enum import StrEnum

#: Ours, for an instance that was not sent: no accepted context takes it.
NO_CONTEXT = 0x0122
#: Ours, for an instance that was not sent: its file cannot be read or re-encoded.
UNSENDABLE = 0x0117

#: The peer has the instance already.
DUPLICATE = 0x0111

_WARNINGS = {0x0001, 0x0107, 0x0116}
#: Processing failure, duplicate invocation, resource limitation, cancelled.
_MAY_PASS = {0x0110, 0x0210, 0x0213, 0xFE00}


class Verdict(StrEnum):
    """What becomes of an instance after its answer."""

    DELIVERED = "delivered"
    RETRYABLE = "retryable"
    PERMANENT = "permanent"


def classify(status: int) -> Verdict:
    """Judge one C-STORE status.

    Warnings are stored instances; a duplicate is one that was stored before. Out of resources and
    general failures of the peer may pass. All else, statuses the standard does not know included,
    would be answered the same way again: an operator has to look.
    """
    is_warning = status in _WARNINGS or 0xB000 <= status <= 0xBFFF
    if status == 0 or is_warning or status == DUPLICATE:
        return Verdict.DELIVERED
    if status in _MAY_PASS or 0xA700 <= status <= 0xA7FF:
        return Verdict.RETRYABLE
    return Verdict.PERMANENT

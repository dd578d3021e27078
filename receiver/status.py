"""The C-STORE answers of the receiver.

Source: DICOM PS3.4 §B.2.3 (the ranges A7xx, A9xx, Cxxx and their meaning), PS3.7 Annex C (0110).
The last digits are our own; a sender shows them beside the meaning.
"""

from __future__ import annotations

from enum import IntEnum


class StoreStatus(IntEnum):
    """How a C-STORE ended."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    OUT_OF_RESOURCES = 0xA700
    OTHER_SOP_CLASS = 0xA900
    OTHER_SOP_INSTANCE = 0xA901
    NOT_A_DATA_SET = 0xC100
    EMPTY_DATA_SET = 0xC101
    UID_MISSING = 0xC102
    UID_INVALID = 0xC103

    @property
    def meaning(self) -> str:
        """What the sender's log should say; at most 64 characters (an LO, PS3.7 §9.1.1.1.9)."""
        return MEANINGS[self]

    @property
    def hex(self) -> str:
        """As operators know it: 0xA700."""
        return f"0x{self:04X}"


MEANINGS: dict[StoreStatus, str] = {
    StoreStatus.SUCCESS: "Success",
    StoreStatus.PROCESSING_FAILURE: "Processing failure",
    StoreStatus.OUT_OF_RESOURCES: "Refused: out of resources, try again later",
    StoreStatus.OTHER_SOP_CLASS: "Data set does not match SOP class",
    StoreStatus.OTHER_SOP_INSTANCE: "Data set does not match SOP instance",
    StoreStatus.NOT_A_DATA_SET: "Cannot understand: not a whole DICOM data set",
    StoreStatus.EMPTY_DATA_SET: "Cannot understand: the data set is empty",
    StoreStatus.UID_MISSING: "Cannot understand: a UID is missing",
    StoreStatus.UID_INVALID: "Cannot understand: a UID is invalid",
}

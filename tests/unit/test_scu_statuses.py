"""What each C-STORE status means for the delivery. Source: PS3.4 Annex B.2.3, PS3.7 Annex C."""

from __future__ import annotations

import pytest

from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.statuses import NO_CONTEXT, UNSENDABLE, Verdict, classify


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.DELIVERED),  # success
        (0x0001, Verdict.DELIVERED),  # requested optional attributes not supported: a warning
        (0xB000, Verdict.DELIVERED),  # coercion of data elements
        (0xB006, Verdict.DELIVERED),  # elements discarded
        (0xB007, Verdict.DELIVERED),  # data set does not match SOP class, stored all the same
        (0x0107, Verdict.DELIVERED),  # attribute list error: a warning
        (0x0116, Verdict.DELIVERED),  # attribute value out of range: a warning
        (0x0111, Verdict.DELIVERED),  # duplicate SOP instance: it has it
        (0xA700, Verdict.RETRYABLE),  # out of resources
        (0xA7FF, Verdict.RETRYABLE),  # … the whole range
        (0x0110, Verdict.RETRYABLE),  # processing failure: says nothing of the instance
        (0x0210, Verdict.RETRYABLE),  # duplicate invocation: of that message id
        (0x0213, Verdict.RETRYABLE),  # resource limitation
        (0xFE00, Verdict.RETRYABLE),  # cancelled: not by us
        (0xA800, Verdict.PERMANENT),  # not a storage status
        (0xA900, Verdict.PERMANENT),  # data set does not match SOP class
        (0xA9FF, Verdict.PERMANENT),
        (0xC000, Verdict.PERMANENT),  # cannot understand
        (0xCFFF, Verdict.PERMANENT),
        (0x0117, Verdict.PERMANENT),  # invalid object instance
        (0x0118, Verdict.PERMANENT),  # no such SOP class
        (0x0119, Verdict.PERMANENT),  # class-instance conflict
        (0x0122, Verdict.PERMANENT),  # SOP class not supported
        (0x0124, Verdict.PERMANENT),  # not authorised
        (0x0211, Verdict.PERMANENT),  # unrecognised operation
        (0x0212, Verdict.PERMANENT),  # mistyped argument
        (0xFF00, Verdict.PERMANENT),  # pending: not an answer to a C-STORE
        (0x1234, Verdict.PERMANENT),  # unknown to the standard
    ],
)
def test_a_status_is_judged(status: int, verdict: Verdict) -> None:
    assert classify(status) is verdict


def test_what_we_could_not_send_is_not_tried_again() -> None:
    assert classify(NO_CONTEXT) is classify(UNSENDABLE) is Verdict.PERMANENT


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x0000, "Success"),
        (0xA700, "Refused: Out of Resources"),
        (0xB000, "Coercion of Data Elements"),
        (0xC123, "Cannot Understand"),
        (0x0122, "Refused: SOP Class Not Supported"),
        (0xFE00, "Cancelled"),
        (0x1234, "Unknown status"),
    ],
)
def test_a_status_has_words(status: int, words: str) -> None:
    assert meaning(status) == words

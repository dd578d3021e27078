"""Whether an association is let in, and the words of its rejection.

Source: DICOM PS3.8 §9.3.4 (Table 9-21: result, source, reason of an A-ASSOCIATE-RJ).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pacsor_tasks.refusals import Reason
from receiver.allow_list import Caller, Rules, refusal
from receiver.seats import Seat, Seats

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
PERMANENT, TRANSIENT = 1, 2
USER, PRESENTATION = 1, 3


class Rejection(NamedTuple):
    """The three numbers of an A-ASSOCIATE-RJ."""

    result: int
    source: int
    reason: int


#: A sender does not come back by itself after a permanent rejection, and does after a transient
#: one. A full disk passes by itself, so it is congestion; a number reached is the local limit.
REJECTIONS: dict[Reason, Rejection] = {
    Reason.APPLICATION_CONTEXT: Rejection(PERMANENT, USER, 2),
    Reason.CALLING_AET: Rejection(PERMANENT, USER, 3),
    Reason.ADDRESS: Rejection(PERMANENT, USER, 3),
    Reason.CALLED_AET: Rejection(PERMANENT, USER, 7),
    Reason.DISK_FULL: Rejection(TRANSIENT, PRESENTATION, 1),
    Reason.UNAVAILABLE: Rejection(TRANSIENT, PRESENTATION, 1),
    Reason.TOO_MANY: Rejection(TRANSIENT, PRESENTATION, 2),
    Reason.TOO_MANY_FROM_PEER: Rejection(TRANSIENT, PRESENTATION, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The policy.

    Args:
        seats: How many may be open.
        is_disk_full: Whether nothing more is taken.
        rules: The allow list of this moment; None: everybody may send.
        own_aet: What has to be called; None: any AE title.
    """

    seats: Seats
    is_disk_full: Callable[[], bool]
    rules: Callable[[], Rules] | None = None
    own_aet: str | None = None

    def admit(self, caller: Caller, application_context: str) -> Seat | Reason:
        """A seat for the association, or why it is rejected.

        What a peer cannot change by waiting comes first: nobody waits for what never comes.
        """
        reason = self._unwelcome(caller, application_context)
        if reason is not None:
            return reason
        if self.is_disk_full():
            return Reason.DISK_FULL
        try:
            return self.seats.take(caller.address)
        except OSError:
            return Reason.UNAVAILABLE

    def _unwelcome(self, caller: Caller, application_context: str) -> Reason | None:
        if application_context != APPLICATION_CONTEXT:
            return Reason.APPLICATION_CONTEXT
        if self.rules is not None:
            reason = refusal(self.rules(), caller)
            if reason is not None:
                return reason
        if self.own_aet is not None and caller.called_aet != self.own_aet:
            return Reason.CALLED_AET
        return None


def plain_address(address: str) -> str:
    """An address as rules and counts mean it: no zone, and IPv4 in IPv6 as IPv4."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def is_own_check(caller: Caller) -> bool:
    """Whether it is the health check of this machine: its rejection tells nobody anything new."""
    return caller.calling_aet == "HEALTHCHECK" and is_loopback(caller.address)


def is_loopback(address: str) -> bool:
    """Whether a connection comes from this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

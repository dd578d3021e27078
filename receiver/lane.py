"""C-STOREs like the one before, without Python between: `_native.store`.

A modality sends the instances of a study one after the other, in the same presentation context, of
the same SOP class. When Python has stored one, the next ones are taken as it was: command, data
set, file, name and answer in one go, while each is ordinary and fits into the buffer. Whatever is
not stays unread, as if nobody had looked at it, and Python, which decides, takes it from its
beginning: another study or class, a duplicate, a refusal, a full disk, a header that is not plain.

So there is no second opinion here, and no state: an instance is done whole, or not at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pacsor_tasks.dicom.elements import number_of
from pacsor_tasks.native import native
from receiver.associations import Joined, OpenAssociation
from receiver.pouring import Stop

#: Time after which Python looks whether there is something else to do, and room on the disk.
TURN_NS = 20_000_000
#: A lane that was left so often in a row does not fit what comes.
MOST_MISSES = 3


class Kind(NamedTuple):
    """What the instances of a lane have in common."""

    context_id: int
    sop_class_uid: str
    transfer_syntax_uid: str
    study_uid: str
    joined: Joined


class Turn(NamedTuple):
    """What one call did."""

    stop: Stop
    #: of the socket; 0: it was none
    errno: int
    #: of the buffer
    start: int
    end: int
    #: of the last answer
    unsent: bytes


@dataclass(slots=True)
class Lane:
    """Takes C-STOREs of one kind. Used by one thread.

    Args:
        kind: Which.
        association: Who sends.
        check_room: Raises OSError where nothing may be written: above the disk's watermark.
        is_synced: Whether each file is sealed and synced before it is answered for.
        locks: Gate and lock of the study; this lane's own, closed with it.
        meta: File meta information before and after the SOP Instance UID.
        partials: How the names of its partial files begin.
    """

    kind: Kind
    association: OpenAssociation
    check_room: Callable[[], None]
    is_synced: bool
    locks: tuple[int, int]
    meta: tuple[bytes, bytes]
    partials: str
    _number: int = 0
    _n_misses: int = 0
    _encoding: int = field(init=False)
    _is_open: bool = True

    def __post_init__(self) -> None:
        self._encoding = number_of(self.kind.transfer_syntax_uid)

    @property
    def is_worth_it(self) -> bool:
        """Whether what comes fits it, as far as can be told."""
        return self._n_misses < MOST_MISSES

    def take(
        self, fds: tuple[int, int], buffer: memoryview, unread: tuple[int, int], patience_ms: int
    ) -> Turn:
        """Store what comes, for as long as it is of the kind, and no longer than a turn.

        Args:
            fds: Of the socket, and what ends the wait for it.
            buffer: What is read goes here.
            unread: Its part that is not dealt with yet: begins with a message.
            patience_ms: How long to wait for more.
        """
        assert native is not None  # noqa: S101 - for mypy: else there is no lane
        try:
            self.check_room()
        except OSError:
            return Turn(Stop.UNUSUAL, 0, *unread, b"")
        kind = self.kind
        stop, errno, start, end, n_stored, self._number, unsent = native.store(
            *fds,
            buffer,
            *unread,
            patience_ms,
            time.monotonic_ns() + TURN_NS,
            self._number,
            kind.context_id,
            self._encoding,
            self.is_synced,
            *self.locks,
            kind.joined.inode,
            kind.sop_class_uid.encode(),
            kind.study_uid.encode(),
            *self.meta,
            str(kind.joined.directory),
            self.partials,
        )
        if n_stored:
            self._n_misses = 0
        elif stop == Stop.UNUSUAL:
            self._n_misses += 1
        self.association.n_stored += n_stored
        self.association.tidy()
        return Turn(Stop(stop), errno, start, end, unsent)

    def close(self) -> None:
        """Let go of the locks. Safe to repeat."""
        if self._is_open:
            self._is_open = False
            for fd in self.locks:
                os.close(fd)


class Example(Protocol):
    """A C-STORE that Python has stored, `handlers.Arrival`."""

    def lane(self, before: Lane | None) -> Lane | None:
        """What takes further ones like it: `before`, if that does; None if nothing does."""


@dataclass(slots=True)
class Lanes:
    """The lane of an association: another one whenever what it sends changes."""

    _lane: Lane | None = None
    #: what Python took last, until it was asked for what takes others like it
    _example: Example | None = None

    def follow(self, example: Example) -> None:
        """What comes next may be like this one."""
        self._example = example

    def now(self, peer_maximum: int) -> Lane | None:
        """What takes the message that begins now; None if Python does.

        Args:
            peer_maximum: Longest PDU the peer takes, bytes; 0: any.
        """
        example, self._example = self._example, None
        if example is not None:
            # Who takes no PDU as long as an answer gets it in pieces, by Python.
            takes_answers = native is not None and not 0 < peer_maximum < native.REPLY_BYTES
            fitting = example.lane(self._lane) if takes_answers else None
            if fitting is not self._lane:
                self.close()
                self._lane = fitting
        return self._lane if self._lane is not None and self._lane.is_worth_it else None

    def close(self) -> None:
        """The association has ended, or is of another kind now. Safe to repeat."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None

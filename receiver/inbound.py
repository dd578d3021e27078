"""What a peer's P-DATA means: C-STORE goes to a file as it arrives, all else to pynetdicom.

Knows no socket and no pynetdicom: bytes in, calls of a `Port` out.

Source: DICOM PS3.7 §6.3 (messages), §9.3.1 (C-STORE), PS3.8 Annex E (fragments of messages).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from receiver.commands import Command, parse_command, store_response, uid_text
from receiver.handlers import Arrival, StoreRequest
from receiver.incoming import MAX_PIECES
from receiver.pdata import COMMAND, LAST, Fragment, Malformed, PdataParser
from receiver.pouring import Channel, Source, Stop

#: A command set has a few hundred bytes.
MAX_COMMAND_BYTES = 1 << 16
#: Messages that are not C-STORE are gathered in memory: a storage commitment of 10,000 instances
#: has about 2 MB.
MAX_OTHER_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Accepted:
    """A presentation context that was negotiated."""

    abstract_syntax_uid: str
    transfer_syntax_uid: str


class Port(Protocol):
    """What `Inbound` needs of an association."""

    @property
    def peer_maximum(self) -> int:
        """Longest PDU the peer takes, bytes; 0: any."""

    def accepted(self, context_id: int) -> Accepted | None:
        """The context of that id; None if it was not accepted."""

    def begin(self, request: StoreRequest) -> Arrival:
        """A C-STORE begins."""

    def pass_on(self, context_id: int, control: int, data: bytes) -> None:
        """A PDV that is not C-STORE's: its message control header and its data."""

    def reply(self, pdus: bytes) -> None:
        """Send.

        Raises:
            OSError: It cannot be sent.
        """


@dataclass(slots=True)
class _Store:
    """The C-STORE that is coming in."""

    command: Command
    arrival: Arrival


class Inbound:
    """One association's incoming messages. Used by one thread; keeps no data between two calls.

    Args:
        port: The association.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._parser = PdataParser()
        #: of the message that is coming in; None between two
        self._context_id: int | None = None
        self._command = bytearray()
        self._store: _Store | None = None
        self._pieces: list[memoryview] = []
        #: bytes so far of a message that is not C-STORE's; None: none is coming in
        self._other_bytes: int | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing that was begun is unfinished."""
        return self._context_id is None and self._parser.is_between_pdus

    def take(self, data: memoryview) -> int:
        """Take the next bytes of the stream.

        Args:
            data: What arrived; not needed any longer afterwards.

        Returns:
            How many were taken: all, or those before a PDU that is not P-DATA-TF.

        Raises:
            Malformed: The association cannot go on. Then `abandon`.
            OSError: An answer cannot be sent. Likewise.
        """
        for fragment in self._parser.feed(data):
            self._take(fragment)
        self._flush()
        return self._parser.n_taken

    @property
    def may_pour(self) -> bool:
        """Whether what comes next is data for a file that is there."""
        store, parser = self._store, self._parser
        return (
            store is not None
            and store.arrival.may_pour
            and parser.position is not None
            # A head may be the last that came: what it is of shows with the first byte of its data.
            and parser.is_data_of(self._context_id)
        )

    def pour(self, source: Source) -> Stop:
        """Let the data go from the socket to its file by themselves, as far as they are ordinary.

        Call it when everything read was taken, and only if it `may_pour`. What it leaves unread
        is to be taken.

        Raises:
            OSError: The connection is broken. Then `abandon`.
        """
        store, position = self._store, self._parser.position
        assert store is not None and position is not None  # noqa: S101, PT018 - for mypy
        channel = Channel(source, self._context_id or 0, position)
        stop = store.arrival.pour(channel)
        self._parser.go_on_at(channel.position)
        if stop is Stop.ENDED:
            self._finish(store)
        return stop

    def abandon(self) -> None:
        """The rest never comes: nothing of the message stays. Safe to repeat."""
        if self._store is not None:
            self._store.arrival.abandon()
            self._store = None
        self._pieces.clear()

    def _take(self, fragment: Fragment) -> None:
        if self._context_id is None:
            self._context_id = fragment.context_id
        elif fragment.context_id != self._context_id:
            raise Malformed("a message changes its presentation context")
        is_data_expected = self._store is not None or self._other_bytes is not None
        if fragment.is_command == is_data_expected:
            raise Malformed("a command set and a data set out of turn")
        if fragment.is_command:
            self._take_command(fragment)
        elif self._store is not None:
            self._take_data(self._store, fragment)
        else:
            self._take_other(fragment)

    def _take_command(self, fragment: Fragment) -> None:
        self._command += fragment.data
        if len(self._command) > MAX_COMMAND_BYTES:
            raise Malformed(f"a command set of more than {MAX_COMMAND_BYTES} bytes")
        if not fragment.is_last:
            return
        encoded = bytes(self._command)
        self._command.clear()
        command = parse_command(encoded)
        if command is None or command.field is None or command.has_data_set is None:
            # pynetdicom's thread would die of it.
            raise Malformed("a command set that is not whole")
        if command.is_store:
            self._begin(command, fragment.context_id)
        else:
            self._port.pass_on(fragment.context_id, COMMAND | LAST, encoded)
            if command.has_data_set:
                self._other_bytes = len(encoded)
            else:
                self._context_id = None

    def _begin(self, command: Command, context_id: int) -> None:
        context = self._port.accepted(context_id)
        if context is None:
            raise Malformed(f"a C-STORE in presentation context {context_id}, not accepted")
        request = StoreRequest(
            sop_class_uid=uid_text(command.sop_class_uid),
            sop_instance_uid=uid_text(command.sop_instance_uid),
            abstract_syntax_uid=context.abstract_syntax_uid,
            transfer_syntax_uid=context.transfer_syntax_uid,
            context_id=context_id,
        )
        self._store = _Store(command, self._port.begin(request))
        if not command.has_data_set:
            self._finish(self._store)

    def _take_data(self, store: _Store, fragment: Fragment) -> None:
        if fragment.data:
            self._pieces.append(fragment.data)
        if fragment.is_last:
            self._finish(store)
        elif len(self._pieces) == MAX_PIECES:
            self._flush()

    def _flush(self) -> None:
        if self._pieces and self._store is not None:
            self._store.arrival.write(self._pieces)
        self._pieces.clear()

    def _finish(self, store: _Store) -> None:
        answer = store.arrival.finish(self._pieces)
        self._pieces.clear()
        context_id, self._context_id, self._store = self._context_id, None, None
        assert context_id is not None  # noqa: S101 - for mypy: a message is coming in
        self._port.reply(
            store_response(context_id, store.command, answer.status, self._port.peer_maximum)
        )

    def _take_other(self, fragment: Fragment) -> None:
        self._other_bytes = (self._other_bytes or 0) + len(fragment.data)
        if self._other_bytes > MAX_OTHER_BYTES:
            raise Malformed(f"a message of more than {MAX_OTHER_BYTES} bytes")
        control = LAST if fragment.is_last else 0
        self._port.pass_on(fragment.context_id, control, bytes(fragment.data))
        if fragment.is_last:
            self._other_bytes = self._context_id = None

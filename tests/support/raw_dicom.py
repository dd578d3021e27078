"""A DICOM peer over a bare socket: fast, and free to send what no library would.

Source: DICOM PS3.8 §9.3 (PDUs), Annex E (command and data fragments), PS3.7 §9.3.1 (C-STORE).
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian

from tests.support.instances import CR, encode, make_dataset

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
#: The message control header's bits: what a fragment is of, and whether it is the last.
COMMAND, LAST = 1, 2
CONTEXT_ID = 1
STORE_RQ, STORE_RSP, ECHO_RQ = 0x0001, 0x8001, 0x0030
NO_DATA_SET = 0x0101
TIMEOUT_S = 30.0
_APPLICATION = b"1.2.840.10008.3.1.1.1"

#: (SOP class UID, transfer syntax UIDs) of one context each, with the ids 1, 3, 5, …
Contexts = Sequence[tuple[str, Sequence[str]]]
CR_EXPLICIT: Contexts = ((CR, (ExplicitVRLittleEndian,)),)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` is what its header claims, if not the truth."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def pdv(
    control: int, data: bytes, *, context_id: int = CONTEXT_ID, length: int | None = None
) -> bytes:
    """A presentation data value; `length` is what it claims to have, if not the truth."""
    claimed = len(data) + 2 if length is None else length
    return struct.pack(">IBB", claimed, context_id, control) + data


def p_data(control: int, data: bytes, **options: int) -> bytes:
    """A P-DATA-TF PDU of one PDV."""
    return pdu(P_DATA, pdv(control, data, **options))


def element(number: int, value: bytes) -> bytes:
    """An element of a command set: group 0000, implicit VR little endian."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def uid_element(number: int, uid: str) -> bytes:
    """A UID of a command set."""
    return element(number, uid.encode() + b"\0" * (len(uid) % 2))


def us_element(number: int, value: int) -> bytes:
    """A number of a command set."""
    return element(number, struct.pack("<H", value))


def command_set(*elements: bytes) -> bytes:
    """The elements with the group length in front."""
    body = b"".join(elements)
    return element(0x0000, struct.pack("<I", len(body))) + body


def store_rq(
    instance_uid: str,
    message_id: int = 1,
    *,
    sop_class_uid: str = CR,
    leave_out: Iterable[int] = (),
    add: Iterable[bytes] = (),
) -> bytes:
    """A C-STORE-RQ's command set, some elements left out or added."""
    elements = {
        0x0002: uid_element(0x0002, sop_class_uid),
        0x0100: us_element(0x0100, STORE_RQ),
        0x0110: us_element(0x0110, message_id),
        0x0700: us_element(0x0700, 0),
        0x0800: us_element(0x0800, 1),
        0x1000: uid_element(0x1000, instance_uid),
    }
    return command_set(*(e for n, e in elements.items() if n not in set(leave_out)), *add)


def echo_rq(message_id: int = 1) -> bytes:
    """A C-ECHO-RQ's command set."""
    return command_set(
        uid_element(0x0002, "1.2.840.10008.1.1"),
        us_element(0x0100, ECHO_RQ),
        us_element(0x0110, message_id),
        us_element(0x0800, NO_DATA_SET),
    )


def store_message(
    instance_uid: str, data_set: bytes, message_id: int = 1, *, fragment_bytes: int = 60_000
) -> bytes:
    """A whole C-STORE request as it goes over the wire."""
    pieces = [data_set[at : at + fragment_bytes] for at in range(0, len(data_set), fragment_bytes)]
    last = len(pieces) - 1
    return p_data(COMMAND | LAST, store_rq(instance_uid, message_id)) + b"".join(
        p_data(LAST if n == last else 0, piece) for n, piece in enumerate(pieces)
    )


def associate_rq(
    contexts: Contexts = CR_EXPLICIT,
    *,
    calling_aet: str = "RAW",
    called_aet: str = "MILVUE",
    max_pdu: int = 131_072,
) -> bytes:
    """An A-ASSOCIATE-RQ. Source: DICOM PS3.8 §9.3.2."""
    body = struct.pack(
        ">HH16s16s32x", 1, 0, called_aet.ljust(16).encode(), calling_aet.ljust(16).encode()
    )
    body += _item(0x10, _APPLICATION)
    for number, (sop_class, syntaxes) in enumerate(contexts):
        offered = b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes)
        head = bytes((2 * number + 1, 0, 0, 0))
        body += _item(0x20, head + _item(0x30, sop_class.encode()) + offered)
    user = _item(0x51, struct.pack(">I", max_pdu)) + _item(0x52, b"1.2.3.4") + _item(0x55, b"RAW")
    return pdu(ASSOCIATE_RQ, body + _item(0x50, user))


def parse_command(encoded: bytes) -> dict[int, bytes]:
    """The elements of a command set by their number."""
    found, at = {}, 0
    while at + 8 <= len(encoded):
        _, number, length = struct.unpack_from("<HHI", encoded, at)
        found[number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return found


@dataclass
class RawPeer:
    """A connection to an SCP."""

    sock: socket.socket
    #: contexts the SCP accepted, and the longest PDU it takes
    accepted: frozenset[int] = frozenset()
    max_pdu: int = 0
    _message_id: int = 0

    def send(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        self.sock.sendall(data)

    def associate(self, contexts: Contexts = CR_EXPLICIT, *, calling_aet: str = "RAW") -> int:
        """Negotiate; the type of the PDU that came back: accepted, rejected or aborted."""
        self.send(associate_rq(contexts, calling_aet=calling_aet))
        kind, body = self.read_pdu()
        if kind == ASSOCIATE_AC:
            items = list(_items(body[68:]))
            self.accepted = frozenset(v[0] for t, v in items if t == 0x21 and v[2] == 0)
            user = next(v for t, v in items if t == 0x50)
            self.max_pdu = next(struct.unpack(">I", v)[0] for t, v in _items(user) if t == 0x51)
        return kind

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; (0, b"") when the connection has ended."""
        try:
            head = self._read(6)
            kind, length = struct.unpack(">BxI", head)
            return kind, self._read(length)
        except (ConnectionError, EOFError):
            return 0, b""

    def response(self) -> dict[int, bytes]:
        """The next message's command set; EOFError when something else came, or nothing."""
        kind, body = self.read_pdu()
        if kind != P_DATA:
            raise EOFError(f"PDU of type {kind} in place of an answer")
        return parse_command(body[6:])

    def status(self) -> int:
        """The status of the next response."""
        return int(struct.unpack("<H", self.response()[0x0900])[0])

    def store(self, instance_uid: str, data_set: bytes) -> int:
        """C-STORE: the status. EOFError, OSError when there is no answer."""
        self._message_id = self._message_id % 60_000 + 1
        fragment = (self.max_pdu or 16_384) - 6
        self.send(store_message(instance_uid, data_set, self._message_id, fragment_bytes=fragment))
        return self.status()

    def echo(self) -> int:
        """C-ECHO in the first context, whatever it is for: the status."""
        self.send(p_data(COMMAND | LAST, echo_rq()))
        return self.status()

    def release(self) -> int:
        """Release; the type of the PDU that came back."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        return self.read_pdu()[0]

    def abort(self) -> None:
        """A-ABORT and hang up."""
        with suppress(OSError):
            self.send(pdu(ABORT, bytes(4)))
        self.close()

    def close(self) -> None:
        """Hang up without a word."""
        self.sock.close()

    def reset(self) -> None:
        """Hang up with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def ended(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Read until the SCP ends the connection; False if it does not."""
        self.sock.settimeout(timeout_s)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def _read(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            if not piece:
                raise EOFError("the connection has ended")
            data += piece
        return bytes(data)


def dial(port: int, *, timeout_s: float = TIMEOUT_S) -> RawPeer:
    """Connect. OSError when nobody listens."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return RawPeer(sock)


@contextmanager
def raw_peer(port: int, *, associated: bool = True) -> Iterator[RawPeer]:
    """A connection, with an association over it, hung up at the end."""
    peer = dial(port)
    try:
        if associated:
            assert peer.associate() == ASSOCIATE_AC
        yield peer
    finally:
        peer.close()


class InstanceMaker:
    """Data sets that follow from their UIDs, so that what arrived is told from the name alone.

    Args:
        seed: Of everything.
        sizes: Bytes of pixels, one of which each instance gets.
    """

    def __init__(self, seed: int, sizes: Sequence[int]) -> None:
        self.seed = seed
        self._sizes = [size & ~1 for size in sizes]
        self._noise = random.Random(seed).randbytes(max(self._sizes) + 65_536)
        dataset = make_dataset(
            "9" * 48, SOPInstanceUID="8" * 48, SeriesInstanceUID="7" * 48, PixelData=b"\0\0"
        )
        # All but the pixels' length and value.
        self._head = encode(dataset)[:-6]

    def uids(self, study: int, instance: int) -> tuple[str, str]:
        """UIDs of 48 characters: (of the study, of the instance)."""
        return self._uid(study, 0), self._uid(study, instance + 1)

    def data_set(self, study_uid: str, instance_uid: str) -> bytes:
        """The data set, explicit VR little endian; the same whenever asked."""
        chance = random.Random(f"{self.seed} {instance_uid}")
        size, at = chance.choice(self._sizes), chance.randrange(65_536)
        head = self._head.replace(b"8" * 48, instance_uid.encode())
        head = head.replace(b"9" * 48, study_uid.encode())
        head = head.replace(b"7" * 48, study_uid.encode())
        return head + struct.pack("<I", size) + self._noise[at : at + size]

    def _uid(self, study: int, instance: int) -> str:
        return f"1.2.826.0.1.1{self.seed:09}.1{study:09}.1{instance:013}"


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(encoded):
        kind, length = struct.unpack_from(">BxH", encoded, at)
        yield kind, encoded[at + 4 : at + 4 + length]
        at += 4 + length

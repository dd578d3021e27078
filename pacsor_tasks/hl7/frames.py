"""MLLP frames: an answer put together from the pieces in which it comes. Pure.

Source: HL7 Transport Specification: MLLP, Release 1; HL7 v2.5.1 §2.9 (original and enhanced mode).
"""

from __future__ import annotations

from pacsor_tasks.hl7.ack import AckMismatch, parse_ack

START, END, CR = 0x0B, 0x1C, 0x0D
#: An acknowledgement is a few hundred bytes; some repeat the message.
MAX_ACK_BYTES = 1024 * 1024
#: What two acknowledgements of one message may say. In enhanced mode a peer says that it has the
#: message, then what its application makes of it; some in the other order.
PAIRS = frozenset({("CA", "AA"), ("CA", "AE"), ("CA", "AR"), ("AA", "CA")})
_NOISE = b"\r\n\t \0"


class Frames:
    """An answer, put together from the pieces in which it comes: one frame, two at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._n_bytes = 0
        self._searched = 0
        self._has_last_cr = False
        #: what stands between the bytes of each frame whose end has come
        self.contents: list[bytes] = []

    @property
    def is_whole(self) -> bool:
        """Whether a frame has come with its last CR, and no other has begun."""
        return bool(self.contents) and self._has_last_cr and not self._buffer

    @property
    def progress(self) -> str:
        """What is still missing, for the error message."""
        if not self._buffer:
            return "no acknowledgement"
        return f"no end of the acknowledgement, of which {len(self._buffer)} bytes came,"

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            AckMismatch: Too long, no frame, or more than two.
        """
        self._buffer += data
        self._n_bytes += len(data)
        if self._n_bytes > MAX_ACK_BYTES:
            raise AckMismatch(f"the answer is longer than {MAX_ACK_BYTES} bytes")
        while self._take():
            if len(self.contents) > 2:
                raise AckMismatch("the answer is more than two MLLP frames")

    def counting(self, control_id: str) -> bytes:
        """The content of the frame that counts.

        Args:
            control_id: MSH-10 of the message.

        Raises:
            AckMismatch: No frame; or two that are not both about the message, one saying that it
                is there and one what became of it: did the peer see one message or two?
        """
        if len(self.contents) == 1 and not self._buffer:
            return self.contents[0]
        if len(self.contents) == 2 and not self._buffer and control_id:
            acks = [parse_ack(content) for content in self.contents]
            first, second = (ack.code for ack in acks)
            is_ours = all(ack.control_id == control_id for ack in acks)
            if is_ours and (first, second) in PAIRS:
                return self.contents[1 if first == "CA" else 0]
        raise AckMismatch("the answer is more than one MLLP frame")

    def _take(self) -> bool:
        """Take a frame off the front; False when the end of none has come."""
        self._drop_noise()
        end = self._buffer.find(END, self._searched)
        self._searched = len(self._buffer) if end < 0 else end
        if end < 0:
            return False
        if self._buffer.find(START, 1, end) >= 0:
            raise AckMismatch("the answer is a frame begun twice")
        self.contents.append(bytes(self._buffer[1:end]))
        del self._buffer[: end + 1]
        self._searched, self._has_last_cr = 0, False
        return True

    def _drop_noise(self) -> None:
        """Blank bytes around a frame are a habit of some peers; anything else is not MLLP."""
        if self._searched:
            return
        rest = self._buffer.lstrip(_NOISE)
        if CR in self._buffer[: len(self._buffer) - len(rest)]:
            self._has_last_cr = True
        self._buffer = rest
        if rest and rest[0] != START:
            is_after = "has something after its MLLP frame"
            raise AckMismatch(f"the answer {is_after if self.contents else 'is not an MLLP frame'}")

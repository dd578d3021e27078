"""A small coverage-guided fuzzer: inputs that reach new lines are kept and changed further."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

#: Larger inputs find nothing that smaller ones do not.
MAX_BYTES = 1_500
MAX_CHANGES = 6
LENGTHS = (
    0,
    1,
    2,
    3,
    5,
    6,
    7,
    0x7F,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFB,
    0xFFFFFFFF,
)

Target = Callable[[bytes], object]
#: (file, line before, line): a step that was taken
Edge = tuple[str, int, int]


@dataclass
class Fuzzer:
    """Changes inputs at random and gives them to a target, which raises when something is wrong.

    Args:
        target: Gets each input.
        watched: The source files whose lines count.
        corpus: Inputs to begin with.
        seed: Of the chance.
    """

    target: Target
    watched: Sequence[str]
    corpus: list[bytes]
    seed: int = 0
    n_runs: int = 0
    found: list[bytes] = field(default_factory=list)
    _seen: set[Edge] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._watched = tuple(self.watched)
        for data in self.corpus:
            self._run(data)

    def run(self, seconds: float) -> None:
        """Go on for so long.

        Raises:
            Failure: The target raised; its `data` is the input.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            data = self._changed(self._chance.choice(self.corpus))
            if self._run(data):
                self.corpus.append(data)
                self.found.append(data)

    def _run(self, data: bytes) -> bool:
        """Whether the input did something new."""
        edges: set[Edge] = set()
        watched, last = self._watched, 0

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            if event == "line":
                edges.add((frame.f_code.co_filename, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        def call(frame: FrameType, event: str, arg: Any) -> Any:
            return line if frame.f_code.co_filename in watched else None

        before = sys.gettrace()
        sys.settrace(call)
        try:
            self.target(data)
        except Exception as exc:
            raise Failure(data) from exc
        finally:
            sys.settrace(before)
        self.n_runs += 1
        is_new = not edges <= self._seen
        self._seen |= edges
        return is_new

    def _changed(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._chance.randint(1, MAX_CHANGES)):
            self._chance.choice(CHANGES)(changed, self._chance, self.corpus)
        return bytes(changed[:MAX_BYTES])


class Failure(Exception):
    """An input that a target cannot take."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes: {data.hex()}")
        self.data = data


Change = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _set_byte(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(
            (0, 1, 2, 3, 4, 255, chance.randrange(256))
        )


def _flip_bit(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set_length(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    order = "big" if chance.random() < 0.7 else "little"
    length = chance.choice((*LENGTHS, len(data), max(0, len(data) - at - 4)))
    data[at : at + 4] = length.to_bytes(4, order)  # type: ignore[arg-type]


def _delete(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.choice((1, 2, 4, 6, 12, chance.randrange(200) + 1))]


def _repeat(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = data[at : at + chance.choice((1, 6, 12, 60, 300))] * chance.choice((1, 1, 3))


def _splice(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    start, at = chance.randrange(len(other) + 1), chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 6, 50))] = other[start : start + chance.randrange(400)]


def _cut(data: bytearray, chance: random.Random, _: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data) + 1) :]


CHANGES: tuple[Change, ...] = (
    _set_byte, _set_byte, _flip_bit, _set_length, _set_length, _delete, _repeat, _splice, _cut,
)  # fmt: skip


def load(directory: Path) -> list[bytes]:
    """The inputs kept in a directory."""
    return [path.read_bytes() for path in sorted(directory.glob("*.bin"))]


def save(directory: Path, inputs: Iterable[bytes], prefix: str = "") -> list[Path]:
    """Keep inputs; the files."""
    paths = []
    for data in inputs:
        path = directory / f"{prefix}{hashlib.sha256(data).hexdigest()[:16]}.bin"
        path.write_bytes(data)
        paths.append(path)
    return paths

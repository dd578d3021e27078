"""A receiver process and its instances, as far as the spool can tell: no network."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pacsor_tasks.dicom.headers import data_set_offset
from receiver.associations import OpenAssociation
from receiver.incoming import Incoming
from receiver.processes import Process
from tests.support.instances import CR


@dataclass(eq=False)
class Scp:
    """A receiver process, as far as the spool can tell."""

    process: Process
    incoming: Incoming
    associations: list[OpenAssociation] = field(default_factory=list)

    def die(self) -> None:
        """Its lock is released, as the kernel does, and nothing is cleaned up."""
        lock = self.process.spool.root / "processes" / f"{self.process.id}.lock"
        with open(os.devnull) as nothing:  # noqa: PTH123
            for entry in Path("/proc/self/fd").iterdir():
                with suppress(OSError):
                    if Path(os.readlink(entry)) == lock:  # noqa: PTH115
                        os.dup2(nothing.fileno(), int(entry.name), inheritable=False)
        (self.process.spool.root / "tmp" / f"{self.process.id}.99.part").write_bytes(b"half")
        self.associations.clear()


def content(uid: str, study: str) -> bytes:
    """A data set, explicit VR little endian: the least the receiver takes."""
    elements = [(0x0008, 0x0016, CR), (0x0008, 0x0018, uid), (0x0020, 0x000D, study)]
    return b"".join(
        struct.pack("<HH2sH", group, number, b"UI", len(value) + len(value) % 2)
        + value.encode()
        + b"\0" * (len(value) % 2)
        for group, number, value in [*elements, (0x0020, 0x000E, "1.2")]
    )


def data_set(path: Path) -> bytes:
    """The data set in a file."""
    return path.read_bytes()[data_set_offset(path)[1] :]


def is_complete(path: Path) -> bool:
    """Whether the instance is in a revision that readers see."""
    return not path.parent.name.startswith(".")

"""What a power cut leaves of the instances that were answered. Needs root, and mkfs.

    python -m benchmarks.power_cut ext4 xfs btrfs [--cuts 60] [--durability group]

The spool is on a file system of its own, in a file. After the last answer of each round that file
is copied as it is: what had been given to the disk by then, and nothing of what the kernel still
kept. The copy is mounted, the receiver's start looks through it, and every instance that was
answered must be there, as it was sent; and no other.
"""

from __future__ import annotations

import argparse
import logging
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from pacsor_tasks.dicom.elements import EXPLICIT_LE
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Spool
from receiver.associations import OpenAssociation
from receiver.closing import Closer
from receiver.durability import Durability
from receiver.incoming import Incoming
from receiver.processes import Process
from receiver.stabilisation import Sweeper
from tests.support.instances import CR, encode, make_dataset

DISK_BYTES = 340_000_000
MAX_INSTANCES = 25
MKFS = {"ext4": ("-q", "-F"), "xfs": ("-q", "-f"), "btrfs": ("-q", "-f")}
#: The copy has the original's identity, which XFS wants to be told.
MOUNT = {"xfs": "loop,nouuid"}


@dataclass
class Found:
    """Of all cuts."""

    n_answered: int = 0
    n_lost: int = 0
    n_foreign: int = 0
    n_rescued: int = 0


def main() -> None:
    """Cut, look, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file_systems", nargs="+", choices=MKFS)
    parser.add_argument("--cuts", type=int, default=60)
    parser.add_argument("--durability", type=Durability, default=Durability.GROUP)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for kind in options.file_systems:
        found = Found()
        for number in range(options.cuts):
            with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="power-cut-") as directory:
                _cut(kind, options.durability, random.Random(number), Path(directory), found)
        print(f"{kind}, {options.durability}, {options.cuts} cuts: {found}")


def _cut(
    kind: str, durability: Durability, chance: random.Random, directory: Path, found: Found
) -> None:
    disk, copy = directory / "disk", directory / "copy"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run(f"mkfs.{kind}", *MKFS[kind], disk)
    with (
        _mounted(disk, "loop") as root,
        _received(Spool(root / "spool"), durability, chance) as answered,
    ):
        _run("cp", "--sparse=always", disk, copy)
    with _mounted(copy, MOUNT.get(kind, "loop")) as root:
        spool = Spool(root / "spool")
        before = _instances(spool)
        spool.prepare()
        Sweeper(
            Closer(spool, "keep-first"), quiet_s=60, max_wait_s=60, on_closed=lambda _: None
        ).recover()
        after = _instances(spool)
    found.n_answered += len(answered)
    found.n_lost += sum(not after.get(uid, b"").endswith(sent) for uid, sent in answered.items())
    found.n_foreign += len(after.keys() - answered)
    found.n_rescued += len(after.keys() - before)


@contextmanager
def _received(
    spool: Spool, durability: Durability, chance: random.Random
) -> Iterator[dict[str, bytes]]:
    """The data sets that were answered, by instance, and one that is still under way."""
    spool.prepare()
    _run("sync")
    process = Process(spool, "1-dead")
    association = OpenAssociation(process, "SENDER", "127.0.0.1:1")
    incoming = Incoming(process, "keep-first", durability=durability)
    answered = {}
    for _ in range(chance.randint(1, MAX_INSTANCES)):
        pixels = chance.randbytes(chance.choice((10_000, 500_000, 3_000_000)))
        dataset = make_dataset("1.2.3", PixelData=pixels)
        header = InstanceHeader(
            sop_instance_uid=str(dataset.SOPInstanceUID),
            sop_class_uid=CR,
            study_uid="1.2.3",
            series_uid=str(dataset.SeriesInstanceUID),
            transfer_syntax_uid=EXPLICIT_LE,
        )
        answered[header.sop_instance_uid] = encode(dataset)
        incoming.store(header, answered[header.sop_instance_uid], association)
    partial = incoming.begin(
        association, sop_class_uid=CR, sop_instance_uid="1.2.4", transfer_syntax_uid=EXPLICIT_LE
    )
    partial.write([memoryview(chance.randbytes(300_000))])
    partial.seal()
    try:
        yield answered
    finally:
        partial.discard()
        association.close()


def _instances(spool: Spool) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in spool.root.glob("incoming/*/*.dcm")}


@contextmanager
def _mounted(disk: Path, options: str) -> Iterator[Path]:
    where = disk.with_suffix(".mounted")
    where.mkdir()
    _run("mount", "-o", options, disk, where)
    try:
        yield where
    finally:
        _run("umount", where)


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

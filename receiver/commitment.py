"""Storage Commitment, the judgement: which instances are held, and which studies that completes.

Source: DICOM PS3.4 Annex J (Push Model), Table J.3-2 (failure reasons).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pacsor_tasks.dicom.headers import is_uid
from pacsor_tasks.spool import INSTANCE_SUFFIX, Spool, fsync_dir

NO_SUCH_INSTANCE, OTHER_CLASS = 0x0112, 0x0119
#: A study that is just being closed is between two directories for so long. Seconds.
MOVE_S = 0.3
#: So often an instance is looked for anew while its study is being closed, which moves it twice.
MOVES = 4
#: All of the file meta information up to the SOP Class UID, of files of ours.
META_BYTES = 1024
SOP_CLASS_TAG = (0x0002, 0x0002)


class Reference(NamedTuple):
    """An instance that commitment is asked for."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer."""

    held: tuple[Reference, ...]
    #: with the reason for each
    failed: tuple[tuple[Reference, int], ...]
    #: studies still coming in of which nothing is held but what was asked for
    complete: tuple[str, ...]


def judge(
    spool: Spool,
    references: Sequence[Reference],
    *,
    must_sync: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Judgement:
    """Look for the instances in the spool, in studies that come in and in revisions.

    Args:
        spool: Where.
        references: What is asked for.
        must_sync: Receiving does not sync: do so before anything is promised.
        sleep: Waits so many seconds.
    """
    wanted = {reference.sop_instance_uid for reference in references}
    found = _find(spool, wanted)
    if len(found) < len(wanted):
        sleep(MOVE_S)
        found |= _find(spool, wanted - found.keys())
    held, failed = [], []
    for reference in references:
        reason = _why_not(spool, reference, found, must_sync=must_sync)
        if reason is None:
            held.append(reference)
        else:
            failed.append((reference, reason))
    if must_sync:
        uids = found.keys() & {reference.sop_instance_uid for reference in held}
        for directory in {found[uid].parent for uid in uids}:
            with suppress(OSError):  # moved, and synced by that
                fsync_dir(directory)
    promised = {reference.sop_instance_uid for reference in held}
    return Judgement(tuple(held), tuple(failed), tuple(_complete(spool, found, promised)))


def _find(spool: Spool, wanted: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for directory in _directories(spool):
        if len(found) == len(wanted):
            break
        for uid in _instances(directory) & (wanted - found.keys()):
            found[uid] = directory / f"{uid}{INSTANCE_SUFFIX}"
    return found


def _directories(spool: Spool) -> Iterator[Path]:
    """Where instances are: what comes in first, then the studies touched last."""
    for root in (spool.root / "incoming", spool.root / "ready"):
        studies = [path for path in root.iterdir() if is_uid(path.name)]
        for study in sorted(studies, key=_mtime, reverse=True):
            if root.name == "incoming":
                yield study
            else:
                with suppress(OSError):  # removed meanwhile
                    yield from list(study.iterdir())


def _instances(directory: Path) -> set[str]:
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names are all that is needed
    except OSError:
        return set()
    return {n.removesuffix(INSTANCE_SUFFIX) for n in names if n.endswith(INSTANCE_SUFFIX)}


def _why_not(
    spool: Spool, reference: Reference, found: dict[str, Path], *, must_sync: bool
) -> int | None:
    uid = reference.sop_instance_uid
    for _ in range(MOVES):
        if uid not in found:
            break
        try:
            with found[uid].open("rb", buffering=0) as file:
                if must_sync:
                    os.fsync(file.fileno())
                sop_class_uid = _sop_class(file.read(META_BYTES))
        except FileNotFoundError:
            # Moved since it was found, or removed; and all that were beside it.
            missed = {other for other, path in found.items() if path.parent == found[uid].parent}
            for other in missed:
                del found[other]
            found |= _find(spool, missed)
        except OSError:
            break
        else:
            return None if sop_class_uid == reference.sop_class_uid else OTHER_CLASS
    return NO_SUCH_INSTANCE


def _sop_class(head: bytes) -> str | None:
    """Media Storage SOP Class UID of a file's first bytes. Source: PS3.10 §7.1."""
    at = 132
    while at + 12 <= len(head):
        group, number, vr, length = struct.unpack_from("<HH2sH", head, at)
        at += 8
        if vr == b"OB":
            (length,) = struct.unpack_from("<I", head, at)
            at += 4
        if (group, number) == SOP_CLASS_TAG:
            return head[at : at + length].rstrip(b"\0 ").decode("ascii", "replace")
        at += length
    return None


def _complete(spool: Spool, found: dict[str, Path], promised: set[str]) -> Iterator[str]:
    incoming = spool.root / "incoming"
    for directory in {path.parent for path in found.values()}:
        if directory.parent == incoming:
            held = _instances(directory)
            if held and held <= promised:
                yield directory.name


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

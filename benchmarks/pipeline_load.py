"""Sends made-up studies as a modality does, made as they are sent: none is held on a disk."""

from __future__ import annotations

import io
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.receive_sets import InstanceSet
from pacsor_tasks.dicom.association import associate
from pacsor_tasks.dicom.headers import data_set_offset, read_header
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.wire import Pacs


@dataclass
class Load:
    """Studies of a few instances each, sent one association per study.

    Args:
        port: The receiver's.
        directory: For the pattern of all instances.
        n_instances: Of each study.
        kilobytes: Of each instance.
    """

    port: int
    directory: Path
    n_instances: int = 2
    kilobytes: int = 1000
    #: when the last C-STORE of a study was answered, epoch seconds
    answered: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        side = int((self.kilobytes * 1000 / 2) ** 0.5)
        (path,) = InstanceSet("pattern", 1, side, side).files(self.directory)
        self._header = read_header(path)
        self._bytes = bytearray(path.read_bytes()[data_set_offset(path)[1] :])
        self._uids = {name: self._position(name) for name in ("study", "series", "sop_instance")}
        self._pacs = Pacs(
            name="receiver", host="127.0.0.1", port=self.port, called_aet="PACSOR",
            calling_aet="MODALITY", connect_timeout_s=30, timeout_s=120,
        )  # fmt: skip

    def start(self, n: int, per_hour: float, may_send: Callable[[], int]) -> threading.Thread:
        """Send `n` studies in a thread.

        Args:
            n: Studies.
            per_hour: Pace; 0: as fast as they are taken.
            may_send: How many of them may have been sent by now.
        """
        thread = threading.Thread(target=self._send, args=(n, per_hour, may_send))
        thread.start()
        return thread

    def _send(self, n: int, per_hour: float, may_send: Callable[[], int]) -> None:
        allowed = 0
        for number in _paced(n, per_hour):
            while not per_hour and number >= allowed:
                allowed = may_send()
                time.sleep(0.1 if number >= allowed else 0)
            self._one()

    def _one(self) -> None:
        study_uid = self._renamed("study")
        self._renamed("series")
        pair = Pair(self._header.sop_class_uid, self._header.transfer_syntax_uid)
        with associate(self._pacs, [pair]) as association:
            for _ in range(self.n_instances):
                instance_uid = self._renamed("sop_instance")
                # Other pixels, or the AI's copies would be the same files over and over.
                self._bytes[-64:] = os.urandom(64)
                data = io.BytesIO(self._bytes)
                status = association.store(pair, instance_uid, data, len(self._bytes))
                if status:
                    raise RuntimeError(f"the receiver answered 0x{status:04X}")
            # Only after the release the study can become stable, but the modality is done now.
            self.answered[study_uid] = time.time()

    def _position(self, name: str) -> tuple[int, int]:
        uid = getattr(self._header, f"{name}_uid").encode()
        assert self._bytes.count(uid) == 1, name
        return self._bytes.index(uid), len(uid)

    def _renamed(self, name: str) -> str:
        """Give the pattern a new UID of the same length."""
        at, length = self._uids[name]
        uid = f"1.2.826.0.1.3680043.8.498.{uuid.uuid4().int}0123456789"[:length]
        self._bytes[at : at + length] = uid.encode()
        return uid


def _paced(n: int, per_hour: float) -> Iterator[int]:
    started = time.monotonic()
    for number in range(n):
        if per_hour:
            time.sleep(max(0.0, started + number * 3600 / per_hour - time.monotonic()))
        yield number

"""What became of the instances of one delivery, whoever takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pacsor_tasks.dicom.data_sets import StoreItem
from pacsor_tasks.dicom.dimse import meaning
from pacsor_tasks.dicom.statuses import Verdict, classify
from pacsor_tasks.errors import PeerUnavailable, Rejected

OnAnswer = Callable[[StoreItem, int, str], None]


@dataclass
class Tally:
    """What became of the instances so far."""

    #: whoever takes them; as a text its name and address
    peer: object
    total: int
    on_answer: OnAnswer
    delivered: int = 0
    #: first complaint of each kind that is not a delivery, and how many
    complaints: dict[Verdict, str] = field(default_factory=dict)
    counts: dict[Verdict, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, item: StoreItem, status: int, why: str | None = None) -> None:
        """Note an instance's status; `why` is ours where the PACS was not asked.

        One at a time, from whichever thread.
        """
        with self._lock:
            self._settle(item, status, why or meaning(status))

    def _settle(self, item: StoreItem, status: int, words: str) -> None:
        verdict = classify(status)
        if verdict is Verdict.DELIVERED:
            self.delivered += 1
        else:
            self.counts[verdict] = self.counts.get(verdict, 0) + 1
            self.complaints.setdefault(
                verdict, f"0x{status:04X} ({words}), SOP Instance {item.sop_instance_uid}"
            )
        self.on_answer(item, status, words)

    def raise_if_incomplete(self) -> None:
        """Say what was not delivered.

        Raises:
            PeerUnavailable: Something that may be later.
            Rejected: Something that was refused for good, and nothing else is left.
        """
        if (n := self.delivered + sum(self.counts.values())) != self.total:
            raise PeerUnavailable(f"{self.peer}: {self.total - n} instances were left out")
        for verdict, error in (
            (Verdict.RETRYABLE, PeerUnavailable),
            (Verdict.PERMANENT, Rejected),
        ):
            if verdict in self.counts:
                raise error(
                    f"{self.peer}: {sum(self.counts.values())} of {self.total} not stored;"
                    f" first {self.complaints[verdict]}"
                )

"""What the service knows of each study: its instances, and how its prediction stands."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from simulators.milvue.received import Received
from simulators.milvue.switches import MilvueSwitches

Progress = Literal["unknown", "uploading", "running", "done", "error"]


@dataclass(slots=True)
class Study:
    """One study. Only touched under the lock of its `Studies`."""

    study_uid: str
    instances: dict[str, Received] = field(default_factory=dict)
    #: declared by a signed upload: their pruned headers, until the whole file is PUT
    pending: dict[str, Received] = field(default_factory=dict)
    started_at: float = 0
    #: answers given since the last start, by kind: not_found, running, results:<command>, …
    answers: Counter[str] = field(default_factory=Counter)
    is_interesting: bool = False


class Studies:
    """The studies of one service, safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._studies: dict[str, Study] = {}

    def declare(self, received: list[Received]) -> None:
        """The pruned copies of a signed upload: each has to be PUT before the prediction starts."""
        with self._lock:
            study = self._get_or_make(received[0].study_uid)
            study.pending |= {instance.sop_instance_uid: instance for instance in received}
            self._restart(study)

    def declared(self, study_uid: str, sop_instance_uid: str) -> Received | None:
        """The pruned header of an instance that is or was awaited by PUT."""
        with self._lock:
            study = self._studies.get(study_uid)
            if study is None:
                return None
            return study.pending.get(sop_instance_uid) or study.instances.get(sop_instance_uid)

    def add(self, received: list[Received]) -> None:
        """Whole instances of one study; the prediction starts, or starts again."""
        with self._lock:
            study = self._get_or_make(received[0].study_uid)
            for instance in received:
                study.pending.pop(instance.sop_instance_uid, None)
                study.instances[instance.sop_instance_uid] = instance
            self._restart(study)

    def progress(self, study_uid: str, switches: MilvueSwitches) -> Progress:
        """How the study stands, counting this answer."""
        with self._lock:
            study = self._studies.get(study_uid)
            if study is None:
                return "unknown"
            if study.pending:
                return "uploading"
            if study.answers["not_found"] < switches.not_found_times:
                study.answers["not_found"] += 1
                return "unknown"
            is_early = time.monotonic() - study.started_at < switches.running_s
            if study.answers["running"] < switches.running_times or is_early:
                study.answers["running"] += 1
                return "running"
            return switches.outcome

    def count(self, study_uid: str, answer: str) -> int:
        """Count one more answer of that kind; how many there were before it."""
        with self._lock:
            answers = self._studies[study_uid].answers
            answers[answer] += 1
            return answers[answer] - 1

    def instances(self, study_uid: str) -> list[Received]:
        """The whole instances, in the order of their UIDs."""
        with self._lock:
            study = self._studies.get(study_uid)
            return sorted(study.instances.values(), key=_by_uid) if study else []

    def mark_interesting(self, study_uid: str) -> bool:
        """Flag a study; False when it is not known."""
        with self._lock:
            study = self._studies.get(study_uid)
            if study is None:
                return False
            study.is_interesting = True
            return True

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._studies.clear()

    def _get_or_make(self, study_uid: str) -> Study:
        return self._studies.setdefault(study_uid, Study(study_uid))

    @staticmethod
    def _restart(study: Study) -> None:
        study.started_at = time.monotonic()
        study.answers.clear()


def _by_uid(instance: Received) -> str:
    return instance.sop_instance_uid

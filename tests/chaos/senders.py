"""Modalities: send studies with DCMTK's storescu, and remember what was answered with success."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from simulators.milvue.dicom import result_uid
from tests.chaos.site import SKIPPED, Site
from tests.support.dcmtk import start_storescu
from tests.support.studies import make_study, study_uid_of

PATIENT = "ZORGLUB^Ysaline"
TIMEOUTS = ("-nh", "-to", "5", "-ts", "15", "-ta", "10", "-td", "15")
RETRY_S = 1.0
#: When no new study begins, what was begun is tried for so long, seconds.
PATIENCE_S = 60.0
#: kind of study → share
KINDS = {
    "plain": 0.70,
    "late": 0.10,  # one more instance comes when the rest is under way
    "again": 0.07,  # all of it is sent a second time
    "skipped": 0.05,  # DICOM_FILTERS takes all of it
    "error": 0.03,  # the AI of `core` fails at it
    "stranger": 0.02,  # the AI of `core` answers with another patient's results
    "refused": 0.03,  # storescu-2 refuses one result for good
}


@dataclass
class Study:
    """One study of a modality."""

    number: int
    kind: str
    uid: str
    patient_id: str
    #: SOP Instance UID → file
    files: dict[str, Path]
    #: SOP Instance UID → when it was first answered with success, epoch seconds
    acknowledged: dict[str, float] = field(default_factory=dict)
    #: answers with success, repetitions included
    n_success: int = 0


class Senders:
    """Sends studies of a seed, retrying each instance as a modality does.

    Args:
        site: To send to.
        rng: Of the schedule.
        per_minute: New studies.
    """

    def __init__(self, site: Site, rng: random.Random, per_minute: float) -> None:
        self.site = site
        self.studies: list[Study] = []
        self.n_refused = 0
        self.n_broken = 0
        self._rng = rng
        self._pause_s = 60 / per_minute
        self._stop = threading.Event()
        self._give_up_at = float("inf")
        self._lock = threading.Lock()
        self._under_way: list[Future[None]] = []

    def __enter__(self) -> Senders:
        """Begin to send."""
        self._stop.clear()
        self._give_up_at = float("inf")
        self._under_way.clear()
        self._pool = ThreadPoolExecutor(6, "sender")
        self._thread = threading.Thread(target=self._run, name="modality", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Begin no further study; what was begun is tried for a minute, unless something broke."""
        self._stop.set()
        self._give_up_at = time.monotonic() + (PATIENCE_S if kind is None else 0)
        self._thread.join()
        self._pool.shutdown()
        for future in self._under_way:
            future.result()

    def send_one(self, kind: str = "plain", n: int | None = None) -> Study:
        """Make a study and send it now, in this thread."""
        study = self._make(kind, n or self._rng.randint(1, 4))
        self._send_all(study)
        return study

    @property
    def acknowledged(self) -> dict[str, Study]:
        """SOP Instance UID → its study, for every instance answered with success."""
        return {uid: study for study in self.studies for uid in study.acknowledged}

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause_s, time.monotonic() - 5)
            (kind,) = self._rng.choices(list(KINDS), list(KINDS.values()))
            study = self._make(kind, self._rng.randint(1, 4))
            self._under_way.append(self._pool.submit(self._send_all, study))

    def _make(self, kind: str, n: int) -> Study:
        number = len(self.studies)
        patient_id = f"{SKIPPED if kind == 'skipped' else 'PAT'}-{number:06}"
        directory = self.site.directory / "sent" / f"{number:06}"
        files = make_study(directory, n + (kind == "late"), PatientName=PATIENT,
                           PatientID=patient_id, AccessionNumber=f"ACC{number:06}")  # fmt: skip
        by_uid = {_sop_uid(file): file for file in files}
        study = Study(number, kind, study_uid_of(files), patient_id, by_uid)
        self._arrange(study)
        self.studies.append(study)
        return study

    def _arrange(self, study: Study) -> None:
        """Tell the peers what they shall do with this study, whenever it comes."""
        if study.kind == "error":
            self.site.boards["api"].add_rule(study_uid=study.uid, outcome="error")
        elif study.kind == "stranger":
            self.site.boards["api"].add_rule(study_uid=study.uid, wrong_patient_id=True)
        elif study.kind == "refused":
            first = min(study.files)
            uid = result_uid(study.uid, "smarturgences", first, "recap")
            self.site.boards["storescu-2"].add_rule(sop_instance_uid=uid, status="0xC000")

    def _send_all(self, study: Study) -> None:
        uids = sorted(study.files)
        first, late = (uids[:-1], uids[-1:]) if study.kind == "late" else (uids, [])
        self._until_acknowledged(study, first)
        if late:
            time.sleep(3)
            self._until_acknowledged(study, late)
        elif study.kind == "again":
            time.sleep(2)
            self._send(study, uids)

    def _until_acknowledged(self, study: Study, uids: list[str]) -> None:
        while True:
            self._send(study, [uid for uid in uids if uid not in study.acknowledged])
            if study.acknowledged.keys() >= set(uids) or time.monotonic() > self._give_up_at:
                return
            time.sleep(RETRY_S)

    def _send(self, study: Study, uids: list[str]) -> None:
        files = {str(study.files[uid]): uid for uid in uids}
        if not files:
            return
        sender = start_storescu(self.site.ports["receiver"], *map(Path, files), options=TIMEOUTS)
        try:
            said, _ = sender.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            sender.kill()
            said, _ = sender.communicate()
        uid: str | None = None
        for line in said.splitlines():
            if "Sending file: " in line:
                uid = files[line.partition("Sending file: ")[2].strip()]
            elif uid is not None and "Received Store Response" in line:
                self._note(study, uid, is_success="(Success)" in line)
                uid = None
        with self._lock:
            self.n_broken += sender.returncode != 0

    def _note(self, study: Study, uid: str, *, is_success: bool) -> None:
        with self._lock:
            if is_success:
                study.acknowledged.setdefault(uid, time.time())
                study.n_success += 1
            else:
                self.n_refused += 1


def _sop_uid(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)

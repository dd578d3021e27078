"""The kill test: SIGKILL to every process of the receiver under load, again and again.

After each: what was answered with success is in the spool, byte for byte; whatever has an
instance's name is whole; after the next start nothing half-written is left.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from pacsor_tasks.dicom.headers import data_set_offset
from pacsor_tasks.spool import Spool
from tests.support.net import wait_until
from tests.support.raw_dicom import ASSOCIATE_AC, InstanceMaker, dial
from tests.support.receivers import settings_for

REPOSITORY = Path(__file__).parents[2]
N_PROCESSES, N_SENDERS = 2, 4
SIZES = (0, 600, 4_000, 20_000, 20_000, 60_000, 400_000)
#: Of the load before the kill, and of a start that is killed before it is done.
LOAD_S, EARLY_S = (0.01, 0.3), 0.05
EARLY_SHARE = 0.1
#: Studies are looked at again in so many further rounds, then deleted.
KEPT_ROUNDS = 3
#: After so many kills it may finish what it began: the time between two does not suffice for all
#: that came in, and every file is looked at after each.
REST_EVERY = 20


class Receiver(Protocol):
    """Can be started and killed."""

    port: int

    def start(self, is_waiting: bool) -> None:
        """Start every process; wait until they accept associations, or not."""

    def kill(self) -> None:
        """SIGKILL to all of them; returns when none is left."""


@dataclass
class Report:
    """What was seen."""

    n_kills: int = 0
    n_early: int = 0
    n_answered: int = 0
    #: kept without an answer: the sender will send it again
    n_unanswered_kept: int = 0
    n_partials: int = 0
    n_revisions: int = 0
    n_half_closed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.n_kills} kills in {self.seconds:.0f} s ({self.n_early} of them during a start):"
            f" {self.n_answered} instances answered with success, all there and whole;"
            f" {self.n_unanswered_kept} more kept without an answer, all whole;"
            f" {self.n_partials} half-written files, none taken for an instance, all removed;"
            f" {self.n_half_closed} studies found half closed, all finished;"
            f" {self.n_revisions} revisions, no instance in two"
        )


@dataclass
class Sender:
    """Sends studies of a few instances, one association each, until the receiver is gone."""

    maker: InstanceMaker
    port: int
    studies: Iterator[int]
    #: (study UID, instance UID) that had no answer in the round before: sent first
    again: list[tuple[str, str]]
    answered: list[tuple[str, str]] = field(default_factory=list)
    unanswered: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Send."""
        with suppress(OSError, EOFError):
            self._send(self.again)
            for study in self.studies:
                n = random.Random(study).randint(1, 12)
                self._send([self.maker.uids(study, instance) for instance in range(n)])

    def _send(self, instances: list[tuple[str, str]]) -> None:
        if not instances:
            return
        with closing(dial(self.port)) as peer:
            if peer.associate() != ASSOCIATE_AC:
                raise EOFError("no association")
            for study_uid, uid in instances:
                data_set = self.maker.data_set(study_uid, uid)
                self.unanswered.append((study_uid, uid))
                status = peer.store(uid, data_set)
                if status:
                    self.wrong.append(status)
                else:
                    self.answered.append(self.unanswered.pop())
            peer.release()


class KillTest:
    """Rounds of load, kill and looking.

    Args:
        receiver: Killed.
        spool: Its.
        seed: Of the moments and the instances.
    """

    def __init__(self, receiver: Receiver, spool: Spool, seed: int) -> None:
        self.receiver = receiver
        self.spool = spool
        self.report = Report()
        self._chance = random.Random(seed)
        self._maker = InstanceMaker(seed, SIZES)
        self._studies = iter(range(1, 1 << 30))
        self._guard = threading.Lock()
        #: study UID → the last round it was sent in
        self._rounds: dict[str, int] = {}
        self._answered: dict[str, set[str]] = {}
        self._looked_at: set[Path] = set()
        self._again: list[tuple[str, str]] = []

    def run(self, n_kills: int) -> Report:
        """Kill so often, and let it all come to an end."""
        started = time.monotonic()
        for _ in range(n_kills):
            self._round()
            self.report.n_kills += 1
            self._look()
            if self.report.n_kills % REST_EVERY == 0:
                self._rest()
            self._retire(self.report.n_kills - KEPT_ROUNDS)
        self._end()
        self.report.seconds = time.monotonic() - started
        return self.report

    def _round(self) -> None:
        partials = self._partials()
        if self._chance.random() < EARLY_SHARE:
            self.report.n_early += 1
            self.receiver.start(is_waiting=False)
            time.sleep(self._chance.uniform(0, EARLY_S))
            self.receiver.kill()
            return
        self.receiver.start(is_waiting=True)
        wait_until(lambda: not partials & self._partials(), 10, 0.005)
        senders = [
            Sender(self._maker, self.receiver.port, self._next_studies(), self._again[n::N_SENDERS])
            for n in range(N_SENDERS)
        ]
        threads = [threading.Thread(target=sender.run) for sender in senders]
        for thread in threads:
            thread.start()
        time.sleep(self._chance.uniform(*LOAD_S))
        self.receiver.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a sender hangs"
        self._count(senders)

    def _next_studies(self) -> Iterator[int]:
        while True:
            with self._guard:
                study = next(self._studies)
            yield study

    def _count(self, senders: list[Sender]) -> None:
        self._again = []
        for sender in senders:
            assert not sender.wrong, f"refused: {sender.wrong}"
            self.report.n_answered += len(sender.answered)
            self._again += sender.unanswered
            for study_uid, uid in sender.answered:
                self._answered.setdefault(study_uid, set()).add(uid)
            for study_uid, _ in sender.answered + sender.unanswered:
                self._rounds[study_uid] = self.report.n_kills

    def _look(self) -> None:
        """Nothing runs: is everything there?"""
        self.report.n_partials += len(self._partials())
        self.report.n_half_closed += sum(1 for _ in (self.spool.root / "ready").glob("*/.*"))
        held: dict[str, set[str]] = {}
        for path in self._files():
            study_uid = self._study_of(path)
            held.setdefault(study_uid, set()).add(path.stem)
            if path not in self._looked_at:
                self._looked_at.add(path)
                content = path.read_bytes()[data_set_offset(path)[1] :]
                assert content == self._maker.data_set(study_uid, path.stem), f"{path} is not whole"
        for study_uid, uids in self._answered.items():
            lost = uids - held.get(study_uid, set())
            assert not lost, f"{len(lost)} lost of {study_uid}, e.g. {min(lost)}"

    def _retire(self, before: int) -> None:
        """Delete studies that get nothing new and are in revisions: the disk is not endless."""
        announced = set(self.spool.outbox())
        for study_uid in [uid for uid, round_ in self._rounds.items() if round_ < before]:
            half_closed = list((self.spool.root / "ready" / study_uid).glob(".*"))
            if not self.spool.incoming_dir(study_uid).exists() and not half_closed:
                self._retire_study(study_uid, announced)
        self._looked_at = {p for p in self._looked_at if p.exists()}

    def _retire_study(self, study_uid: str, announced: set[tuple[str, str]]) -> None:
        tokens = [token for uid, token in self._ready(study_uid)]
        paths = [Path(p) for t in tokens for p in self.spool.instance_paths(study_uid, t)]
        uids = [path.stem for path in paths]
        answered = self._answered.pop(study_uid, set())
        assert len(uids) == len(set(uids)), f"an instance of {study_uid} is in two revisions"
        assert answered <= set(uids)
        assert {(study_uid, token) for token in tokens} <= announced
        self.report.n_revisions += len(tokens)
        self.report.n_unanswered_kept += len(set(uids) - answered)
        for token in tokens:
            self.spool.remove_revision(study_uid, token)
        del self._rounds[study_uid]

    def _rest(self) -> None:
        """One more start: everything becomes a revision, and nothing is left over."""
        self.receiver.start(is_waiting=True)
        wait_until(lambda: not any((self.spool.root / "incoming").iterdir()), 30)
        wait_until(lambda: not any((self.spool.root / "ready").glob("*/.*")), 30)
        wait_until(lambda: not self._partials(), 30)
        self.receiver.kill()
        self._look()

    def _end(self) -> None:
        self._rest()
        self._retire(self.report.n_kills + 1)
        assert not any(self._answered.values())

    def _ready(self, study_uid: str) -> list[tuple[str, str]]:
        names = [p.name for p in (self.spool.root / "ready" / study_uid).glob("*")]
        return [(study_uid, name) for name in names if not name.startswith(".")]

    def _files(self) -> list[Path]:
        root = self.spool.root
        return [*(root / "incoming").glob("*/*.dcm"), *(root / "ready").glob("*/*/*.dcm")]

    def _study_of(self, path: Path) -> str:
        parent = path.parent
        return parent.name if parent.parent.name == "incoming" else parent.parent.name

    def _partials(self) -> set[str]:
        tmp = self.spool.root / "tmp"
        return {path.name for path in tmp.rglob("*") if path.is_file()}


@dataclass
class Forked:
    """The receiver by fork: see `forked_receiver`."""

    port: int
    zygote: subprocess.Popen[str]
    directory: Path
    _group: int = 0
    _n: int = 0

    def start(self, is_waiting: bool) -> None:
        """Fork."""
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self._n += 1
        ready = self.directory / f"ready-{self._n}"
        ready.mkdir()
        self.zygote.stdin.write(f"{ready}\n")
        self.zygote.stdin.flush()
        self._group = int(self.zygote.stdout.readline())
        if is_waiting:
            wait_until(lambda: len(list(ready.iterdir())) == N_PROCESSES, 20, 0.003)

    def kill(self) -> None:
        """All of the group at once."""
        # The very first moment: the group is not yet one of its own.
        with suppress(ProcessLookupError):
            os.kill(self._group, signal.SIGKILL)
        wait_until(self._is_gone, 20, 0.002)

    def _is_gone(self) -> bool:
        try:
            os.killpg(self._group, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False


@dataclass
class Shipped:
    """`python -m receiver`, nothing left out."""

    directory: Path
    env: dict[str, str]
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self, is_waiting: bool) -> None:
        """Start."""
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "receiver", "--port", "0", "--port-file", str(port_file)],
                env=self.env,
                stderr=log,
            )
        if is_waiting:
            wait_until(lambda: port_file.exists() and port_file.read_text().endswith("\n"), 30)
            self.port = int(port_file.read_text())

    def kill(self) -> None:
        """The parent and its SCP processes."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        doomed = [*parent.children(recursive=True), parent]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        wait_until(lambda: not any(_is_running(process) for process in doomed), 10)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # init may be slow to reap it
    except psutil.NoSuchProcess:
        return False


@contextmanager
def kill_test(
    *, seed: int, is_shipped: bool = False, directory: Path | None = None, **settings: object
) -> Iterator[KillTest]:
    """A receiver to be killed, with its spool in a new directory.

    Args:
        seed: Of the moments and the instances.
        is_shipped: `python -m receiver` in place of forks of it.
        directory: Where to make the new one.
        settings: By name.
    """
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        env = settings_for(
            made, RECEIVER_PROCESSES=N_PROCESSES, STUDY_QUIET_SECONDS=0.15, **settings
        )
        env["PYTHONPATH"] = str(REPOSITORY)
        spool = Spool(made / "data" / "spool")
        spool.root.mkdir(parents=True)
        spool.prepare()
        receiver: Receiver = (
            Shipped(made, env) if is_shipped else stack.enter_context(_forked(made, env))
        )
        yield KillTest(receiver, spool, seed)


@contextmanager
def _forked(directory: Path, env: dict[str, str]) -> Iterator[Forked]:
    with socket.socket() as held, (directory / "log").open("ab") as log:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        arguments = ["-m", "tests.support.forked_receiver", str(port), str(N_PROCESSES)]
        with subprocess.Popen(
            [sys.executable, *arguments],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as zygote:
            receiver = Forked(port, zygote, directory)
            try:
                yield receiver
            finally:
                receiver.kill()

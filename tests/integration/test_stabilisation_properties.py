"""Whatever happens in whatever order: no answered instance is lost, none is in two revisions, a
study is not closed while its sender is there, and is closed in the end.

On real files with the real modules; only the sweeper's clock is the test's. Processes die at any
line of our code, and others act at any line of it. More examples: PACSOR_EXAMPLES=2000.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pacsor_tasks.dicom.elements import EXPLICIT_LE
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Manifest, Spool
from receiver.associations import OpenAssociation
from receiver.closing import Closer
from receiver.durability import Durability
from receiver.incoming import Incoming, Outcome
from receiver.processes import alive
from receiver.stabilisation import QUIET, RELEASED, Sweeper
from tests.support.instances import CR
from tests.support.interleaving import dies, interleaved
from tests.support.scp_model import Scp, content, data_set, is_complete

# Who dies closes nothing.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUIET_S, MAX_WAIT_S = 30.0, 600.0
STUDIES = ("1.2.1", "1.2.2")
#: The tests are of the order of things, not of the disk: so in memory where there is such a disk.
FAST_DISK = Path("/dev/shm")

indices = st.integers(0, 7)
studies = st.sampled_from(STUDIES)
# As many as there are, and a few more.
lines_of_a_store = st.integers(1, 170)
lines_of_a_tick = st.integers(1, 420)


class Gateway(RuleBasedStateMachine):
    """Receiver processes, their associations, and the sweeper."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        directory = self._stack.enter_context(
            tempfile.TemporaryDirectory(dir=FAST_DISK if FAST_DISK.is_dir() else None)
        )
        self.spool = Spool(Path(directory) / "spool")
        self.spool.prepare()
        self.now, self.clock_offset_s, self.n_sent = 1000.0, 0, 0
        self.scps: list[Scp] = []
        #: instance → study, of those that were answered with success
        self.answered: dict[str, str] = {}
        self.sent: list[tuple[str, str]] = []
        #: in order; where they were put
        self.stored: list[tuple[Scp, Path]] = []
        #: instance → when it was last answered, and who sent it then
        self.arrivals: dict[str, tuple[float, OpenAssociation]] = {}
        #: association → studies it had success for
        self.contributed: dict[OpenAssociation, set[str]] = {}
        #: (study, token) → names and contents of its files, when first seen
        self.revisions: dict[tuple[str, str], dict[str, bytes]] = {}
        self.closed: list[Manifest] = []
        self._new_sweeper()

    @initialize()
    def two_processes(self) -> None:
        for durability in ("instance", "group"):
            self.a_process_starts(durability)

    # --- what happens

    @precondition(lambda self: len(self.scps) < 3)
    @rule(durability=st.sampled_from(["instance", "group"]))
    def a_process_starts(self, durability: str) -> None:
        process = self._stack.enter_context(alive(self.spool))
        incoming = Incoming(process, "keep-first", durability=Durability(durability))
        self.scps.append(Scp(process, incoming))

    @precondition(lambda self: self.scps)
    @rule(at=indices)
    def a_process_dies(self, at: int) -> None:
        self._die(self.scps[at % len(self.scps)])

    @precondition(lambda self: self.scps)
    @rule(at=indices)
    def an_association_opens(self, at: int) -> None:
        self._associate(at)

    @rule(undone=st.integers(0, 4))
    def the_machine_crashes(self, undone: int) -> None:
        """Of instances that share their syncs, the last names may be undone; not the files."""
        for n, (scp, path) in enumerate(self.stored[len(self.stored) - undone :]):
            if scp.incoming.durability is Durability.GROUP and path.exists():
                path.rename(self.spool.root / "tmp" / f"{scp.process.id}.{1000 + n}.part")
        self.stored.clear()
        for scp in list(self.scps):
            self._die(scp)
        self._new_sweeper()
        self.sweeper.recover()

    @precondition(lambda self: self._open())
    @rule(at=indices)
    def an_association_ends(self, at: int) -> None:
        scp, association = self._pick(at)
        scp.associations.remove(association)
        association.close()

    @precondition(lambda self: self._open())
    @rule(at=indices)
    def an_association_is_released(self, at: int) -> None:
        """… of a receiver with STABLE_ON_RELEASE: it may have been the last one of its studies."""
        scp, association = self._pick(at)
        scp.associations.remove(association)
        association.close_complete()

    @precondition(lambda self: len(self._open()) > 1)
    @rule(at=indices, study=studies, line=lines_of_a_store)
    def an_association_is_released_while_an_instance_arrives(
        self, at: int, study: str, line: int
    ) -> None:
        sender, released = self._pick(at), self._pick(at + 1)
        uid = self._new()
        released[0].associations.remove(released[1])
        with self._watched():
            interleaved(line, lambda: self._arrive(*sender, uid, study), released[1].close_complete)
            self.sweeper.tick()

    @precondition(lambda self: self._open())
    @rule(at=indices, study=studies)
    def an_instance_arrives(self, at: int, study: str) -> None:
        self._arrive(*self._pick(at), self._new(), study)

    @precondition(lambda self: self._open() and self.sent)
    @rule(at=indices, which=st.integers(0, 50))
    def an_instance_arrives_again(self, at: int, which: int) -> None:
        self._arrive(*self._pick(at), *self.sent[which % len(self.sent)])

    @precondition(lambda self: self._open())
    @rule(at=indices, study=studies, line=lines_of_a_store)
    def a_process_dies_while_it_stores(self, at: int, study: str, line: int) -> None:
        scp, association = self._pick(at)
        uid = self._new()
        if dies(line, lambda: self._store(scp, association, uid, study)):
            self._die(scp)
        else:
            self._succeeded(association, uid, study)

    @rule(seconds=st.sampled_from((1.0, QUIET_S / 2, QUIET_S + 1, MAX_WAIT_S)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(hours=st.sampled_from((-1, 1)))
    def the_clock_is_set(self, hours: int) -> None:
        self.clock_offset_s += hours * 3600

    @rule(study=studies)
    def an_operator_says_itis_complete(self, study: str) -> None:
        self.spool.request_stable(study)

    @rule()
    def the_sweeper_looks(self) -> None:
        with self._watched():
            self.sweeper.tick()

    @rule()
    def the_sweeper_looks_until_all_is_quiet(self) -> None:
        before = {p.name for p in (self.spool.root / "incoming").iterdir()}
        with self._watched():
            for _ in range(2):
                self.sweeper.tick()
                self.now += QUIET_S + 1
            self.sweeper.tick()
        held_open = {study for _, a in self._open() for study in self.contributed.get(a, ())}
        left = {p.name for p in (self.spool.root / "incoming").iterdir()}
        assert left & before <= held_open, "a quiet study was not closed"

    @rule(line=lines_of_a_tick, during=st.booleans(), is_ripe=st.booleans())
    def the_sweeper_dies_while_it_looks(self, line: int, during: bool, is_ripe: bool) -> None:
        if is_ripe:
            self._ripen()
        with self._watched():
            if dies(line, self.sweeper.tick):
                self._new_sweeper()
                if during and dies(line // 3 + 1, self.sweeper.recover):
                    self._new_sweeper()
                self.sweeper.recover()

    @precondition(lambda self: self.scps)
    @rule(at=indices, study=studies, line=lines_of_a_tick, is_ripe=st.booleans())
    def an_instance_arrives_while_the_sweeper_looks(
        self, at: int, study: str, line: int, is_ripe: bool
    ) -> None:
        if is_ripe:
            self._ripen()
        scp, association = self._associate(at)
        uid = self._new()
        with self._watched():
            interleaved(line, self.sweeper.tick, lambda: self._arrive(scp, association, uid, study))

    @precondition(lambda self: self.scps)
    @rule(at=indices, study=studies, line=lines_of_a_store, is_ripe=st.booleans())
    def the_sweeper_looks_while_an_instance_arrives(
        self, at: int, study: str, line: int, is_ripe: bool
    ) -> None:
        if is_ripe:
            self._ripen()
        scp, association = self._associate(at)
        uid = self._new()
        with self._watched():
            interleaved(line, lambda: self._arrive(scp, association, uid, study), self.sweeper.tick)

    @precondition(lambda self: len(self._open()) > 1)
    @rule(at=indices, study=studies, line=lines_of_a_store)
    def two_instances_arrive_at_once(self, at: int, study: str, line: int) -> None:
        uids = self._new(), self._new()
        (one, of_one), (two, of_two) = self._pick(at), self._pick(at + 1)
        interleaved(
            line,
            lambda: self._arrive(one, of_one, uids[0], study),
            lambda: self._arrive(two, of_two, uids[1], study),
        )

    # --- what must hold

    @invariant()
    def what_was_answered_is_there_whole(self) -> None:
        places = self._places()
        for uid, study in self.answered.items():
            held = places.get((study, uid), [])
            assert held, f"{uid} was answered with success and is nowhere"
            assert all(data_set(path) == content(uid, study) for path in held), (
                f"{uid} is not whole"
            )
            complete = [p for p in held if p.parent.parent.name == study and is_complete(p)]
            assert len(complete) <= 1, f"{uid} is in two revisions"

    @invariant()
    def a_revision_never_changes(self) -> None:
        now = dict.fromkeys(self.spool.all_ready(), None)
        assert set(self.revisions) <= set(now)
        for study, token in now:
            directory = self.spool.revision_dir(study, token)
            files = {p.name: p.read_bytes() for p in directory.iterdir()}
            assert self.revisions.setdefault((study, token), files) == files

    def teardown(self) -> None:
        """Everything ends well."""
        try:
            for scp in list(self.scps):
                self._die(scp)
            self._new_sweeper()
            self.sweeper.recover()
            self.the_sweeper_looks_until_all_is_quiet()
            self.what_was_answered_is_there_whole()
            self._all_is_told_and_tidy()
        finally:
            self._stack.close()

    def _all_is_told_and_tidy(self) -> None:
        root = self.spool.root
        for name in ("incoming", "tmp", "requests", "associations", "processes"):
            assert list((root / name).iterdir()) == [], f"left in {name}/"
        assert sorted(self.spool.outbox()) == sorted(self.spool.all_ready())
        assert {(m.study_uid, m.token) for m in self.closed} <= set(self.spool.all_ready())
        in_revisions: list[str] = []
        for study, token in self.spool.all_ready():
            names = [Path(p).stem for p in self.spool.instance_paths(study, token)]
            assert self.spool.manifest(study, token).n_instances == len(names)
            in_revisions += names
        assert set(self.answered) <= set(in_revisions) <= {uid for uid, _ in self.sent}
        assert len(in_revisions) == len(set(in_revisions))

    # --- how

    def _associate(self, at: int) -> tuple[Scp, OpenAssociation]:
        scp = self.scps[at % len(self.scps)]
        scp.associations.append(OpenAssociation(scp.process, f"CR{at}", "10.0.0.1:4711"))
        return scp, scp.associations[-1]

    def _ripen(self) -> None:
        """Whatever is there is to be closed at the next look."""
        while self._open():
            self.an_association_ends(0)
        self.sweeper.tick()
        self.now += QUIET_S + 1

    def _open(self) -> list[tuple[Scp, OpenAssociation]]:
        return [(scp, one) for scp in self.scps for one in scp.associations]

    def _pick(self, at: int) -> tuple[Scp, OpenAssociation]:
        return self._open()[at % len(self._open())]

    def _new(self) -> str:
        self.n_sent += 1
        return f"1.9.{self.n_sent}"

    def _new_sweeper(self) -> None:
        self.sweeper = Sweeper(
            Closer(self.spool, "keep-first"),
            quiet_s=QUIET_S,
            max_wait_s=MAX_WAIT_S,
            on_closed=self.closed.append,
            clock=lambda: self.now,
        )

    def _die(self, scp: Scp) -> None:
        scp.die()
        self.scps.remove(scp)

    def _arrive(self, scp: Scp, association: OpenAssociation, uid: str, study: str) -> None:
        self._store(scp, association, uid, study)
        self._succeeded(association, uid, study)

    def _succeeded(self, association: OpenAssociation, uid: str, study: str) -> None:
        self.answered[uid] = study
        self.arrivals[uid] = self.now, association
        self.contributed.setdefault(association, set()).add(study)

    def _store(self, scp: Scp, association: OpenAssociation, uid: str, study: str) -> None:
        self.sent.append((uid, study))
        header = InstanceHeader(
            sop_instance_uid=uid,
            sop_class_uid=CR,
            study_uid=study,
            series_uid="1.2",
            transfer_syntax_uid=EXPLICIT_LE,
        )
        outcome = scp.incoming.store(header, content(uid, study), association)
        if outcome is Outcome.STORED:
            self.stored.append((scp, self.spool.incoming_dir(study) / f"{uid}.dcm"))
            # What the clock that was set would have written, and never the same twice: all these
            # instances come within one of the file system's own ticks.
            at = int((1e9 + self.now + self.clock_offset_s) * 1e9) + len(self.sent)
            with suppress(FileNotFoundError):  # closed in this moment
                os.utime(self.spool.incoming_dir(study), ns=(at, at))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """What is closed has no sender any longer; what is closed for quietness is quiet, too."""
        before, n_closed = self._contributors(), len(self.closed)
        yield
        still = self._contributors()
        for manifest in self.closed[n_closed:]:
            if manifest.reason not in (QUIET, RELEASED):
                continue
            there = before.get(manifest.study_uid, set()) & still.get(manifest.study_uid, set())
            assert not there, "closed while a sender was there"
            for path in self.spool.instance_paths(manifest.study_uid, manifest.token):
                at, sender = self.arrivals.get(Path(path).stem, (0.0, None))
                is_quiet = at <= self.now - QUIET_S
                assert is_quiet or manifest.reason == RELEASED, "closed too early"
                assert all(sender is not one for _, one in self._open()), "closed under a sender"

    def _contributors(self) -> dict[str, set[OpenAssociation]]:
        found: dict[str, set[OpenAssociation]] = {}
        for _, association in self._open():
            for study in self.contributed.get(association, ()):
                found.setdefault(study, set()).add(association)
        return found

    def _places(self) -> dict[tuple[str, str], list[Path]]:
        found: dict[tuple[str, str], list[Path]] = {}
        for path in (self.spool.root / "incoming").glob("*/*.dcm"):
            found.setdefault((path.parent.name, path.stem), []).append(path)
        for path in (self.spool.root / "ready").glob("*/*/*.dcm"):
            found.setdefault((path.parent.parent.name, path.stem), []).append(path)
        return found


TestGateway = Gateway.TestCase
TestGateway.settings = settings(
    max_examples=int(os.environ.get("PACSOR_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

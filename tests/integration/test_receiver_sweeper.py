"""Closing studies on a real spool, by a clock the test moves; crashes at every step."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pacsor_tasks.dicom.elements import EXPLICIT_LE
from pacsor_tasks.errors import PeerUnavailable
from pacsor_tasks.models import InstanceHeader
from pacsor_tasks.spool import Manifest, Spool
from receiver import journal
from receiver.announcer import Announcer
from receiver.associations import OpenAssociation
from receiver.closing import Closer, new_token
from receiver.incoming import DuplicatePolicy, Incoming, Outcome
from receiver.processes import Process, alive
from receiver.stabilisation import Sweeper
from tests.support.instances import CR, encode, make_dataset, new_uid
from tests.support.net import wait_until

QUIET_S, MAX_WAIT_S = 30.0, 600.0


@dataclass
class Site:
    """A spool with its sweeper and one sender."""

    spool: Spool
    process: Process
    policy: DuplicatePolicy = "keep-first"
    now: float = 1000.0
    closed: list[Manifest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.closer = Closer(self.spool, self.policy)
        self.incoming = Incoming(self.process, self.policy)
        self.restart()

    def restart(self) -> None:
        """A new sweeper, which remembers nothing."""
        self.sweeper = Sweeper(
            self.closer,
            quiet_s=QUIET_S,
            max_wait_s=MAX_WAIT_S,
            on_closed=self.closed.append,
            clock=lambda: self.now,
        )

    def associate(self) -> OpenAssociation:
        return OpenAssociation(self.process, "CR1", "10.0.0.1:4711")

    def send(
        self,
        study_uid: str,
        association: OpenAssociation,
        sop_instance_uid: str | None = None,
        data: bytes | None = None,
    ) -> Outcome:
        dataset = make_dataset(study_uid)
        header = InstanceHeader(
            sop_instance_uid=sop_instance_uid or dataset.SOPInstanceUID,
            sop_class_uid=CR,
            study_uid=study_uid,
            series_uid="1.2",
            transfer_syntax_uid=EXPLICIT_LE,
        )
        return self.incoming.store(header, data or encode(dataset), association)

    def receive(self, study_uid: str, n: int = 1) -> None:
        """n instances by an association that ends."""
        association = self.associate()
        for _ in range(n):
            self.send(study_uid, association)
        association.close()

    def pass_s(self, seconds: float) -> None:
        """Let time pass, looking now and then."""
        self.sweeper.tick()
        for _ in range(10):
            self.now += seconds / 10
            self.sweeper.tick()

    def incoming_studies(self) -> list[str]:
        return [path.name for path in (self.spool.root / "incoming").iterdir()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty one."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    with alive(spool) as process:
        yield Site(spool, process)


def test_a_study_is_closed_when_it_was_quiet_for_long_enough(site: Site) -> None:
    site.receive("1.2")
    site.pass_s(QUIET_S - 1)
    site.receive("1.2")
    site.pass_s(QUIET_S - 1)
    assert site.closed == []
    site.pass_s(2)
    assert [(m.study_uid, m.reason, m.n_instances) for m in site.closed] == [("1.2", "quiet", 2)]
    assert site.incoming_studies() == []


def test_an_instance_that_came_before_also_breaks_the_silence(site: Site) -> None:
    association = site.associate()
    dataset = make_dataset("1.2")
    site.send("1.2", association, dataset.SOPInstanceUID, encode(dataset))
    site.pass_s(QUIET_S - 1)
    again = site.send("1.2", association, dataset.SOPInstanceUID, encode(dataset))
    association.close()
    assert again is Outcome.SAME
    site.pass_s(2)
    assert site.closed == []


def test_clock_steps_change_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.receive("1.2")
    directory = site.spool.incoming_dir("1.2")
    site.pass_s(1)
    for step in (-3600, 7200):
        # What a step of the clock does: later files get other times.
        monkeypatch.setattr("time.time", lambda step=step: 1_700_000_000.0 + step)
        site.pass_s(1)
    assert site.closed == []
    assert directory.is_dir()
    site.pass_s(QUIET_S)
    assert [m.reason for m in site.closed] == ["quiet"]


def test_the_longest_wait_is_kept_over_a_restart(site: Site) -> None:
    association = site.associate()
    site.send("1.2", association)
    # The study began ten minutes before, by the clock that runs through restarts.
    directory = site.spool.incoming_dir("1.2")
    text = (directory / journal.NAME).read_text()
    began = journal.beginning(directory)
    assert began is not None
    journal_path = directory / journal.NAME
    journal_path.write_text(text.replace(str(began.boottime_s), str(began.boottime_s - MAX_WAIT_S)))
    site.restart()
    site.sweeper.tick()
    assert [m.reason for m in site.closed] == ["max_wait"]
    association.close()


def test_a_study_without_a_beginning_counts_from_when_it_was_seen(site: Site) -> None:
    association = site.associate()
    site.send("1.2", association)
    (site.spool.incoming_dir("1.2") / journal.NAME).write_text("cut o")
    site.pass_s(MAX_WAIT_S - 1)
    assert site.closed == []
    site.pass_s(2)
    assert [m.reason for m in site.closed] == ["max_wait"]
    association.close()


def test_studies_do_not_wait_for_each_other(site: Site) -> None:
    held = site.associate()
    site.send("1.1", held)
    site.receive("1.2")
    site.pass_s(QUIET_S + 1)
    assert [m.study_uid for m in site.closed] == ["1.2"]
    held.close()
    site.pass_s(1)
    assert [m.study_uid for m in site.closed] == ["1.2", "1.1"]


def test_an_instance_of_the_moment_of_closing_is_in_one_revision(site: Site) -> None:
    """Many senders against a sweeper that closes at every chance: no loss, no double."""
    site.sweeper.quiet_s = 0
    sent: list[str] = []
    stop = threading.Event()

    def keep_sending() -> None:
        for _ in range(40):
            association = site.associate()
            uid = new_uid()
            site.send("1.2", association, uid)
            association.close()
            sent.append(uid)

    def keep_closing() -> None:
        while not stop.is_set():
            site.sweeper.tick()

    senders = [threading.Thread(daemon=True, target=keep_sending) for _ in range(3)]
    closing = threading.Thread(daemon=True, target=keep_closing)
    for thread in (*senders, closing):
        thread.start()
    for sender in senders:
        sender.join(60)
    stop.set()
    closing.join(10)
    site.sweeper.tick()
    held = [
        Path(path).stem
        for study_uid, token in site.spool.all_ready()
        for path in site.spool.instance_paths(study_uid, token)
    ]
    assert sorted(held) == sorted(sent)
    assert sum(m.n_instances for m in site.closed) == len(sent)
    assert len(site.closed) > 1
    assert site.incoming_studies() == []


@pytest.mark.parametrize("n_done", range(5))
def test_a_crash_while_closing_loses_nothing(site: Site, n_done: int) -> None:
    """The states on disk after each step of `Closer`, made by hand, and a new start."""
    association = site.associate()
    first = make_dataset("1.2")
    site.send("1.2", association, first.SOPInstanceUID, encode(first))
    site.closer.close("1.2", "quiet", lambda: True)
    site.send("1.2", association, first.SOPInstanceUID, encode(first))
    site.send("1.2", association)
    association.close()
    study_dir = site.spool.root / "ready" / "1.2"
    token = new_token([p.name for p in study_dir.iterdir()], _now())
    making = study_dir / f".{token}"
    journal.append(site.spool.incoming_dir("1.2"), "closed", reason="requested")
    if n_done >= 1:  # moved
        site.spool.incoming_dir("1.2").rename(making)
    if n_done >= 2:  # its manifest begun
        (making / ".revision.json.1-1.tmp").write_text("{")
    if n_done >= 3:  # one file of two dropped, and the manifest written
        making.rename(site.spool.incoming_dir("1.2"))
        manifest = site.closer.close("1.2", "requested", lambda: True)
        assert manifest is not None
        token = manifest.token
        site.spool.acknowledge(token)
        (study_dir / token).rename(study_dir / f".{token}")
    if n_done >= 4:  # in the outbox
        (site.spool.root / "outbox" / token).write_text('{"study_uid": "1.2"}')
    assert [t for _, t in site.spool.outbox() if t == token] == [], "not announced half made"

    site.restart()
    site.sweeper.recover()
    site.pass_s(QUIET_S + 1)

    revisions = [site.spool.manifest("1.2", t) for t in sorted(p.name for p in study_dir.iterdir())]
    assert [m.n_instances for m in revisions] == [1, 1]
    assert [e["kind"] for e in revisions[1].events] == ["duplicate.same"]
    assert {t for _, t in site.spool.outbox()} == {m.token for m in revisions}
    names = {p.name for p in (study_dir / revisions[1].token).iterdir()}
    assert len(names) == 2
    assert "revision.json" in names
    assert site.incoming_studies() == []


def test_an_outbox_entry_of_nothing_is_dropped_at_a_start(site: Site) -> None:
    (site.spool.root / "outbox" / "20260101T000000Z-00").write_text('{"study_uid": "1.2"}')
    (site.spool.root / "outbox" / "20260101T000000Z-01").write_text("")
    site.sweeper.recover()
    assert site.spool.outbox_tokens() == []


def test_a_directory_that_never_got_its_instance_makes_no_revision(site: Site) -> None:
    association = site.associate()
    with site.spool.study_lock("1.2", exclusive=False):
        association.join("1.2")
    association.close()
    site.pass_s(QUIET_S + 1)
    assert site.closed == []
    assert site.incoming_studies() == []


def test_a_study_that_cannot_be_closed_is_tried_again(site: Site) -> None:
    site.receive("1.2")
    ready = site.spool.root / "ready"
    ready.rmdir()
    ready.write_bytes(b"not a directory")
    site.pass_s(QUIET_S + 1)
    assert site.closed == []
    assert site.incoming_studies() == ["1.2"]
    ready.unlink()
    ready.mkdir()
    site.pass_s(60)
    assert [m.study_uid for m in site.closed] == ["1.2"]


@pytest.mark.parametrize("is_new_start", [False, True])
def test_a_study_that_was_half_closed_when_the_disk_was_full_is_gone_on_with(
    site: Site, is_new_start: bool
) -> None:
    site.receive("1.2", 2)
    outbox = site.spool.root / "outbox"
    outbox.rmdir()
    site.pass_s(QUIET_S + 1)
    assert site.closed == []
    assert site.incoming_studies() == [], "moved already: nothing that comes in shows it"
    outbox.mkdir()
    if is_new_start:
        site.restart()
        site.sweeper.recover()
    else:
        site.pass_s(60)
    assert [(m.study_uid, m.n_instances) for m in site.closed] == [("1.2", 2)]
    assert [uid for uid, _ in site.spool.outbox()] == ["1.2"]


def test_only_one_receiver_sweeps_a_spool(site: Site) -> None:
    stop = threading.Event()
    site.sweeper.quiet_s = 0
    other_closed: list[Manifest] = []
    other = Sweeper(
        Closer(site.spool, "keep-first"), quiet_s=0, max_wait_s=9, on_closed=other_closed.append
    )
    first = threading.Thread(daemon=True, target=site.sweeper.run, args=(stop,))
    first.start()
    site.receive("1.1")
    wait_until(lambda: site.closed)
    second = threading.Thread(daemon=True, target=other.run, args=(stop,))
    second.start()
    site.receive("1.2")
    wait_until(lambda: len(site.closed) == 2)
    stop.set()
    first.join(10)
    second.join(10)
    assert other_closed == []


def test_a_token_follows_those_before_it_even_if_the_clock_was_set_back() -> None:
    first = new_token([], _now())
    second = new_token([first], _now(hours=-1))
    third = new_token([first, second], _now(hours=-2))
    assert sorted([third, first, second]) == [first, second, third]
    assert new_token(["strange-name"], _now()) != ""


def _now(hours: int = 0) -> datetime:
    return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(hours=hours)


class Broker:
    """Takes messages, or is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.messages: list[tuple[str, list[str]]] = []
        self.n_tries = 0

    def __call__(self, study_uid: str, paths: Sequence[str]) -> None:
        self.n_tries += 1
        if self.is_away:
            raise PeerUnavailable("broker: OperationalError")
        self.messages.append((study_uid, list(paths)))


def test_each_revision_is_announced_once_and_after_a_failure_again(site: Site) -> None:
    broker = Broker()
    announcer = Announcer(site.spool, broker)
    broker.is_away = True
    site.receive("1.2", 2)
    site.pass_s(QUIET_S + 1)
    with pytest.raises(PeerUnavailable):
        announcer.announce_all()
    assert len(site.spool.outbox()) == 1, "nothing is lost"
    broker.is_away = False
    announcer.announce_all()
    announcer.announce_all()
    ((study_uid, paths),) = broker.messages
    assert study_uid == "1.2"
    assert all(site.spool.path(path).is_file() for path in paths)
    assert len(paths) == 2
    # A new start does not know what was announced: ingest takes a revision twice without harm.
    Announcer(site.spool, broker).announce_all()
    assert len(broker.messages) == 2
    site.spool.acknowledge(site.closed[0].token)
    Announcer(site.spool, broker).announce_all()
    assert len(broker.messages) == 2


def test_the_announcer_tries_until_the_broker_is_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.announcer.FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("receiver.announcer.LONGEST_RETRY_S", 0.02)
    broker, stop = Broker(), threading.Event()
    broker.is_away = True
    announcer = Announcer(site.spool, broker)
    site.receive("1.2")
    site.pass_s(QUIET_S + 1)
    running = threading.Thread(daemon=True, target=announcer.run, args=(stop,))
    running.start()
    wait_until(lambda: broker.n_tries > 3)
    broker.is_away = False
    wait_until(lambda: broker.messages)
    site.receive("1.3")
    site.pass_s(QUIET_S + 1)
    announcer.wake()
    wait_until(lambda: [uid for uid, _ in broker.messages] == ["1.2", "1.3"])
    stop.set()
    announcer.wake()
    running.join(10)
    assert not running.is_alive()

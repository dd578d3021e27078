"""A spool as the receiver leaves it, made by the receiver's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pacsor_tasks.spool import INSTANCE_SUFFIX, Manifest, Spool
from receiver import journal
from receiver.associations import OpenAssociation
from receiver.closing import Closer
from receiver.processes import Process, alive


@dataclass(frozen=True)
class Site:
    """A spool with one living receiver process."""

    spool: Spool
    process: Process

    def receive(self, study_uid: str, n: int = 1, *, first: int = 1) -> OpenAssociation:
        """Instances of a study, by an association that stays open."""
        association = OpenAssociation(self.process, "CR1", "10.0.0.1:4711")
        with self.spool.study_lock(study_uid, exclusive=False):
            directory = association.join(study_uid)
            for number in range(first, first + n):
                (directory / f"{study_uid}.{number}{INSTANCE_SUFFIX}").write_bytes(b"x")
        return association

    def received(self, study_uid: str, n: int = 1, *, first: int = 1) -> None:
        """The same, the association over."""
        self.receive(study_uid, n, first=first).close()

    def again(self, study_uid: str) -> None:
        """An instance that was there already."""
        uid = f"{study_uid}.1"
        journal.append(self.spool.incoming_dir(study_uid), "duplicate.same", instance_uid=uid)

    def close(self, study_uid: str) -> Manifest:
        """The study becomes a revision in the outbox."""
        made = Closer(self.spool, "keep-first").close(study_uid, "quiet", lambda: True)
        assert made is not None
        return made


@contextmanager
def open_site(spool: Spool) -> Iterator[Site]:
    """A living receiver process of this spool."""
    spool.prepare()
    with alive(spool) as process:
        yield Site(spool, process)

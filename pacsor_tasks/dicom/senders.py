"""Sends what was chosen over an association, and over more of them when the PACS is slow to answer.

A PACS that answers each instance 40 ms late (Nagle's algorithm there, delayed ACKs here: DCMTK and
all that is built on it, as shipped) takes 23 instances a second of an association, however small
they are. Further associations help only then, so only then they are asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import BinaryIO, NamedTuple

import structlog

from pacsor_tasks.dicom.association import Association, Packed, associate
from pacsor_tasks.dicom.data_sets import StoreItem, UnsendableError, opened
from pacsor_tasks.dicom.negotiation import Pair
from pacsor_tasks.dicom.statuses import UNSENDABLE
from pacsor_tasks.dicom.wire import Pacs
from pacsor_tasks.errors import PacsorError, Permanent, Retryable

log = structlog.get_logger(__name__)

Settle = Callable[[StoreItem, int, str | None], None]


#: A PACS that answers later than this on average is slow, seconds.
SLOW_S = 0.02
#: … looked at after so many answers.
SAMPLE = 8
#: An association is worth its negotiation for so many instances.
SHARE = 8


class Hooks(NamedTuple):
    """What the caller does at each instance, in whichever thread."""

    settle: Settle
    #: before it is sent, with no answer outstanding on its association
    before_each: Callable[[], None]


class Jobs:
    """Instances still to be sent, each by an accepted pair; taken by any thread."""

    def __init__(self, jobs: Iterable[tuple[StoreItem, Pair]]) -> None:
        self._jobs = deque(jobs)
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self) -> tuple[StoreItem, Pair] | None:
        """The next one; None when there is none, or the work was given up."""
        if self._error is not None:
            return None
        try:
            return self._jobs.popleft()
        except IndexError:
            return None

    def put_back(self, item: StoreItem, pair: Pair) -> None:
        """What could not be sent here; somebody else sends it."""
        self._jobs.appendleft((item, pair))

    def give_up(self, error: BaseException) -> None:
        """Nobody takes any more."""
        self._error = self._error or error

    def raise_error(self) -> None:
        """Raise what made somebody give up."""
        if self._error is not None:
            raise self._error


def send_all(pacs: Pacs, association: Association, jobs: Jobs, hooks: Hooks) -> None:
    """Send all instances over an association, and up to `pacs.associations` if that is slow.

    Raises:
        PeerUnavailable, BadResponse: As the association; one of the others that fails only ends.
        Retryable: Disk trouble here. Also whatever `hooks.settle` raises, in any thread, and
            `hooks.before_each` in this one.
    """
    helpers: list[_Helper] = []
    try:
        with _Sender(association, hooks) as sender:
            while jobs:
                while job := jobs.take():
                    sender.send(*job)
                    if not helpers and sender.is_slow:
                        n = min(pacs.associations - 1, len(jobs) // SHARE)
                        helpers = [_Helper(pacs, list(association.contexts), jobs, hooks)
                                   for _ in range(n)]  # fmt: skip
                sender.finish()
                for helper in helpers:
                    helper.join()  # what one could not send is back among the jobs
                jobs.raise_error()
    except BaseException as exc:
        jobs.give_up(exc)
        for helper in helpers:
            helper.abandon()
        raise


class _Sender:
    """Sends one instance after the other, each made ready while the one before is answered.

    An instance is settled before the next one goes out, so that who settles it can stop there.
    """

    def __init__(self, association: Association, hooks: Hooks) -> None:
        self._association = association
        self._settle, self._before_each = hooks
        #: sent and not yet answered
        self._awaited: StoreItem | None = None
        #: the data set under way
        self._data: BinaryIO | None = None
        self._n_answers = 0
        self._waited_s = 0.0

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        if self._data is not None:
            self._data.close()

    @property
    def is_slow(self) -> bool:
        """Whether the PACS takes its time to answer."""
        return self._n_answers >= SAMPLE and self._waited_s >= SLOW_S * self._n_answers

    def send(self, item: StoreItem, pair: Pair) -> None:
        """Send an instance, once the one before is settled."""
        if item.transfer_syntax_uid != pair.transfer_syntax_uid:
            self.finish()  # re-encoding may take long: what was answered is not held back by it
        try:
            packed = self._packed(item, pair)
        except UnsendableError as exc:
            self.finish()
            self._settle(item, UNSENDABLE, str(exc))
            return
        self.finish()
        self._before_each()
        self._awaited = item
        self._association.send(packed)

    def finish(self) -> None:
        """Settle what was sent last."""
        if self._awaited is None:
            return
        started = time.monotonic()
        status = self._association.answer()
        self._waited_s += time.monotonic() - started
        self._n_answers += 1
        item, self._awaited = self._awaited, None
        self._settle(item, status, None)

    def _packed(self, item: StoreItem, pair: Pair) -> Packed:
        if self._data is not None:
            self._data.close()
        self._data = data = opened(item, pair.transfer_syntax_uid)
        try:
            size = os.fstat(data.fileno()).st_size - data.tell()
            return self._association.pack(pair, item.sop_instance_uid, data, size)
        except Permanent as exc:
            raise UnsendableError(str(exc)) from exc
        except OSError as exc:
            raise Retryable(f"an instance cannot be read: {exc.strerror}") from exc


class _Helper:
    """A further association in a thread of its own. That it fails is no loss."""

    def __init__(self, pacs: Pacs, pairs: list[Pair], jobs: Jobs, hooks: Hooks) -> None:
        self._pacs = pacs
        self._pairs = pairs
        self._jobs = jobs
        self._hooks = hooks
        self._association: Association | None = None
        #: taken and not settled
        self._taken: list[tuple[StoreItem, Pair]] = []
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has nothing more to do."""
        self._thread.join()

    def abandon(self) -> None:
        """End it at once, whatever it waits for."""
        if self._association is not None:
            self._association.cut()
        self._thread.join(self._pacs.connect_timeout_s)

    def _run(self) -> None:
        try:
            with associate(self._pacs, self._pairs) as association:
                self._association = association
                if set(self._pairs) <= set(association.contexts):
                    self._send(association)
        except PacsorError as exc:
            for item, pair in self._taken:
                self._jobs.put_back(item, pair)
            log.info("store.helper_ended", destination=self._pacs.name, error=str(exc))
        except BaseException as exc:  # noqa: BLE001 - raised where the instances are waited for
            self._jobs.give_up(exc)

    def _send(self, association: Association) -> None:
        with _Sender(association, Hooks(self._settled, self._hooks.before_each)) as sender:
            while job := self._jobs.take():
                self._taken.append(job)
                sender.send(*job)
            sender.finish()

    def _settled(self, item: StoreItem, status: int, why: str | None) -> None:
        self._taken = [job for job in self._taken if job[0] is not item]
        try:
            self._hooks.settle(item, status, why)
        except BaseException as exc:
            # The caller's: the delivery was cancelled, or the ledger is away. All stop.
            self._jobs.give_up(exc)
            raise

"""The ledger: the truth about what was done, what is next, and when."""

from __future__ import annotations

import time

from pacsor_tasks.ledger.choosing import Choice, Choosing, Chosen
from pacsor_tasks.ledger.deliveries import Answer, Deliveries, NewResult
from pacsor_tasks.ledger.engine import migrate, open_engine
from pacsor_tasks.ledger.forgetting import Forgetting
from pacsor_tasks.ledger.gate import Bounds
from pacsor_tasks.ledger.intake import NewInstance, NewRevision, Relaunch, Target
from pacsor_tasks.ledger.peers import Peers
from pacsor_tasks.ledger.relaunches import Relaunches
from pacsor_tasks.ledger.reports import Reports
from pacsor_tasks.ledger.retention import Retention
from pacsor_tasks.ledger.runs import Decided, Runs
from pacsor_tasks.ledger.store import Clock
from pacsor_tasks.ledger.studies import Studies, iso
from pacsor_tasks.ledger.verbs import Verbs

__all__ = [
    "Answer",
    "Bounds",
    "Choice",
    "Chosen",
    "Decided",
    "Ledger",
    "NewInstance",
    "NewResult",
    "NewRevision",
    "Relaunch",
    "Target",
    "iso",
    "migrate",
]


class Ledger:
    """The ledger's parts on one engine.

    Args:
        url: SQLAlchemy URL; the schema is expected to be there (`migrate`).
        clock: Epoch seconds, UTC.

    Raises:
        ConfigError: The URL is not one of a supported database.
    """

    def __init__(self, url: str, clock: Clock = time.time) -> None:
        self.engine = open_engine(url)
        self.clock = clock
        self.intake = Relaunches(self.engine, clock)
        self.runs = Runs(self.engine, clock)
        self.deliveries = Deliveries(self.engine, clock)
        self.studies = Studies(self.engine, clock)
        self.choosing = Choosing(self.engine, clock)
        self.retention = Retention(self.engine, clock)
        self.peers = Peers(self.engine, clock)
        self.reports = Reports(self.engine, clock)
        self.verbs = Verbs(self.engine, clock)
        self.forgetting = Forgetting(self.engine, clock)

    def ping(self) -> None:
        """Prove that the ledger answers; PeerUnavailable if not."""
        self.studies.ping()

    def close(self) -> None:
        """Close the connections; the object stays usable."""
        self.engine.dispose()

"""What the steps are given to work with: plain values and the doors to the outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pacsor_tasks.asides import Asides
from pacsor_tasks.breaker import Breaker, NoBreaker
from pacsor_tasks.core_api import CoreClient, GivesFindings
from pacsor_tasks.dicom.rules import FilterRule
from pacsor_tasks.dicom.scu import Pacs
from pacsor_tasks.dicomweb.stow import StowServer
from pacsor_tasks.folder import Folder
from pacsor_tasks.hl7.kept import Connections
from pacsor_tasks.hl7.kept import Ris as Ris
from pacsor_tasks.hl7.message import MessageOptions
from pacsor_tasks.hl7.report import Report
from pacsor_tasks.ledger import Ledger, Target
from pacsor_tasks.limits import Limiter
from pacsor_tasks.models import DestinationKind, PeerKind, PeerName
from pacsor_tasks.outcomes import RetryPolicy
from pacsor_tasks.spool import Spool
from pacsor_tasks.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import Callable


#: The breaker of an API that is asked for reports only.
TECHCARE = PeerName(PeerKind.CORE, "techcare")


class ReportSource(Protocol):
    """Where reports come from."""

    def report(self, study_uid: str) -> Report | None:
        """The report of a study; None when there is none to come.

        Raises:
            NotReady: It is being written.
            UnknownStudy: Not known, yet or ever.
        """
        ...

    def close(self) -> None:
        """Close the kept connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One AI environment as the steps use it."""

    name: str
    #: for people
    address: str = ""
    client: CoreClient
    #: None: it has no findings for the HL7 message
    findings: GivesFindings | None = None
    #: None: no report of its studies can be had
    reports: ReportSource | None = None
    #: a report is all there is of its studies: every message carries it
    is_reporting: bool = False
    commands: Sequence[str]
    filters: Sequence[FilterRule]
    no_duplicate_upload: bool
    #: query parameters of the result images
    output: Mapping[str, str]
    upload_limit: Limiter
    #: uploads, looks and downloads at once, over all workers; 0: any number
    slots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    """How often a prediction is looked at, seconds."""

    interval_s: float
    max_interval_s: float
    #: running longer than this is told to the operator and polled with backoff
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hl7Content:
    """What goes into the messages."""

    options: MessageOptions
    language: str
    default_issuer: str
    #: None: detections are not included
    detections_command: str | None
    #: None: measures are not included
    measures_command: str | None
    #: how long JSON results may stay `running`, seconds
    results_timeout_s: float
    #: the message carries the TechCare report
    include_report: bool = False
    #: how long a report that nobody knows is waited for, seconds
    report_patience_s: float = 0.0
    #: False: no message is sent
    is_enabled: bool = True
    #: a study without PatientID or AccessionNumber is not sent
    holds_incomplete: bool = False
    #: the message follows the images of its run
    after_images: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything a process has, built once from the settings by `wiring`."""

    spool: Spool
    ledger: Ledger
    cores: Mapping[str, Core]
    targets: Sequence[Target]
    pacs: Mapping[str, Pacs]
    ris: Mapping[str, Ris]
    stow: Mapping[str, StowServer] = field(default_factory=dict)
    folders: Mapping[str, Folder] = field(default_factory=dict)
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    #: how fast each destination is sent to; not there: as fast as it takes it
    limits: Mapping[str, Limiter] = field(default_factory=dict)
    #: by HL7 destination
    hl7: Mapping[str, Hl7Content]
    poll: PollPolicy
    retry: RetryPolicy
    retention_s: float
    #: how long a finished study stays in the ledger after its last event
    ledger_retention_s: float = math.inf
    #: seconds a published message may be under way before the sweep publishes it again
    stale_s: float = 10.0
    breaker: Breaker = field(default_factory=NoBreaker)
    #: a cheap question to each peer; raises when it does not answer
    probes: Mapping[PeerName, Callable[[], None]] = field(default_factory=dict)
    #: does something without holding the caller
    aside: Callable[[Callable[[], None]], None] = field(default=lambda do: do())
    #: what is asked of a peer while another's line waits
    asides: Asides = field(default_factory=Asides)
    #: deliveries to one destination at once, over all workers; 0: any number
    destination_slots: int = 0
    #: connections to the RISs
    mllp: Connections = field(default_factory=Connections)
    #: messages waiting in a queue
    queue_length: Callable[[str], int] = field(default=lambda _queue: 0)

    def file(self, relative: str) -> Path:
        """A path of the ledger as a file of the spool."""
        return self.spool.path(relative)

    def slots_of(self, destination: str) -> int:
        """Deliveries to a destination at once: a RIS gets its messages one after the other."""
        return 1 if destination in self.ris else self.destination_slots

    def slots_of_core(self, core: str) -> int:
        """Uploads, looks and downloads of a core at once; 0: any number."""
        found = self.cores.get(core)
        return found.slots if found is not None else 0

    def kind(self, destination: str) -> DestinationKind | None:
        """What a configured destination speaks; None when it is no longer configured."""
        return next((k for k, names in self._by_kind().items() if destination in names), None)

    @property
    def destinations(self) -> list[str]:
        """Every configured destination, those that take instances first."""
        return [name for names in self._by_kind().values() for name in names]

    def wakes_messages(self, destination: str) -> bool:
        """Whether messages may wait for what is delivered to a destination."""
        kind = self.kind(destination)
        if kind is None or not kind.is_archive:
            return False
        return any(content.after_images for content in self.hl7.values()) or any(
            webhook.after_images for webhook in self.webhooks.values()
        )

    def _by_kind(self) -> dict[DestinationKind, Mapping[str, object]]:
        return {
            DestinationKind.STORESCU: self.pacs,
            DestinationKind.STOW: self.stow,
            DestinationKind.FOLDER: self.folders,
            DestinationKind.HL7: self.ris,
            DestinationKind.WEBHOOK: self.webhooks,
        }

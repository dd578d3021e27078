"""The words of the system as types: states, steps, and the frozen records between modules."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple


class RunState(StrEnum):
    """Where a run stands, as shown to operators and clients."""

    QUEUED = "queued"
    FILTERING = "filtering"
    UPLOADING = "uploading"
    PREDICTING = "predicting"
    DOWNLOADING = "downloading"
    DELIVERING = "delivering"
    DONE = "done"
    FILTERED = "filtered"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """No step of this run will act again by itself."""
        return self in TERMINAL_RUN_STATES


TERMINAL_RUN_STATES = frozenset(
    {RunState.DONE, RunState.FILTERED, RunState.FAILED, RunState.CANCELLED}
)


class Step(StrEnum):
    """The steps of a run in order. `deliver` waits for its deliveries; `end` is after the last."""

    FILTER = "filter"
    UPLOAD = "upload"
    POLL = "poll"
    DOWNLOAD = "download"
    FAN_OUT = "fan_out"
    DELIVER = "deliver"
    CLEANUP = "cleanup"
    END = "end"

    @property
    def position(self) -> int:
        """The step's place in the order, from 0."""
        return STEP_ORDER.index(self)

    @property
    def state(self) -> RunState:
        """The state a run shows while it is at this step."""
        return STEP_STATE[self]

    @property
    def following(self) -> Step:
        """The next step. `end` follows itself."""
        return STEP_ORDER[min(self.position + 1, len(STEP_ORDER) - 1)]


STEP_ORDER: tuple[Step, ...] = tuple(Step)
STEP_STATE: dict[Step, RunState] = {
    Step.FILTER: RunState.FILTERING,
    Step.UPLOAD: RunState.UPLOADING,
    Step.POLL: RunState.PREDICTING,
    Step.DOWNLOAD: RunState.DOWNLOADING,
    Step.FAN_OUT: RunState.DELIVERING,
    Step.DELIVER: RunState.DELIVERING,
    Step.CLEANUP: RunState.DELIVERING,
    Step.END: RunState.DONE,
}


class DeliveryState(StrEnum):
    """Where one run's results to one destination stand."""

    PENDING = "pending"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    QUARANTINED = "quarantined"
    SKIPPED = "skipped"

    @property
    def is_terminal(self) -> bool:
        """Nothing more happens without an operator."""
        return self not in {DeliveryState.PENDING, DeliveryState.RETRYING}


class DestinationKind(StrEnum):
    """What a destination speaks."""

    STORESCU = "storescu"
    HL7 = "hl7"
    #: DICOMweb, STOW-RS
    STOW = "stow"
    #: a directory of files
    FOLDER = "folder"
    #: an event in JSON over HTTP
    WEBHOOK = "webhook"

    @property
    def takes_instances(self) -> bool:
        """It gets the result instances themselves; the others get one message about them."""
        return self in {DestinationKind.STORESCU, DestinationKind.STOW, DestinationKind.FOLDER}

    @property
    def is_archive(self) -> bool:
        """People find images there: messages may wait for it."""
        return self in {DestinationKind.STORESCU, DestinationKind.STOW}

    def can_replace(self, other: DestinationKind) -> bool:
        """Whether what was meant for a destination of the other kind can go to one of this."""
        return self is other or (self.takes_instances and other.takes_instances)


class PeerKind(StrEnum):
    """Whom the gateway talks to on its own account."""

    CORE = "core"
    DESTINATION = "destination"


class PeerState(StrEnum):
    """Whether a peer is talked to."""

    CLOSED = "closed"
    #: it answered a probe: one piece of work at a time finds out whether it is back
    TRIAL = "trial"
    #: it did not answer: left alone but for a probe now and then
    OPEN = "open"
    #: by an operator
    PAUSED = "paused"


class PeerName(NamedTuple):
    """A core or a destination."""

    kind: PeerKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class InstanceOutcome(StrEnum):
    """What one run did with one instance."""

    PENDING = "pending"
    FILTERED = "filtered"
    UPLOADED = "uploaded"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What the gateway needs to know of one instance's header. No patient data."""

    sop_instance_uid: str
    sop_class_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One received instance of a revision, as the ledger holds it."""

    id: int
    revision_id: int
    sop_instance_uid: str
    sop_class_uid: str
    series_uid: str
    transfer_syntax_uid: str
    #: relative to the spool
    path: str
    size_bytes: int
    #: why its header could not be read; None when it could
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One DICOM instance the AI returned for a run."""

    id: int
    run_id: str
    command: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    #: relative to the spool
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of a run's results a delivery is about; what is empty excludes nothing."""

    #: inference commands
    commands: tuple[str, ...] = ()
    #: SOP Class UIDs
    sop_classes: tuple[str, ...] = ()
    #: how the site wrote them: SR, SC, …
    sop_class_names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.commands or self.sop_classes)

    def __str__(self) -> str:
        of = f" of {', '.join(self.commands)}" if self.commands else ""
        return (", ".join(self.sop_class_names or self.sop_classes) or "results") + of

    def takes(self, command: str, sop_class_uid: str) -> bool:
        """Whether it is about a result."""
        return (not self.commands or command in self.commands) and (
            not self.sop_classes or sop_class_uid in self.sop_classes
        )

    def to_json(self) -> str | None:
        """As the ledger keeps it; None when it excludes nothing."""
        if not self:
            return None
        return json.dumps(
            {
                "commands": self.commands,
                "sop_classes": self.sop_classes,
                "sop_class_names": self.sop_class_names,
            }
        )

    @classmethod
    def from_json(cls, text: str | None) -> Selection:
        """The reverse of `to_json`."""
        given: dict[str, Any] = json.loads(text) if text else {}
        return cls(**{name: tuple(given.get(name, ())) for name in cls.__slots__})


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass of one revision through one core. Times are epoch seconds, UTC."""

    id: str
    study_uid: str
    revision_id: int
    core: str
    state: RunState
    step: Step
    #: a relaunch: NO_DUPLICATE_UPLOAD does not apply
    force: bool
    owner: str | None
    lease_until: float
    due_at: float | None
    waiting_for: str | None
    #: tries of the present step in a row that did not end well, this one included
    attempts: int
    #: when the present step began: the retry horizon counts from here, without idle time
    step_since: float
    created_at: float
    finished_at: float | None
    error: str | None
    #: processes in a row that died at this step
    losses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One run's results to one destination. Times are epoch seconds, UTC."""

    #: "<run id>:<destination>"
    id: str
    run_id: str
    study_uid: str
    destination: str
    kind: DestinationKind
    state: DeliveryState
    owner: str | None
    lease_until: float
    #: None until the results are there
    due_at: float | None
    waiting_for: str | None
    #: tries in a row that did not end well, this one included
    attempts: int
    #: since when it is tried, without idle time
    active_since: float | None
    sent: int
    total: int
    #: HL7: MSH-10, made once and kept over retries
    control_id: str | None
    error: str | None
    #: processes in a row that died at it
    losses: int = 0
    #: what of the run's results it is about, as it was decided when the run began
    selection: Selection = EVERYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What is known of a core or destination. Times are epoch seconds, UTC."""

    kind: PeerKind
    name: str
    paused_at: float | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    #: failed tries in a row; a slow one counts more
    strikes: int = 0
    #: since when it is left alone
    opened_at: float | None = None
    #: when it is probed; None while opened: a probe got through
    probe_at: float | None = None
    #: how often it was left alone in a row
    probes: int = 0
    #: what the last failed try said
    error: str | None = None

    @property
    def state(self) -> PeerState:
        """Whether it is talked to; a pause comes first."""
        if self.paused_at is not None:
            return PeerState.PAUSED
        if self.opened_at is None:
            return PeerState.CLOSED
        return PeerState.TRIAL if self.probe_at is None else PeerState.OPEN

"""What the admin application is given; `__main__` makes the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from pacsor_tasks.admin.health import Report
from pacsor_tasks.hl7_config import Hl7Config
from pacsor_tasks.ledger import Relaunch
from pacsor_tasks.ledger.relaunches import Made
from pacsor_tasks.ledger.studies import Studies
from pacsor_tasks.ports import Ports
from pacsor_tasks.receiving import Receiving
from pacsor_tasks.refusals import Refused
from pacsor_tasks.relaunching import Publish


@dataclass(frozen=True, slots=True, kw_only=True)
class Flower:
    """Where the task monitor listens."""

    port: int
    #: it answers on this machine only
    is_loopback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDeps:
    """Everything the routes call."""

    #: what the operator's verbs act on
    ports: Ports
    studies: Studies
    #: what is in the spool but not in the ledger yet
    receiving: Receiving
    #: (study UID, wish, core) → its new runs, as `relaunching.relaunch`
    relaunch: Callable[[str, Relaunch, str | None], Made]
    #: closes a study that is being received; NotFound when none is
    complete: Callable[[str], None]
    health: Callable[[], Report]
    #: publishes new runs; None: to the broker
    publish: Publish | None = None
    #: the effective settings, secrets masked already
    config: Mapping[str, Any] = field(default_factory=dict)
    #: what counts for the HL7 messages, and may be loaded at run time
    hl7_config: Hl7Config | None = None
    #: what is asked of everybody but /healthz; None: open, to this machine only
    token: str | None = None
    #: pause before a wrong token is answered, seconds
    refusal_delay_s: float = 0.5
    allow_get_relaunch: bool = False
    flower: Flower | None = None
    #: the associations that the receiver refused
    refused: Callable[[], Refused] = Refused
    #: where studies are sent, as a person would write it: AE title and port
    receiver: str = "the receiver"


def _deps(request: Request) -> AdminDeps:
    deps: AdminDeps = request.app.state.deps
    return deps


Deps = Annotated[AdminDeps, Depends(_deps)]

"""Every error the gateway raises on purpose. The two middle classes are the retry policy.

    PacsorError
    ├── Retryable(retry_after_s)     try again later; the step keeps its place
    │   ├── NotReady                 the peer is well, its answer is not there yet
    │   ├── RateLimited              a limit says when to come back (HTTP 429, our own limiter)
    │   │   └── OutOfTurn            it is our own: says nothing of the peer we talk to
    │   └── PeerUnavailable          connection, timeout, 5xx, "out of resources"
    │       └── LedgerUnavailable    our own database: says nothing of the peer we talk to
    ├── Permanent                    will fail the same way again: stop and show it to an operator
    │   ├── Rejected                 the peer understood and said no
    │   ├── NotFound                 no such study, run or delivery, or its pixels are gone
    │   ├── Conflict                 an operator's wish that does not fit the state of the work
    │   └── BadResponse              the peer's answer breaks its own contract, or is not ours
    └── ConfigError                  the settings are wrong: names the setting and the value

Foreign errors are translated once, where the I/O happens, with ``raise … from exc``.
Messages carry UIDs, names of settings and status codes; never patient data.
"""

from __future__ import annotations

from typing import ClassVar


class PacsorError(Exception):
    """Base of every error raised on purpose."""

    #: False when the message may quote a peer's free text: it is for the ledger and its readers,
    #: not for logs.
    is_loggable: ClassVar[bool] = True


class Retryable(PacsorError):
    """The same call may succeed later.

    Args:
        message: What happened, for the event log and the status page.
        retry_after_s: The peer's own wish in seconds, if it named one; else the backoff decides.
    """

    #: Tries after which the error counts as permanent; None: only the retry horizon ends it.
    max_attempts: ClassVar[int | None] = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(Retryable):
    """The peer answers, but what we asked for is not there yet."""


class RateLimited(Retryable):
    """A limit, the peer's or ours, asks us to come back later."""


class OutOfTurn(RateLimited):
    """A limit of ours is used up for now: says nothing of the peer."""


class PeerUnavailable(Retryable):
    """The peer cannot be reached, does not answer in time, or is out of resources."""


class LedgerUnavailable(PeerUnavailable):
    """The ledger is locked for too long, full or gone."""


class Permanent(PacsorError):
    """The same call will fail the same way: an operator has to look."""


class Rejected(Permanent):
    """The peer understood the request and refused it."""


class NotFound(Permanent):
    """What was asked for does not exist, or no longer."""


class Conflict(Permanent):
    """What an operator asked for does not fit the present state; the message says which it is."""


class BadResponse(Permanent):
    """The peer's answer is not what its contract promises."""


class ConfigError(PacsorError):
    """A setting is missing or wrong. The message names the setting and what to write instead."""

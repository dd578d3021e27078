"""Events in JSON by HTTP POST: what happened to a study, without patient data by default.

The same bytes are posted until they are taken, so the receiver can tell a repetition: by
`X-Pacsor-Delivery`, which is the event's `id` too. docs/destinations.md has the format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pacsor_tasks.http_out import Endpoint, check, exchange, refusal, session

#: Of the body's form. A receiver that knows this one goes on to work: members are only added.
VERSION = 1
RESULTS = "results.ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A URL that gets events."""

    endpoint: Endpoint
    #: signs each event; None: they are not signed
    secret: bytes | None = field(default=None, repr=False)
    #: of the patient's data, by the names of `StudyMetadata`
    include: tuple[str, ...] = ()
    #: an event follows the images of its run
    after_images: bool = False

    @property
    def name(self) -> str:
        """The destination's name."""
        return self.endpoint.name

    def __str__(self) -> str:
        return str(self.endpoint)


def encoded(event: Mapping[str, Any]) -> bytes:
    """An event as it is posted."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def post(
    to: Webhook, event: str, delivery_id: str, body: bytes, clock: Callable[[], float] = time.time
) -> int:
    """Post an event; the status of the answer.

    Args:
        to: Where to.
        event: Its name.
        delivery_id: The same for each repetition.
        body: From `encoded`.
        clock: Epoch seconds, for the signature.

    Raises:
        PeerUnavailable: No connection, no answer in time, 408, 425, 5xx.
        RateLimited: 429.
        Rejected: Any other 4xx.
        BadResponse: Something else answers there.
    """
    headers = {
        "Content-Type": "application/json",
        "X-Pacsor-Event": event,
        "X-Pacsor-Delivery": delivery_id,
    }
    if to.secret is not None:
        headers["X-Pacsor-Signature"] = signature(to.secret, int(clock()), body)
    with session(to.endpoint) as opened:
        answer = exchange(opened, to.endpoint, "POST", to.endpoint.url, headers=headers, data=body)
    if not 200 <= answer.status < 300:
        raise refusal(to.endpoint, answer)
    return answer.status


def signature(secret: bytes, at: int, body: bytes) -> str:
    """`t=<epoch seconds>,v1=<hex>`: HMAC-SHA256 over the time, a full stop, and the body.

    The time is signed so that an old event cannot be posted again by somebody who saw it.
    """
    digest = hmac.new(secret, b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def probe(to: Webhook) -> None:
    """Prove that a server answers there and lets us in. It need not know the method HEAD.

    Raises:
        PeerUnavailable: It does not answer, or not well.
        Rejected: It does not let us in.
    """
    check(to.endpoint, "HEAD", to.endpoint.url)

"""Probes: the sweep asks peers that are left alone whether they answer, beside its own work."""

from __future__ import annotations

import structlog

from pacsor_tasks.errors import PacsorError, PeerUnavailable, RateLimited
from pacsor_tasks.models import PeerName
from pacsor_tasks.ports import Ports

log = structlog.get_logger(__name__)

#: Probes of this process that have not come back. A peer gets no second one: a folder or a package
#: that hangs would cost a thread each time.
_under_way: set[PeerName] = set()


def start_probes(ports: Ports) -> int:
    """Start the probes that are due, each aside: a peer that keeps silent must not hold the sweep.

    Returns:
        How many were started.
    """
    due = ports.ledger.peers.take_probes()
    started = [peer for peer in due if peer not in _under_way]
    for peer in started:
        _under_way.add(peer)
        ports.aside(lambda peer=peer: _probe(peer, ports))  # type: ignore[misc] # mypy infers no lambda default
    return len(started)


def _probe(peer: PeerName, ports: Ports) -> None:
    try:
        probe(peer, ports)
    finally:
        _under_way.discard(peer)


def probe(peer: PeerName, ports: Ports) -> None:
    """Ask one peer, and note what it said. A refusal is an answer too."""
    error = None
    ask = ports.probes.get(peer)
    try:
        if ask is not None:  # else it is configured no more: let its work find that out
            ask()
    except (PeerUnavailable, RateLimited) as exc:
        error = str(exc)
    except PacsorError as exc:
        log.info("probe.refused", peer=str(peer), error_type=type(exc).__name__)
    try:
        ports.ledger.peers.probed(peer, error)
    except PeerUnavailable as exc:
        log.warning("probe.not_noted", peer=str(peer), error=str(exc))
    log.info("probe.made", peer=str(peer), answers=error is None)

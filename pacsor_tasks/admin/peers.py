"""Cores and destinations as programs and pages see them: whether each is talked to, and why not."""

from __future__ import annotations

from typing import Any

from pacsor_tasks.ledger import iso
from pacsor_tasks.models import DestinationKind, Peer, PeerKind, PeerName, PeerState
from pacsor_tasks.operations import configured
from pacsor_tasks.ports import Ports

Json = dict[str, Any]


def listing(ports: Ports) -> list[Json]:
    """Every configured core and destination, and every other that still holds work up.

    Raises:
        PeerUnavailable: The ledger does not answer.
    """
    known = ports.ledger.peers.all()
    names = configured(ports)
    names += [p for p in known if p not in names and known[p].state is not PeerState.CLOSED]
    work = ports.ledger.peers.waiting(names)
    return [_entry(known.get(p) or Peer(kind=p.kind, name=p.name), work[p], ports) for p in names]


def unwell(entries: list[Json]) -> list[Json]:
    """Those that are not talked to as usual."""
    return [entry for entry in entries if entry["state"] != PeerState.CLOSED]


def reroutes(ports: Ports, run: Json, delivery: Json) -> list[str]:
    """Destinations that a delivery of a run may be sent to instead."""
    taken = {d["destination"] for d in run["deliveries"] if d["state"] != "skipped"}
    kind = DestinationKind(delivery["kind"])
    others = ((name, ports.kind(name)) for name in ports.destinations if name not in taken)
    return [name for name, other in others if other is not None and other.can_replace(kind)]


def _entry(peer: Peer, work: dict[str, int], ports: Ports) -> Json:
    name = PeerName(peer.kind, peer.name)
    is_paused = peer.state is PeerState.PAUSED
    return {
        "kind": name.kind,
        "name": name.name,
        "address": _address(name, ports),
        "state": peer.state,
        "since": iso(peer.paused_at if is_paused else peer.opened_at),
        "by": peer.paused_by,
        "reason": peer.pause_reason if is_paused else peer.error if peer.opened_at else None,
        "next_probe_at": iso(peer.probe_at) if peer.state is PeerState.OPEN else None,
        "waiting": work["waiting"],
        "in_work": work["in_work"],
        "quarantined": work.get("quarantined", 0),
    }


def _address(name: PeerName, ports: Ports) -> str | None:
    if name.kind is PeerKind.CORE:
        core = ports.cores.get(name.name)
        return core.address if core else None
    if pacs := ports.pacs.get(name.name):
        return f"{pacs.called_aet} at {pacs.host}:{pacs.port}"
    if ris := ports.ris.get(name.name):
        return f"MLLP at {ris.host}:{ris.port}"
    if server := ports.stow.get(name.name):
        return f"DICOMweb at {server.endpoint.url}"
    if folder := ports.folders.get(name.name):
        return f"directory {folder.path}"
    webhook = ports.webhooks.get(name.name)
    return f"events to {webhook.endpoint.url.partition('?')[0]}" if webhook else None

"""Prometheus metrics, read from the ledger and the health report when asked for."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pacsor_tasks import __version__
from pacsor_tasks.admin import peers
from pacsor_tasks.admin.deps import AdminDeps
from pacsor_tasks.admin.health import Report
from pacsor_tasks.arrivals import Arrival, ArrivalState
from pacsor_tasks.errors import PacsorError
from pacsor_tasks.models import DeliveryState, PeerState
from pacsor_tasks.refusals import Reason, Refused


def registry(deps: AdminDeps, clock: Callable[[], float] = time.time) -> CollectorRegistry:
    """A registry of its own with everything the gateway tells about itself."""
    own = CollectorRegistry(auto_describe=False)
    own.register(_Gateway(deps, clock))
    return own


class _Gateway(Collector):
    def __init__(self, deps: AdminDeps, clock: Callable[[], float]) -> None:
        self._deps = deps
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "pacsor_build",
            "Version of the gateway",
            value={"version": __version__, "python": platform.python_version()},
        )
        yield from _from_report(self._deps.health())
        yield from _from_spool(self._deps.receiving.arrivals())
        yield _refused(self._deps.refused())
        try:
            counts = self._deps.studies.counts()
            oldest_at = self._deps.studies.oldest_unfinished_at()
            everybody = peers.listing(self._deps.ports)
        except PacsorError:
            return  # pacsor_ledger_up says so; absent series are no zeros
        yield _gauge("pacsor_runs", "Runs by state", "state", counts["runs"])
        yield _deliveries(counts["deliveries"])
        yield from _peers(everybody)
        yield GaugeMetricFamily(
            "pacsor_oldest_unfinished_run_age_seconds",
            "Age of the oldest run that is not finished; 0 when all are",
            value=max(0.0, self._clock() - oldest_at) if oldest_at is not None else 0,
        )


def _from_report(report: Report) -> Iterator[Metric]:
    for name, check in report.checks.items():
        yield GaugeMetricFamily(f"pacsor_{name}_up", f"Whether {name} is well", value=check.ok)
    redis = report.checks.get("redis")
    if redis is not None and redis.ok:
        yield _gauge("pacsor_queue_length", "Messages waiting, by queue", "queue", redis.values)
    disk = report.checks.get("disk")
    for key in ("free_bytes", "total_bytes"):
        if disk is not None and key in disk.values:
            yield GaugeMetricFamily(
                f"pacsor_spool_{key}", "Room on the spool's disk", value=disk.values[key]
            )
    workers = report.checks.get("workers")
    if workers is not None and "count" in workers.values:
        yield GaugeMetricFamily(
            "pacsor_workers", "Workers that answer a ping", value=workers.values["count"]
        )


def _from_spool(arrivals: Sequence[Arrival]) -> Iterator[Metric]:
    n_stable = sum(a.state is ArrivalState.STABLE for a in arrivals)
    yield GaugeMetricFamily(
        "pacsor_studies_receiving",
        "Studies that are received and not closed yet",
        value=len(arrivals) - n_stable,
    )
    yield GaugeMetricFamily(
        "pacsor_outbox_revisions", "Revisions that no worker has recorded yet", value=n_stable
    )


def _peers(everybody: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    away, paused, waiting = {}, {}, {}
    for entry in everybody:
        # The two kinds may share a name.
        name = f"{entry['kind']} {entry['name']}"
        away[name] = float(entry["state"] in {PeerState.OPEN, PeerState.TRIAL})
        paused[name] = float(entry["state"] == PeerState.PAUSED)
        waiting[name] = float(entry["waiting"])
    yield _gauge("pacsor_breaker_open", "1 while a peer is left alone or on trial", "peer", away)
    yield _gauge("pacsor_peer_paused", "1 while an operator has paused it", "peer", paused)
    yield _gauge("pacsor_peer_waiting", "Work that waits for a peer", "peer", waiting)


def _refused(found: Refused) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "pacsor_associations_rejected", "Associations that were refused", labels=["reason"]
    )
    for reason in Reason:
        family.add_metric([reason], found.totals.get(reason, 0))
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _deliveries(counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "pacsor_deliveries",
        "Deliveries by destination and state",
        labels=["destination", "state"],
    )
    destinations = dict.fromkeys(key.rpartition("/")[0] for key in counts)
    for destination in destinations:
        for state in DeliveryState:
            family.add_metric([destination, state], counts.get(f"{destination}/{state}", 0))
    return family

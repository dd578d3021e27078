"""Whether what the gateway depends on is well: probes side by side, cached, with a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pacsor_tasks.errors import PacsorError

#: How long one report waits for a probe that does not come back, seconds.
TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one probe found. No patient data, no secret, no path: /healthz shows it to anybody."""

    ok: bool
    detail: str
    #: numbers for metrics and pages, by name
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The checks by the name of the dependency."""

    checks: Mapping[str, Check]

    @property
    def down(self) -> list[str]:
        """Names of what is not well."""
        return [name for name, check in self.checks.items() if not check.ok]

    def to_json(self) -> dict[str, Any]:
        """The body of /healthz."""
        body: dict[str, Any] = {"status": "down" if self.down else "ok"}
        if self.down:
            body["down"] = self.down
        body["checks"] = {
            name: {"ok": check.ok, "detail": check.detail, **check.values}
            for name, check in self.checks.items()
        }
        return body


class Probe(NamedTuple):
    """How one dependency is checked."""

    run: Callable[[], Check]
    #: for so many seconds an answer counts
    ttl_s: float
    #: for so many more it is given while a new one is being fetched: for slow probes
    stale_s: float = 0.0


class Health:
    """Runs each probe at most once per its lifetime, however many ask.

    Args:
        probes: By the name of the dependency.
        timeout_s: Longest wait for an answer, over all probes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = {name: _Runner(probe, timeout_s, clock) for name, probe in probes.items()}

    def __call__(self) -> Report:
        """The present report; a probe that hangs counts as down and is not started twice."""
        for runner in self._probes.values():
            runner.refresh()
        return Report({name: runner.answer() for name, runner in self._probes.items()})


class _Runner:
    """One probe and its last answer. Its thread is a daemon: a hung one must not hold the exit."""

    def __init__(self, probe: Probe, timeout_s: float, clock: Callable[[], float]) -> None:
        self._probe = probe
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._started_at = self._answered_at = float("-inf")
        self._is_running = False
        self._last = Check(ok=False, detail="not checked yet")

    def refresh(self) -> None:
        with self._lock:
            if self._is_running or self._age() < self._probe.ttl_s:
                return
            self._is_running = True
            self._started_at = self._clock()
            self._answered.clear()
        threading.Thread(target=self._run, daemon=True, name="health").start()

    def answer(self) -> Check:
        if self._age() < self._probe.ttl_s + self._probe.stale_s:
            return self._last
        overdue_at = self._started_at + self._timeout_s
        if self._answered.wait(max(0.0, overdue_at - self._clock())):
            return self._last
        return Check(ok=False, detail=f"no answer within {self._timeout_s:g} s")

    def _age(self) -> float:
        return self._clock() - self._answered_at

    def _run(self) -> None:
        check = Check(ok=False, detail="the check itself failed")
        try:
            check = self._probe.run()
        except PacsorError as exc:
            check = Check(ok=False, detail=str(exc))
        finally:
            with self._lock:
                self._last = check
                self._answered_at = self._clock()
                self._is_running = False
                self._answered.set()

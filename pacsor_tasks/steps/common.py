"""What several steps need."""

from __future__ import annotations

from pacsor_tasks.errors import ConfigError
from pacsor_tasks.models import Run
from pacsor_tasks.ports import Core, Ports


def core_of(run: Run, ports: Ports) -> Core:
    """The run's core.

    Raises:
        ConfigError: It is no longer configured.
    """
    core = ports.cores.get(run.core)
    if core is None:
        raise ConfigError(f"core {run.core} is not configured (ADDITIONAL_CORES)")
    return core

"""From a PACSOR installation to the gateway's own configuration.

Env files themselves are read and written by `pacsor_tasks.env_file`.
"""

from pacsor_tasks.migration.config_file import read_config
from pacsor_tasks.migration.filters import Filters, repaired
from pacsor_tasks.migration.install import Install, find
from pacsor_tasks.migration.outcome import Plan
from pacsor_tasks.migration.plan import make_plan
from pacsor_tasks.migration.report import report
from pacsor_tasks.migration.writing import write_plan

__all__ = [
    "Filters",
    "Install",
    "Plan",
    "find",
    "make_plan",
    "read_config",
    "repaired",
    "report",
    "write_plan",
]
